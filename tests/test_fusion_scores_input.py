"""What fusion scores accept, and what they refuse in words."""

import numpy as np
import pytest
import torch
from conftest import oblique_grid
from fused_scenes import head, noise

from hybridreg.fusion_scores import SCORES, fusion_scores
from hybridreg.images import Image, LabelMap


def test_values_of_other_ranges_are_scored_when_their_range_is_stated():
    fixed, moved = head()
    fused = np.maximum(fixed, moved)
    eight_bit = [np.rint(image * 255).astype(np.uint8) for image in (fused, fixed, moved)]
    scores = fusion_scores(*eight_bit, data_range=255)
    assert scores.values == pytest.approx(fusion_scores(fused, fixed, moved).values, abs=1e-6)


def test_images_on_a_grid_and_arrays_and_tensors_score_alike():
    grid = oblique_grid(2)
    images = [noise(seed, grid.shape) for seed in range(3)]
    placed = [Image(torch.tensor(image, dtype=torch.float32), grid) for image in images]
    mask = LabelMap(torch.ones(grid.shape, dtype=torch.int32), grid)
    tensors = [torch.tensor(image) for image in images]
    alone = {"EN", "MI", "SD", "CC", "SCD", "SSIM"}  # nothing that the unequal spacing changes
    given = [fusion_scores(*placed, mask=mask), fusion_scores(*images), fusion_scores(*tensors)]
    for name in alone:
        first, *rest = (scores.values[name] for scores in given)
        assert rest == pytest.approx([first] * 2, abs=1e-6), name
    assert given[0].reasons["VIF"] == "four scales need slices of 41 x 41 pixels or more"


def test_scores_are_the_same_in_any_number_of_threads():
    fixed, moved = head()
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(fusion_scores(np.maximum(fixed, moved), fixed, moved))
    torch.set_num_threads(before)
    assert found[0] == found[1]


def test_inputs_are_left_as_they_were():
    fixed, moved = (np.float32(image) for image in head())
    fused = np.maximum(fixed, moved)
    before = [image.copy() for image in (fused, fixed, moved)]
    fusion_scores(fused, fixed, moved)
    for image, copy in zip((fused, fixed, moved), before, strict=True):
        np.testing.assert_array_equal(image, copy)


GOOD = np.full((16, 16), 0.5)


@pytest.mark.parametrize(
    "fused, fixed, said",
    [
        (np.ones((16, 17)), GOOD, "register the images, or resample them"),
        (np.full((16, 16), np.nan), GOOD, "256 of 256 values of the fused image are not finite"),
        (np.full((16, 16), 128, np.uint8), GOOD, "data_range=255"),
        (GOOD, GOOD > 0, "fixed image holds whole numbers"),
        (np.full((16, 16), 40.0), GOOD, "reaches from 40 to 40"),
        (GOOD, GOOD - 1000, "window CT"),
        (np.ones((16, 16, 3)), GOOD, "color picture"),
        (GOOD, np.array([["a"] * 16] * 16), "not real numbers"),
        (np.ones((1, 16, 16)), np.ones((1, 16, 16)), "one slice: give it in 2D"),
        (np.ones(16), np.ones(16), "2D or 3D"),
    ],
)
def test_images_that_cannot_be_scored_are_refused_in_words_that_help(fused, fixed, said):
    with pytest.raises(ValueError, match=said):
        fusion_scores(fused, fixed, fixed)


def test_masks_and_ranges_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="mask is empty"):
        fusion_scores(GOOD, GOOD, GOOD, mask=np.zeros((16, 16)))
    with pytest.raises(ValueError, match="resample the mask"):
        fusion_scores(GOOD, GOOD, GOOD, mask=np.ones((8, 8)))
    with pytest.raises(ValueError, match="data_range must be a positive"):
        fusion_scores(GOOD, GOOD, GOOD, data_range=0)


def test_images_on_different_grids_or_in_color_are_refused():
    grid = oblique_grid(2)
    image = Image(torch.full(grid.shape, 0.5), grid)
    moved = Image(torch.full(grid.shape, 0.5), oblique_grid(2, left_handed=True))
    with pytest.raises(
        ValueError, match="moved image .* does not lie on the grid of the fused one"
    ):
        fusion_scores(image, image, moved)
    with pytest.raises(ValueError, match="3 channels"):
        fusion_scores(Image(torch.full((3, *grid.shape), 0.5), grid), image, image)


def test_every_score_says_where_it_comes_from_and_which_way_is_better():
    for name, score in SCORES.items():
        assert score.function.__doc__ and score.summary, name
        assert score.range[0] < score.range[1] and score.better in ("higher", "lower"), name
    assert [name for name, score in SCORES.items() if score.better == "lower"] == ["NABF"]


def test_images_too_small_for_a_window_get_a_reason():
    images = [noise(seed, (9, 9)) for seed in range(3)]
    reasons = fusion_scores(*images).reasons
    assert set(reasons) == {"SSIM", "VIF"}
    assert "smaller than its window of 11" in reasons["SSIM"]
