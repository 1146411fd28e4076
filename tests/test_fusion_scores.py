"""Fusion scores where their value is known, and what must not change them."""

import math
import sys

import numpy as np
import pytest
import torch
from conftest import oblique_grid
from fused_scenes import SWAPPED, head, noise, stacked, value
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hybridreg.fusion_scores import (
    SCORES,
    FusedPair,
    UndefinedScore,
    edge_recall,
    fused_pair,
    fusion_scores,
    gradients,
    information,
)
from hybridreg.geometry import Grid
from hybridreg.images import Image

FLAT_RANGE = 1e-6  # float32 sums and sigmoids in float64


def test_three_times_the_same_image_gives_every_score_its_known_best():
    image, _ = head()
    scores = fusion_scores(image, image, image)
    entropy = scores.values["EN"]
    known = {"QABF": gradients.MAX_PRESERVED, "MI": 2 * entropy, "NMI": 2, "VIF": 2, "NABF": 0}
    known |= dict.fromkeys(["SSIM", "QY", "QCB", "CC", "FMI_pixel", "FMI_gradient"], 1)
    known |= dict.fromkeys(SWAPPED, 1)
    for name, best in known.items():
        assert scores.values[name] == pytest.approx(best, abs=FLAT_RANGE), name
    assert scores.values["SCD"] is None and "constant" in scores.reasons["SCD"]
    assert set(scores.values) == set(SCORES) and set(scores.reasons) == {"SCD"}


def test_a_copy_of_one_source_scores_as_published_for_it():
    fixed, moved = head()
    scores = fusion_scores(moved, fixed, moved)
    assert scores.values["QY"] > 0.99  # wherever the sources differ the copy equals the nearer one
    assert scores.values["edge_recall_moved"] == 1 > scores.values["edge_recall_fixed"]
    assert "fused and the moved" in scores.reasons["SCD"]
    assert value("MI", moved, fixed, moved) > value("MI", np.maximum(fixed, moved), fixed, moved)


def test_constant_images_have_values_or_reasons_and_never_nan():
    flat = np.full((64, 64), 0.5)
    scores = fusion_scores(flat, flat, flat)
    assert {n: v for n, v in scores.values.items() if v is not None} == {
        **dict.fromkeys(["EN", "MI", "SD", "SF", "AG", "NABF"], 0),
        **dict.fromkeys(["SSIM", "QY", "QCB", "FMI_pixel", "FMI_gradient"], pytest.approx(1)),
    }
    assert set(scores.reasons) == {n for n, v in scores.values.items() if v is None}
    assert all(len(reason) > 20 for reason in scores.reasons.values())


def test_a_constant_fused_image_keeps_nothing_of_its_sources():
    fixed, moved = head()
    scores = fusion_scores(np.full_like(fixed, 0.5), fixed, moved)
    for name in ("EN", "SD", "SF", "AG", "MI", "NMI", "VIF", "NABF", *SWAPPED):
        assert scores.values[name] == pytest.approx(0, abs=1e-9), name
    assert scores.values["QABF"] < 1e-3  # the sigmoids do not reach 0
    assert "fused image is constant" in scores.reasons["CC"]


def test_sources_without_foreground_leave_every_score_undefined_and_say_why():
    empty = np.zeros((64, 64))
    scores = fusion_scores(empty, empty, empty)
    assert set(scores.values.values()) == {None}
    assert all("only background" in scores.reasons[name] for name in SCORES)
    with pytest.raises(UndefinedScore, match="only background"):
        fused_pair(empty, empty, empty)


def test_a_checkerboard_has_one_bit_and_the_frequency_of_its_amplitude():
    board = 0.2 + 0.6 * (np.indices((48, 48)).sum(0) % 2)
    rows = 0.2 + 0.6 * (np.indices((48, 48))[0] % 2)
    scores = fusion_scores(board, board, rows).values
    assert scores["EN"] == pytest.approx(1)
    assert scores["MI"] == pytest.approx(1)  # all of the board, nothing of independent stripes
    assert scores["NMI"] == pytest.approx(1)
    assert scores["SD"] == pytest.approx(0.3, abs=1e-6)
    assert scores["SF"] == pytest.approx(0.6 * math.sqrt(2), abs=1e-6)
    inner = np.zeros((48, 48), dtype=bool)
    inner[1:-1, 1:-1] = True  # where central differences skip over the other color
    assert value("AG", board, board, rows, mask=inner) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0)])
def test_a_ramp_has_the_gradient_it_was_given_per_finest_spacing(spacing):
    z, y, x = np.indices((6, 12, 14))
    ramp = torch.tensor(0.2 + 0.04 * z + 0.02 * y + 0.01 * x, dtype=torch.float32)
    image = Image(ramp, Grid((6, 12, 14), spacing, (3.0, -2.0, 8.0)))
    slopes = np.array([0.04 / spacing[2], 0.02, 0.01])
    assert value("SF", image, image, image) == pytest.approx(np.sqrt((slopes**2).sum()), rel=1e-5)
    assert value("AG", image, image, image) == pytest.approx(np.sqrt((slopes**2).mean()), rel=1e-5)
    pair = fused_pair(image, image, image, mask=ndimage.binary_erosion(np.ones((6, 12, 14))))
    found = gradients.gradient(pair.fused, pair)
    np.testing.assert_allclose(found, np.repeat(slopes[:, None], found.shape[1], axis=1), rtol=1e-4)


def test_mutual_information_of_all_pairs_of_levels_is_zero_and_of_a_relabeling_is_all():
    levels = np.linspace(0, 1, 256)
    first, second = np.meshgrid(levels, levels, indexing="ij")
    mask = np.ones((256, 256))
    pair = fused_pair(first, 1 - first, second, mask=mask)
    assert information.mutual_information(pair) == pytest.approx(8)
    assert information.normalized_mutual_information(pair) == pytest.approx(1)


def disk(size=64, radius=18.0, shift=(0.0, 0.0), *, level=0.8) -> np.ndarray:
    y, x = np.indices((size, size)) - size / 2
    edge = np.hypot(y - shift[0], x - shift[1]) - radius
    return 0.1 + level * 0.5 * (1 - np.tanh(edge))


def test_edges_are_found_up_to_one_pixel_away_and_no_further():
    fixed, flat = disk(), np.full((64, 64), 0.1)
    recall = [
        edge_recall(
            fused_pair(disk(shift=(0, shift)), fixed, flat, mask=np.ones_like(flat)), "fixed"
        )
        for shift in (0, 1, 4, 12)
    ]
    assert recall[:2] == [1, 1]
    assert recall[1] > recall[2] > recall[3]
    assert recall[3] < 0.2  # only where both circles run along the shift
    with pytest.raises(UndefinedScore, match="moved image has no edge"):
        edge_recall(fused_pair(fixed, fixed, flat), "moved")


@pytest.mark.parametrize("contrast, found", [(0.5, 1), (0.51, 1), (0.4, 0), (-0.6, 1)])
def test_edges_count_from_half_the_contrast_of_the_source_on(contrast, found):
    fixed, flat = disk(), np.full((64, 64), 0.5)
    fused = 0.5 + contrast * (fixed - 0.5)
    assert edge_recall(fused_pair(fused, fixed, flat), "fixed") == found


def test_weak_edges_are_no_strong_ones_unless_asked_for():
    fixed = disk(radius=25) * 0.5 + 0.1 * disk(radius=10)
    fused = disk(radius=25) * 0.5
    pair = fused_pair(fused, fixed, fixed)
    assert edge_recall(pair, "fixed") == 1
    assert edge_recall(pair, "fixed", strong=0.05) < 0.9


def test_edges_across_the_source_do_not_count_as_found():
    y, x = np.indices((64, 64)) / 64
    stripes, across = (0.5 + 0.4 * np.sin(20 * t) for t in (y, x))
    assert edge_recall(fused_pair(across, stripes, across), "fixed") == 0


def test_equal_gradients_are_kept_fully_and_turned_ones_are_not():
    ramp = np.linspace(0, 1, 64)[:, None] * np.ones(64)
    flat = np.full((64, 64), 0.5)
    assert value("QABF", ramp, ramp, flat) == pytest.approx(gradients.MAX_PRESERVED)
    assert value("QABF", 1 - ramp, ramp, flat) == pytest.approx(gradients.MAX_PRESERVED)
    assert value("QABF", ramp.T, ramp, flat) < 1e-6


def test_artifacts_grow_with_invented_edges_and_are_none_for_weaker_ones():
    fixed, moved = head()
    mean = (fixed + moved) / 2
    wrong = np.clip(mean + 0.2 * (np.indices(mean.shape)[0] // 4 % 2) * (mean > 0.1), 0, 1)
    wronger = np.clip(mean + 0.5 * (np.indices(mean.shape)[0] // 4 % 2) * (mean > 0.1), 0, 1)
    assert value("NABF", mean * 0.5, fixed, moved) < 1e-3
    clean, some, many = (value("NABF", fused, fixed, moved) for fused in (mean, wrong, wronger))
    assert clean < some < many


def test_complementary_halves_sum_to_the_largest_sum_of_correlations():
    fixed, moved = 0.5 * noise(1), 0.5 * noise(2)
    assert value("SCD", fixed + moved, fixed, moved) == pytest.approx(2)
    assert value("CC", fixed, fixed, fixed) == pytest.approx(1)


def random_scene(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    fixed, moved = head(seed % 7) if kind == "head" else (noise(seed), noise(seed + 1, sigma=0.5))
    weight = rng.random()
    mixed = weight * fixed + (1 - weight) * moved
    fused = np.clip(mixed + rng.normal(0, 0.2 * rng.random(), mixed.shape), 0, 1)
    return fused, fixed, moved


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["head", "noise"]))
def test_scores_stay_in_their_range_and_do_not_care_which_source_is_which(seed, kind):
    fused, fixed, moved = random_scene(seed, kind)
    scores = fusion_scores(fused, fixed, moved).values
    turned = fusion_scores(fused, moved, fixed).values
    for name, score in SCORES.items():
        low, high = score.range
        assert low - FLAT_RANGE <= scores[name] <= high + FLAT_RANGE, name
        assert scores[name] == pytest.approx(turned[SWAPPED.get(name, name)], abs=FLAT_RANGE), name


@pytest.mark.parametrize("given_mask", [True, False])
def test_more_background_around_changes_no_score(given_mask):
    fixed, moved = head()
    fused = np.maximum(fixed, moved)
    mask = ndimage.binary_dilation(fused_pair(fused, fixed, moved).inside)
    # VIF halves the image three times: its pixels keep their places for multiples of 8.
    wide = [np.pad(image, 16) for image in (fused, fixed, moved, mask)]
    options = [{"mask": m} if given_mask else {} for m in (mask, wide[3])]
    near = fusion_scores(fused, fixed, moved, **options[0])
    far = fusion_scores(*wide[:3], **options[1])
    # Without the air, windows of VIF lie within the small image too: only there it can differ.
    inner = fusion_scores(*(np.pad(image, 8) for image in wide[:3]), **(
        {"mask": np.pad(wide[3], 8)} if given_mask else {}
    ))  # fmt: skip
    for name in SCORES:
        compared = inner if name == "VIF" else near
        assert far.values[name] == pytest.approx(compared.values[name], abs=1e-6), name


def test_what_lies_outside_of_the_mask_and_its_windows_does_not_count():
    fixed, moved = noise(1, (96, 96)), noise(2, (96, 96))
    fused = np.maximum(fixed, moved)
    mask = np.zeros((96, 96), dtype=bool)
    mask[40:56, 40:56] = True
    changed = fused.copy()
    changed[:, 90:] = 0
    first, second = (fusion_scores(f, fixed, moved, mask=mask).values for f in (fused, changed))
    for name in SCORES:  # only the filter of Q_CB has no end, but it is faint there
        assert first[name] == pytest.approx(second[name], abs=1e-4), name


def test_the_default_foreground_is_either_source_with_its_holes_and_not_the_fused_image():
    fixed, moved = head()
    inside = fused_pair(np.ones_like(fixed), fixed, moved).inside
    shown = (fixed > 0.05) | (moved > 0.05)
    np.testing.assert_array_equal(inside, ndimage.binary_fill_holes(shown))
    assert 0.3 < inside.mean() < 0.7
    hollow = fixed * (fixed > 0.5)  # the bone alone
    np.testing.assert_array_equal(fused_pair(fixed, hollow, hollow).inside[30:42, 30:42], True)


def test_a_stack_of_equal_slices_scores_as_the_slice():
    fixed, moved = head()
    fused = np.maximum(fixed, moved)
    flat = fusion_scores(fused, fixed, moved).values
    deep = fusion_scores(stacked(fused), stacked(fixed), stacked(moved)).values
    for name in SCORES:
        expected = flat[name] * (math.sqrt(2 / 3) if name == "AG" else 1)  # mean over three axes
        # The percentile of more edge voxels, though each repeats, is interpolated anew.
        tolerance = 1e-3 if name in SWAPPED else 1e-5
        assert deep[name] == pytest.approx(expected, rel=tolerance), name


def test_gradients_of_volumes_see_edges_between_slices():
    fixed = np.full((12, 48, 48), 0.2)
    fixed[6:] = 0.8
    flat = np.full_like(fixed, 0.5)
    assert value("QABF", fixed, fixed, flat) == pytest.approx(gradients.MAX_PRESERVED)
    assert edge_recall(fused_pair(flat, fixed, flat), "fixed") == 0
    assert edge_recall(fused_pair(fixed, fixed, flat), "fixed") == 1


def test_pieces_of_a_volume_give_the_score_of_the_whole(monkeypatch):
    fixed, moved = (noise(seed, (17, 44, 46), sigma=1.2) for seed in (3, 4))
    fused = np.maximum(fixed, moved)
    names = ("QABF", "NABF", "AG", *SWAPPED)
    whole = [value(name, fused, fixed, moved) for name in names]
    monkeypatch.setattr(sys.modules[FusedPair.__module__], "_SLAB_VOXELS", 44 * 46 * 3)
    pieces = [value(name, fused, fixed, moved) for name in names]
    np.testing.assert_allclose(pieces, whole, rtol=1e-9)


@pytest.mark.parametrize("coarsest", [0, 1, 2])
def test_slices_are_cut_across_the_coarsest_axis(coarsest):
    shape, spacing = (7, 8, 9), [0.9, 1.1, 1.0]
    spacing[2 - coarsest] = 2.3  # (x, y, z), and axes are (z, y, x)
    grid = Grid(shape, spacing, (-40.0, 25.0, 60.0), oblique_grid().direction)
    images = [torch.tensor(noise(seed, shape), dtype=torch.float32) for seed in range(3)]
    pair = fused_pair(*(Image(image, grid) for image in images))
    fused = [slices[0] for slices in pair.slices()]
    np.testing.assert_array_equal(np.stack(fused), np.moveaxis(images[0].numpy(), coarsest, 0))
    assert pair.slice_shape == fused[0].shape
