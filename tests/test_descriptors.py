"""Descriptors: against closed forms and plain formulas, on oblique anisotropic grids."""

from itertools import combinations

import numpy as np
import pytest
import torch

from hybridreg.config import build
from hybridreg.descriptors.gradient import Gradient
from hybridreg.descriptors.intensity import Intensity
from hybridreg.descriptors.mind import Mind
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.kernels.compiled import torch_only
from hybridreg.phantoms import blobs
from hybridreg.registry import DESCRIPTORS
from hybridreg.testing import DESCRIPTOR_CHECKS, check_descriptor

NEED_A_FILE = ("pca", "autoencoder", "anatomy", "torchscript")  # see test_learned_descriptors


def oblique(dimension: int) -> Grid:
    return blobs(dimension=dimension).pair.fixed.grid


def noise(dimension: int, seed: int = 0) -> Image:
    grid = oblique(dimension)
    generator = torch.Generator().manual_seed(seed)
    return Image(torch.rand(grid.shape, generator=generator), grid)


@pytest.mark.parametrize("check", DESCRIPTOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [n for n in DESCRIPTORS if n not in NEED_A_FILE])
def test_every_descriptor_keeps_the_contract(name, check):
    check(DESCRIPTORS[name]())


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_gradient_of_a_ramp_is_its_direction_in_space(dimension):
    grid = oblique(dimension)
    slope = torch.tensor([0.3, -0.5, 0.7][:dimension], dtype=torch.float64)
    found = Gradient(noise=0.5)(Image(grid.points() @ slope, grid)).data
    expected = slope / (slope.norm() * np.sqrt(1 + 0.5**2))
    expected = expected.float().reshape(-1, *[1] * dimension).expand_as(found)
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_gradient_of_a_ball_points_at_its_center():
    grid = oblique(3)
    outward = grid.points() - grid.center
    distance = outward.norm(dim=-1)
    found = Gradient(noise=1e-6)(Image((-distance.square() / 200).exp(), grid)).data
    apart = (found + (outward / distance[..., None]).movedim(-1, 0)).norm(dim=0)
    assert apart[distance > 5].mean() < 0.05


@pytest.mark.parametrize("factor", [1000.0, -3.0])
@pytest.mark.parametrize("dimension", [2, 3])
def test_brightness_and_contrast_do_not_matter(dimension, factor):
    image = noise(dimension)
    other = Image(factor * image.data + 40.0, image.grid)
    assert torch.allclose(Mind()(image).data, Mind()(other).data, atol=1e-3)
    assert torch.allclose(
        np.sign(factor) * Gradient()(image).data, Gradient()(other).data, atol=1e-3
    )
    if factor > 0:
        assert torch.allclose(Intensity()(image).data, Intensity()(other).data, atol=1e-3)


@pytest.mark.parametrize("descriptor", [Gradient(), Mind()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("value", [0.0, -1024.0])
def test_a_constant_image_has_finite_descriptors_all_alike(descriptor, value):
    grid = oblique(3)
    data = descriptor(Image(torch.full(grid.shape, value), grid)).data
    assert torch.isfinite(data).all() and torch.equal(data, data[:, :1, :1, :1].expand_as(data))


def test_a_constant_image_cannot_be_scaled_and_says_so():
    grid = oblique(2)
    with pytest.raises(ValueError, match="it is constant"):
        Intensity()(Image(torch.ones(grid.shape), grid))


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize(("radius", "dilation"), [(0, 1), (1, 2), (2, 1)])
def test_mind_is_the_published_formula(dimension, radius, dilation):
    values = noise(dimension, seed=1)
    image = values.data[0].double().numpy()
    border = radius + dilation
    inner = tuple(slice(border, n - border) for n in image.shape)
    steps = [
        s * dilation * np.eye(dimension, dtype=int)[a] for a in range(dimension) for s in (-1, 1)
    ]
    pairs = [(a, b) for a, b in combinations(steps, 2) if abs(a @ b) == 0]
    assert len(pairs) == {2: 4, 3: 12}[dimension]
    window = (
        np.stack(np.meshgrid(*[np.arange(-radius, radius + 1)] * dimension))
        .reshape(dimension, -1)
        .T
    )

    def at(step):
        return np.roll(image, tuple(-step), tuple(range(dimension)))

    distances = [
        np.mean([(at(a + w) - at(b + w)) ** 2 for w in window], axis=0)[inner] for a, b in pairs
    ]
    distances = np.stack(distances) - np.min(distances, axis=0)
    expected = np.exp(-distances / distances.mean(0))
    expected /= np.linalg.norm(expected, axis=0)
    found = Mind(radius, dilation)(values).data[(slice(None), *inner)].numpy()
    # The order of channels is of no account where both images have the same.
    assert np.allclose(np.sort(found, 0), np.sort(expected, 0), atol=1e-4)


@pytest.mark.parametrize("shape", [(9, 11, 13), (4, 5, 4), (20, 31)])
@pytest.mark.parametrize(("radius", "dilation"), [(0, 1), (1, 2), (2, 6)])
def test_the_kernel_of_mind_agrees_with_torch_to_the_border(shape, radius, dilation):
    image = Image(torch.rand(shape, generator=torch.Generator().manual_seed(2)), Grid(shape))
    found = Mind(radius, dilation)(image).data
    with torch_only():
        assert torch.allclose(found, Mind(radius, dilation)(image).data, atol=1e-5)


def test_mind_has_unit_norm_so_half_its_mean_square_is_its_correlation():
    a, b = (Mind()(noise(3, seed)).data for seed in (2, 3))
    assert torch.allclose(a.norm(dim=0), torch.ones(a.shape[1:]), atol=1e-5)
    square, correlation = (a - b).square().sum(0), (a * b).sum(0)
    assert torch.allclose(square, 2 - 2 * correlation, atol=1e-5)


def test_mind_sees_two_contrasts_alike_where_intensities_do_not():
    case = blobs(dimension=3)
    image = case.pair.fixed
    other = Image((2 - image.data).square(), image.grid)
    apart = (Mind()(image).data - Mind()(other).data).abs().mean()
    moved = Image(image.data.roll(4, -1), image.grid)
    assert apart < 0.5 * (Mind()(image).data - Mind()(moved).data).abs().mean()


@pytest.mark.parametrize("name", ["gradient", "mind"])
def test_channels_are_described_each_by_itself(name):
    descriptor, (a, b) = DESCRIPTORS[name](), (noise(2, 0), noise(2, 1))
    both = descriptor(Image(torch.cat([a.data, b.data]), a.grid)).data
    assert torch.equal(both, torch.cat([descriptor(a).data, descriptor(b).data]))


def test_a_table_builds_a_descriptor_with_its_fields():
    assert build({"name": "mind", "radius": 2}, DESCRIPTORS) == Mind(radius=2)
    with pytest.raises(ValueError, match="'radios'; did you mean 'radius'"):
        build({"name": "mind", "radios": 2}, DESCRIPTORS)
    for wrong in ({"name": "mind", "dilation": 0}, {"name": "gradient", "noise": 0.0}):
        with pytest.raises(ValueError, match="found"):
            build(wrong, DESCRIPTORS)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda i: Image(i.data, Grid(i.grid.shape)), "another grid"),
        (lambda i: Image(i.data / 0, i.grid), "not finite"),
        (lambda i: Image(i.data.add_(1), i.grid), "changed an image"),
        (lambda i: Image(torch.rand(i.data.shape), i.grid), "twice"),
        (lambda i: Image(i.data * i.grid.points()[..., 0], i.grid), "does not follow"),
        (lambda i: Image(torch.zeros(i.data.shape), i.grid), "same everywhere"),
    ],
)
def test_a_descriptor_that_breaks_a_promise_is_named(wrong, says):
    with pytest.raises(AssertionError, match=says):
        check_descriptor(wrong)
