"""Measures of dissimilarity: against plain formulas, and their gradients against differences."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import mutual_info_score

from hybridreg.registry import MEASURES
from hybridreg.similarity import LNCC, MI, NCC, SSD, Mixed, box_sum
from hybridreg.testing import MEASURE_CHECKS, check_measure


def images(*shape, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, channels, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("radius", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(9, 11), (9, 8, 10)])
def test_box_sums_agree_with_convolution(shape, radius):
    values = images(*shape)[0]
    for channel, found in zip(values, box_sum(values, radius), strict=True):
        expected = channel.numpy()
        for axis in range(len(shape)):
            ones = np.ones(2 * radius + 1)
            expected = ndimage.correlate1d(expected, ones, axis, mode="constant")
        assert np.allclose(found, expected)


def test_ssd_and_ncc_are_their_formulas():
    fixed, moved, weight = images(6, 7)
    weight = weight[0]
    difference = ((fixed - moved) ** 2 * weight).sum() / (2 * weight.sum())
    assert SSD()(fixed, moved, weight).item() == pytest.approx(difference.item() / 2)
    correlations = [np.corrcoef(f.ravel(), m.ravel())[0, 1] for f, m in zip(fixed, moved)]
    assert NCC()(fixed, moved).item() == pytest.approx(1 - np.mean(correlations))


def test_local_correlation_is_that_of_each_window():
    fixed, moved, _ = images(8, 9, channels=1)
    radius, noise = 2, 0.05
    squares = []
    for y in range(8):
        for x in range(9):
            window = slice(max(y - radius, 0), y + 3), slice(max(x - radius, 0), x + 3)
            f, m = (image[0][window] - image[0][window].mean() for image in (fixed, moved))
            spread = (f * f).mean() * (m * m).mean() + noise**4
            squares.append((f * m).mean() ** 2 / spread)
    expected = 1 - torch.stack(squares).mean()
    assert LNCC(radius, noise)(fixed, moved).item() == pytest.approx(expected.item())


def test_local_correlation_does_not_see_a_change_of_brightness_and_contrast():
    fixed, moved, _ = images(12, 13, 10, channels=1)
    measure = LNCC(2, 1e-4)
    assert measure(fixed, 3 * fixed - 1).item() == pytest.approx(0, abs=1e-6)
    assert measure(fixed, 2 - moved).item() == pytest.approx(measure(fixed, moved).item())


def test_mutual_information_nears_that_of_bins():
    """Splines blur the histogram of the moved image over four bins, so only about."""
    generator = torch.Generator().manual_seed(1)
    fixed = torch.rand(1, 60, 60, 20, generator=generator)
    moved = (fixed - 0.5).square() + 0.02 * torch.randn(fixed.shape, generator=generator)
    bins = 32
    indices = [((i - i.min()) / (i.max() - i.min()) * bins).clamp(max=bins - 1).long()
               for i in (fixed, moved)]  # fmt: skip
    exact = mutual_info_score(*(i.flatten().numpy() for i in indices))
    found = np.log(bins) - MI(bins)(fixed, moved).item()
    assert exact > 1
    assert found == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MEASURES)
def test_gradients_agree_with_finite_differences(name, weighted):
    fixed, moved, weight = images(5, 6, 4, seed=2)
    weight = weight[0] if weighted else None
    known = {"lncc": LNCC(1, 0.1), "mi": MI(8), "mixed": Mixed(LNCC(1, 0.1))}
    measure = known.get(name) or MEASURES[name]()
    # The limits of mutual information's bins move with the extremes, whose gradient is left out.
    moved[:, 0, 0, 0], moved[:, 0, 0, 1] = -0.1, 1.1
    inner = torch.zeros(moved.shape, dtype=torch.bool)
    inner[:, 1:] = True
    free = moved[inner].clone().requires_grad_()

    def unlike(values):
        return measure(fixed, moved.masked_scatter(inner, values), weight)

    assert torch.autograd.gradcheck(unlike, free, eps=1e-7, atol=1e-6)


def test_what_weighs_nothing_does_not_count():
    fixed, moved, _ = images(6, 7, 8)
    weight = torch.zeros(6, 7, 8, dtype=torch.float64)
    weight[1:4, 2:6, 1:7] = 1
    other = torch.where(weight.bool(), moved, 0.0)
    other[:, 0, 0, 0], other[:, 0, 0, 1] = 50.0, -20.0  # no bins reach so far
    for measure in (SSD(), NCC(), MI(8)):
        a, b = (measure(fixed, m, weight).item() for m in (moved, other))
        assert a == pytest.approx(b)


def test_mixed_compares_the_first_channel_in_one_way_and_the_others_in_another():
    fixed, moved, weight = images(6, 7, 8)
    fixed, moved = (torch.cat([i, i.flip(-1), i.square()]) for i in (fixed[:1], moved[:1]))
    for w in (None, weight[0]):
        parts = LNCC(1)(fixed[:1], moved[:1], w) + 4 * SSD()(fixed[1:], moved[1:], w)
        assert Mixed(LNCC(1), SSD(), weight=4.0)(fixed, moved, w).item() == pytest.approx(
            parts.item()
        )
    alone = Mixed(LNCC(1))(fixed[:1], moved[:1])
    assert alone.item() == pytest.approx(LNCC(1)(fixed[:1], moved[:1]).item())
    with pytest.raises(ValueError, match="weight of more than 0, found 0"):
        Mixed(weight=0)


def test_a_window_of_no_voxels_around_is_refused():
    with pytest.raises(ValueError, match="radius of 1 voxel or more"):
        LNCC(0)


@pytest.mark.parametrize("check", MEASURE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_keeps_the_contract(name, check):
    check(MEASURES[name]())


class SquareRoot(torch.autograd.Function):
    """With the gradient of something else."""

    @staticmethod
    def forward(ctx, moved):
        ctx.save_for_backward(moved)
        return moved.sqrt()

    @staticmethod
    def backward(ctx, adjoint):
        return 2 * adjoint


def unweighted(fixed, moved, weight=None):
    return SSD()(fixed, moved)


def summed(fixed, moved, weight=None):
    return (moved - fixed).square().mul(1 if weight is None else weight).sum()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda f, m, w=None: (f - m).square(), "not one number"),
        (lambda f, m, w=None: 1 - SSD()(f, m, w), "identical images"),
        (lambda f, m, w=None: SquareRoot.apply(SSD()(f, m, w) + 1e-3), "gradient and differences"),
        (lambda f, m, w=None: SSD()(f, m, w) / 0, "it gave nan|it gave inf"),
        (unweighted, "values without weight"),
        (summed, "three times as large"),
        (lambda f, m, w=None: SSD()(f, m.half().to(m), w), "gradient|precision|finite"),
        (lambda f, m, w=None: SSD()(f.add_(1), m, w), "different numbers|changed|identical"),
    ],
)
def test_a_measure_that_breaks_a_promise_is_named(wrong, says):
    with pytest.raises(AssertionError, match=says):
        check_measure(wrong)
