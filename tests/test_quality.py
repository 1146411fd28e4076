"""Similarity without labels behaves as its definitions say."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import oblique_grid

from hybridreg.cases import ImagePair
from hybridreg.decomposition import decompose, fitted_affine
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.phantoms import head_case, head_grid
from hybridreg.quality import Intent, Similarity, Verdict, judge, similarity
from hybridreg.transforms import IDENTITY, AffineTransform, DisplacementField, compose, rigid
from hybridreg.warping import jacobian_determinant, warp


def smooth(grid, phase: float = 0.0) -> Image:
    p = grid.points()
    waves = torch.sin(p[..., 0] / 5 + phase) * torch.cos(p[..., 1] / 6) + torch.sin(p[..., -1] / 7)
    return Image(waves, grid)


def shift(grid, mm: float) -> AffineTransform:
    d = grid.dimension
    return AffineTransform.from_parts(torch.eye(d), [mm] * d)


@pytest.mark.parametrize("dimension", [2, 3])
def test_an_image_agrees_with_itself_and_less_so_when_shifted(dimension):
    grid = oblique_grid(dimension)
    pair = ImagePair(smooth(grid), smooth(grid))
    same, off = similarity(pair, IDENTITY), similarity(pair, shift(grid, 4.0))
    assert same.overlap == 1 and same.correlation == pytest.approx(1)
    assert off.overlap < 0.9
    assert off.correlation < same.correlation - 0.2
    assert off.mutual_information < same.mutual_information / 2


def test_mutual_information_does_not_care_about_contrast_but_correlation_does():
    grid = oblique_grid()
    fixed = smooth(grid)
    inverted = Image(-fixed.data, grid)
    same = similarity(ImagePair(fixed, fixed), IDENTITY)
    other = similarity(ImagePair(fixed, inverted), IDENTITY)
    assert other.correlation == pytest.approx(-1)
    assert other.mutual_information == pytest.approx(same.mutual_information, rel=1e-3)


def test_mutual_information_of_independent_noise_is_near_zero_and_of_two_values_is_their_entropy():
    grid = oblique_grid()
    noise = [Image(torch.rand(grid.shape), grid) for _ in range(2)]
    assert similarity(ImagePair(*noise), IDENTITY).mutual_information < 0.1
    grid = Grid((20, 30, 600))
    halves = Image((torch.arange(600) < 300).expand(grid.shape), grid)
    found = similarity(ImagePair(halves, halves), IDENTITY).mutual_information
    assert found == pytest.approx(math.log(2), abs=0.05)  # the edge is interpolated


def test_masks_decide_where_it_is_compared():
    grid = oblique_grid()
    fixed, mask = smooth(grid), torch.zeros(grid.shape)
    mask[:10] = 1
    spoiled = fixed.data.clone()
    spoiled[:, 10:] = torch.rand(spoiled[:, 10:].shape)
    pair = ImagePair(fixed, Image(spoiled, grid), fixed_mask=LabelMap(mask, grid))
    masked = similarity(pair, IDENTITY)
    # at its rim the mask is interpolated, so a few spoiled values come in
    assert masked.correlation > 0.95
    assert similarity(replace(pair, fixed_mask=None), IDENTITY).correlation < 0.8


def test_without_overlap_there_is_no_similarity():
    grid = oblique_grid()
    found = similarity(ImagePair(smooth(grid), smooth(grid)), shift(grid, 500.0))
    assert found.overlap == 0 and found.correlation is None and found.mutual_information is None


def judged(case, transform, intent=Intent()):
    field = DisplacementField.sampled(transform, case.pair.fixed.grid)
    folded = (jacobian_determinant(field, field.grid).data <= 0).double().mean().item() * 100
    center = field.grid.center
    return judge(
        case.pair,
        transform,
        similarity=(similarity(case.pair, IDENTITY), similarity(case.pair, transform)),
        folding_percent=folded,
        affine=decompose(fitted_affine(field), center),
        start=decompose(AffineTransform(torch.eye(4)), center),
        intent=intent,
    )


@pytest.fixture(scope="module")
def case():
    grid = head_grid(4.0)
    return head_case(
        fixed="ct", moving="t1", angles_deg=(5.0, -4.0, 8.0), translation_mm=(6.0, 9.0, -5.0),
        fixed_grid=grid, moving_grid=grid,
    )  # fmt: skip


def nudged(case, angles=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0)):
    return compose(case.true_transform, rigid(angles, shift, case.pair.fixed.grid.center))


def test_the_truth_passes(case):
    assert judged(case, case.true_transform, Intent(same_subject=True)) == Verdict("pass")


@pytest.mark.parametrize(
    ("angles", "shift"),
    [((0, 0, 0), (15, 0, 0)), ((0, 0, 0), (0, -10, 8)), ((0, 14, 0), (0, 0, 0))],
)
def test_a_search_that_stopped_too_early_fails_and_says_where_it_fits_better(case, angles, shift):
    verdict = judged(case, nudged(case, angles, shift))
    assert verdict.status == "fail"
    assert any("fit better" in reason for reason in verdict.reasons)


def scaled(case, factors):
    stretch = AffineTransform.from_parts(
        torch.diag(torch.tensor(factors)), [0.0] * 3, case.pair.fixed.grid.center
    )
    return compose(case.true_transform, stretch)


@pytest.mark.parametrize(
    ("make", "intent", "says"),
    [
        (lambda c: scaled(c, [1.5, 1.5, 1.5]), Intent(True), "one person's"),
        (lambda c: scaled(c, [0.4, 1.0, 1.0]), Intent(False), "more than bodies"),
        (lambda c: scaled(c, [-1.0, 1.0, 1.0]), Intent(), "mirrors"),
        (lambda c: nudged(c, (0, 0, 170.0)), Intent(), "turns by"),
        (lambda c: nudged(c, shift=(160.0, 0, 0)), Intent(), "covers only"),
        (lambda c: nudged(c, shift=(900.0, 0, 0)), Intent(), "no longer overlap"),
    ],
)
def test_implausible_results_are_reported_with_what_to_try(case, make, intent, says):
    verdict = judged(case, make(case), intent)
    assert says in " ".join(verdict.reasons)
    assert verdict.status == "fail"


def calm(case, **changes) -> Verdict:
    """The verdict on the truth with some of what is known about it changed."""
    found = similarity(case.pair, IDENTITY), similarity(case.pair, case.true_transform)
    still = decompose(AffineTransform(torch.eye(4)))
    known = dict(similarity=found, affine=still, start=still, folding_percent=0.0)
    return judge(case.pair, case.true_transform, **{**known, **changes})


def with_hot_voxel(case):
    data = case.pair.moving.data.clone()
    data[(0, *(n // 2 for n in data.shape[1:]))] = 1e6
    moving = replace(case.pair.moving, data=data)
    return replace(case, pair=replace(case.pair, moving=moving))


def test_an_outlier_is_named_where_it_may_have_misled_a_method_and_else_not(case):
    hot = with_hot_voxel(case)
    wrong = judged(hot, nudged(case, shift=(15.0, 0.0, 0.0)))
    assert "the moving image has one voxel of 1e+06, while all others" in wrong.reasons[-1]
    assert '"clipped"' in wrong.reasons[-1]
    assert judged(hot, case.true_transform, Intent(same_subject=True)) == Verdict("pass")


def test_a_part_of_the_fixed_image_gets_no_advice_to_start_elsewhere(case):
    moving = case.pair.moving
    start, stop = zip(*((n // 4, 3 * n // 4) for n in moving.grid.shape), strict=True)
    inner = moving.data[(slice(None), *map(slice, start, stop))]
    part = Image(inner, moving.grid.crop(start, stop))
    inside = replace(case, pair=replace(case.pair, moving=part))
    reasons = judged(inside, case.true_transform).reasons
    covers = [reason for reason in reasons if "covers only" in reason]
    assert covers and "--initial" not in covers[0] and "crop the fixed image" in covers[0]


@pytest.mark.parametrize(("percent", "status"), [(0.0, "pass"), (0.05, "warn"), (3.0, "fail")])
def test_folds_are_evaluated_by_their_fraction(case, percent, status):
    assert calm(case, folding_percent=percent).status == status


@pytest.mark.parametrize(("factor", "status"), [(1.05, "pass"), (1.15, "warn"), (1.5, "fail")])
def test_the_scale_of_one_persons_head_is_evaluated_by_its_size(case, factor, status):
    affine = decompose(AffineTransform(torch.diag(torch.tensor([1.0, 1.0, factor, 1.0]))))
    assert calm(case, affine=affine, intent=Intent(True)).status == status


@pytest.mark.parametrize(
    ("side_mm", "ratio", "doubted"),
    [(160, 1.25, True), (40, 1.25, False), (40, 1.35, True), (40, 1.7, True)],
)
def test_an_organ_alone_may_be_stretched_more_than_a_body(case, side_mm, ratio, doubted):
    """Two hippocampi differ by up to 1.29; a spacing wrong by 1.3 makes that 1.4."""
    count = side_mm // 4
    onto = case.pair.fixed.grid.crop((10, 10, 10), (10 + count,) * 3)
    pair = replace(case.pair, fixed=warp(case.pair.fixed, IDENTITY, onto=onto))
    scales = torch.tensor([ratio**0.5, 1.0, ratio**-0.5, 1.0])
    affine = decompose(AffineTransform(torch.diag(scales)))
    reasons = calm(replace(case, pair=pair), affine=affine).reasons
    assert any(f"stretches one axis {ratio:.2f} times" in reason for reason in reasons) == doubted


def test_a_fit_worse_than_the_start_and_a_lost_correlation_fail(case):
    good, bad = Similarity(1.0, 0.5, 0.8), Similarity(1.0, 0.4, 0.1)
    assert calm(case, similarity=(bad, good)).status == "pass"
    assert "worse than at the start" in calm(case, similarity=(good, bad)).reasons[0]
    lost = calm(case, similarity=(bad, bad), intent=Intent(same_contrast=True))
    assert lost.status == "fail" and "should correlate" in lost.reasons[0]


def test_a_low_correlation_alone_is_a_doubt_and_fails_beside_another(case):
    """Whole heads of two scanners correlate by .27 where they are aligned: bright fat, no face."""
    low = Similarity(1.0, 0.4, 0.3)
    known = dict(similarity=(low, low), intent=Intent(same_contrast=True))
    alone = calm(case, **known)
    assert alone.status == "warn" and "should correlate" in alone.reasons[0]
    stretched = decompose(AffineTransform(torch.diag(torch.tensor([1.3, 1.0, 1.0, 1.0]))))
    assert calm(case, affine=stretched).status == "warn"
    assert calm(case, affine=stretched, **known).status == "fail"
