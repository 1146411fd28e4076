"""The siamese network against the published algorithm written out step by step in numpy."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from skimage import io

from hybridreg.fusion import FusionNetwork, fuse, network_arrays, network_from_arrays
from hybridreg.fusion.network import pooled, weigh_slices, weigh_volume
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.progress import listening


def random_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights that keep the size of the features and give scores of a few units."""
    rng = np.random.default_rng(seed)

    def he(*shape):
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

    return {
        "conv1": he(64, 1, 3, 3),
        "conv1_bias": rng.normal(0, 0.05, 64).astype(np.float32),
        "conv2": he(128, 64, 3, 3),
        "conv2_bias": rng.normal(0, 0.05, 128).astype(np.float32),
        "conv3": he(256, 128, 3, 3),
        "conv3_bias": rng.normal(0, 0.05, 256).astype(np.float32),
        "scores": 8 * he(2, 512, 8, 8),
    }


def same_convolution(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
    out = np.tensordot(kernel.astype(float), windows, ([1, 2, 3], [0, 3, 4]))
    return np.maximum(out + bias[:, None, None], 0)


def literal_features(image: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    x = same_convolution(image[None], arrays["conv1"], arrays["conv1_bias"])
    x = same_convolution(x, arrays["conv2"], arrays["conv2_bias"])
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)))
    x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
    return same_convolution(x, arrays["conv3"], arrays["conv3_bias"])


def literal_weights(a: np.ndarray, b: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Patch by patch: score, softmax, spread over 16 x 16 pixels, sum / count."""
    both = np.concatenate([literal_features(a, arrays), literal_features(b, arrays)])
    total, count = np.zeros(a.shape), np.zeros(a.shape)
    for i in range(both.shape[1] - 7):
        for j in range(both.shape[2] - 7):
            patch = both[:, i : i + 8, j : j + 8]
            scores = np.exp([(kernel * patch).sum() for kernel in arrays["scores"].astype(float)])
            place = np.s_[2 * i : 2 * i + 16, 2 * j : 2 * j + 16]  # numpy clips at the border
            total[place] += scores[1] / scores.sum()
            count[place] += 1
    return total / count


@pytest.mark.parametrize("shape", [(16, 16), (17, 16), (16, 19), (15, 21)])
def test_pooling_is_that_of_torch_at_even_and_odd_ends(shape):
    features = torch.rand(2, 3, *shape).contiguous(memory_format=torch.channels_last)
    expected = torch.nn.functional.max_pool2d(features, 2, ceil_mode=True)
    assert torch.equal(pooled(features), expected)


KERNEL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def correlate(x: np.ndarray, kernel: np.ndarray, mode: str) -> np.ndarray:
    r = len(kernel) // 2
    return (sliding_window_view(np.pad(x, r, mode=mode), kernel.shape) * kernel).sum((2, 3))


def literal_up(x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    padded = np.pad(x, 1, mode="edge")
    wide = np.zeros((2 * padded.shape[0], 2 * padded.shape[1]))
    wide[::2, ::2] = 4 * padded
    wide = correlate(wide, KERNEL, "constant")
    return wide[2 : 2 + shape[0], 2 : 2 + shape[1]]


def literal_pyramids(x: np.ndarray, levels: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    gaussian = [x]
    while len(gaussian) < levels:
        gaussian.append(correlate(gaussian[-1], KERNEL, "symmetric")[::2, ::2])
    laplacian = [g - literal_up(h, g.shape) for g, h in pairwise(gaussian)]
    return gaussian, [*laplacian, gaussian[-1]]


def literal_fusion(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    levels = int(np.floor(np.log2(min(a.shape))))
    _, bands_a = literal_pyramids(a, levels)
    _, bands_b = literal_pyramids(b, levels)
    weights, _ = literal_pyramids(weight, levels)
    fused = []
    for p, q, w in zip(bands_a, bands_b, weights, strict=True):
        energy_p, energy_q, product = (
            correlate(x, np.ones((3, 3)), "reflect") for x in (p * p, q * q, p * q)
        )
        match = 2 * product / (energy_p + energy_q + np.finfo(float).eps)
        stronger = np.where(energy_p > energy_q, p, q)
        fused.append(np.where(match > 0.6, w * p + (1 - w) * q, stronger))
    out = fused[-1]
    for level in reversed(fused[:-1]):
        out = literal_up(out, level.shape) + level
    return np.clip(out, 0, 1)


def partly_alike(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gray levels of 256; somewhat the same structure, somewhat each its own."""
    rng = np.random.default_rng(seed)

    def structure():
        return correlate(rng.random(shape), KERNEL, "symmetric")

    common, edge = structure(), np.linspace(0, 1, shape[1])[None] > 0.55
    a = common + 0.5 * structure() + 0.3 * edge
    b = common + 0.5 * structure() + 0.1 * rng.random(shape) * edge
    return tuple(np.round(255 * (x - x.min()) / np.ptp(x)) / 255 for x in (a, b))


def image_of(array: np.ndarray) -> Image:
    return Image(torch.from_numpy(array).float(), Grid(array.shape))


@pytest.mark.parametrize("shape", [(32, 32), (37, 45), (16, 40), (41, 64), (15, 17)])
def test_the_published_rule_gives_the_result_of_the_algorithm_written_out(shape):
    arrays = random_arrays()
    a, b = partly_alike(shape, seed=sum(shape))
    weight = literal_weights(a, b, arrays)
    assert min(shape) < 30 or np.ptp(weight) > 0.2  # the weights say something
    found = fuse(image_of(a), image_of(b), rule="liu-2017", network=network_from_arrays(arrays))
    # Float32 against float64: a few roundings of features of some hundred terms each.
    np.testing.assert_allclose(found.weight.data[0], weight, atol=2e-5)
    np.testing.assert_allclose(found.image.data[0], literal_fusion(a, b, weight), atol=2e-5)


def test_a_ct_and_an_mr_slice_are_fused_to_the_gray_level(data):
    folder = data / "harvard_aanlib" / "CT-MRI"
    name = sorted(p.name for p in (folder / "CT").glob("2???.png"))[8]
    a, b = (io.imread(folder / kind / name)[60:181, 50:178] / 255 for kind in ("CT", "MRI"))
    arrays = random_arrays(3)
    wanted = literal_fusion(a, b, literal_weights(a, b, arrays))
    found = fuse(image_of(a), image_of(b), rule="liu-2017", network=network_from_arrays(arrays))
    levels = (255 * found.image.data[0].numpy()).round(), (255 * wanted).round()
    assert (levels[0] == levels[1]).mean() > 0.9999  # a half may round up here and down there
    assert np.abs(levels[0] - levels[1]).max() <= 1


def test_strips_of_a_large_image_join_without_a_seam(monkeypatch):
    network = network_from_arrays(random_arrays(1))
    a, b = (torch.from_numpy(x).float() for x in partly_alike((101, 63), seed=5))
    whole = network.weight_map(a, b)
    monkeypatch.setattr("hybridreg.fusion.network._STRIP_PIXELS", 1)
    assert torch.allclose(network.weight_map(a, b), whole, atol=1e-6)


def test_the_map_of_one_patch_is_the_softmax_of_the_scores_that_training_sees():
    network = network_from_arrays(random_arrays(2))
    a, b = (torch.from_numpy(x).float() for x in partly_alike((16, 16), seed=6))
    scores = network(a[None, None], b[None, None])
    assert scores.shape == (1, 2, 1, 1)
    wanted = torch.softmax(scores, 1)[0, 1, 0, 0].item()
    assert torch.allclose(network.weight_map(a, b), torch.tensor(wanted), atol=1e-6)


def test_weights_go_in_and_come_out_unchanged():
    arrays = random_arrays(4)
    back = network_arrays(network_from_arrays(arrays))
    assert set(back) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(back[name], values)


def test_arrays_that_do_not_fit_are_refused_by_name():
    arrays = random_arrays()
    with pytest.raises(ValueError, match="scores needs shape .2, 512, 8, 8., found .512, 2, 8, 8."):
        network_from_arrays(arrays | {"scores": arrays["scores"].swapaxes(0, 1)})
    with pytest.raises(ValueError, match="conv2_bias has values that are NaN"):
        network_from_arrays(arrays | {"conv2_bias": np.full(128, np.nan)})
    del arrays["conv3"]
    with pytest.raises(ValueError, match="the network needs conv1, .* found"):
        network_from_arrays(arrays)


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="only 30 x 12: use a rule without a network"):
        FusionNetwork().weight_map(torch.rand(12, 30), torch.rand(12, 30))


class Ramp:
    """Stands for a network: a weight that tells where in the slice a pixel is."""

    def weight_map(self, fixed, moved):
        rows, columns = fixed.shape
        return torch.linspace(0, 1, columns).expand(rows, columns) * fixed.max()


def test_each_slice_of_a_stack_is_weighed_by_itself_and_empty_ones_by_a_half():
    stack = torch.ones(3, 20, 30) * torch.tensor([0.0, 0.5, 1.0])[:, None, None]
    reports = []
    with listening(lambda fraction, doing: reports.append(fraction)):
        weights = weigh_slices(Ramp(), stack, stack)
    assert (weights[0] == 0.5).all()
    assert torch.allclose(weights[1, 3], torch.linspace(0, 0.5, 30))
    assert torch.allclose(weights[2, 7], torch.linspace(0, 1, 30))
    assert reports == sorted(reports) and len(reports) == 3


def test_the_weights_of_a_volume_are_the_mean_over_slices_across_three_axes():
    volume = torch.ones(16, 20, 30)
    x, y = torch.linspace(0, 1, 30), torch.linspace(0, 1, 20)
    wanted = (2 * x[None, None] + y[None, :, None]) / 3  # across z and y the ramp is along x
    assert torch.allclose(
        weigh_volume(Ramp(), volume, volume), wanted.expand(16, 20, 30), atol=1e-6
    )


def test_slices_smaller_than_a_patch_take_no_part_in_a_volume():
    thin = torch.ones(5, 20, 30)
    assert torch.allclose(weigh_volume(Ramp(), thin, thin)[2, 3], torch.linspace(0, 1, 30))
    with pytest.raises(ValueError, match="no slice of a volume of 9 x 30 x 5 voxels is that large"):
        weigh_volume(Ramp(), torch.ones(5, 30, 9), torch.ones(5, 30, 9))
