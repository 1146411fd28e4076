"""Pairs that no registration can do anything sound with are refused in words, before any work."""

import logging
from dataclasses import replace

import pytest
import torch
from conftest import oblique_grid
from test_transforms import bspline_pair, turned
from test_warping import pair_of_grids

from hybridreg.cases import Case, ImagePair, check_pair, warp_pair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.transforms import IDENTITY, compose
from hybridreg.warping import warp


def image(grid: Grid = oblique_grid(), channels: int = 1) -> Image:
    return Image(torch.rand(channels, *grid.shape), grid)


def moved(grid: Grid, **changes) -> Grid:
    return replace(grid, **changes)


GRID = oblique_grid()
SOUND = ImagePair(image(), image())


def changed(**fields) -> ImagePair:
    return replace(SOUND, **fields)


def with_value(value: float) -> Image:
    data = torch.rand(GRID.shape)
    data[3, 4, 5] = value
    return Image(data, GRID)


def points(count: int, dimension: int = 3) -> LandmarkSet:
    return LandmarkSet(torch.rand(count, dimension))


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (changed(moving=image(oblique_grid(2))), "moving image 2D"),
        (changed(moving=image(channels=2)), "2; describe both"),
        (changed(fixed=with_value(torch.nan)), "fixed image has 1 voxels that are NaN"),
        (changed(moving=with_value(torch.inf)), "moving image has 1 voxels that are NaN or inf"),
        (changed(moving=Image(torch.full(GRID.shape, 7.0), GRID)), "moving image is constant"),
        (changed(fixed=image(Grid((1, 30, 30)))), "2D image"),
        (changed(fixed=image(Grid((30, 3, 30)))), "at least 4"),
        (changed(fixed_mask=LabelMap(torch.zeros(GRID.shape), GRID)), "fixed mask is empty"),
        (changed(moving_mask=LabelMap(torch.ones(9, 9, 9), Grid((9, 9, 9)))), "resample the mask"),
        (changed(fixed_points=points(3)), "both fixed and moving points"),
        (changed(fixed_points=points(3), moving_points=points(4)), "3 fixed points but 4"),
        (changed(fixed_points=points(3, 2), moving_points=points(3, 2)), "2D, the images 3D"),
        (changed(moving=image(moved(GRID, spacing=(1100, 900, 2300)))), "not in mm"),
        (changed(moving=image(moved(GRID, spacing=(11, 9, 23)))), "another unit"),
        (changed(moving=image(moved(GRID, spacing=(0.0011, 0.0009, 0.0023)))), "not in mm"),
        (changed(moving=image(moved(GRID, origin=(500, 0, 0)))), "do not overlap"),
    ],
)
def test_hopeless_pairs_are_refused_with_the_reason(pair, says):
    check_pair(SOUND, IDENTITY)
    with pytest.raises(ValueError, match=says):
        check_pair(pair, IDENTITY)


def test_a_tiny_mask_is_refused_with_its_count():
    data = torch.zeros(GRID.shape)
    data[4:6, 4:6, 4:6] = 1
    with pytest.raises(ValueError, match="only 8 voxels"):
        check_pair(changed(moving_mask=LabelMap(data, GRID)), IDENTITY)


def test_an_initial_transform_that_brings_them_together_is_enough():
    far = moved(GRID, origin=(500, 0, 0))
    pair = changed(moving=image(far))
    shift = turned(3, GRID)
    center = compose(type(shift).from_parts(torch.eye(3), far.center - GRID.center), shift)
    check_pair(pair, center)
    check_pair(pair)  # without a start, nothing is said of overlap


def test_fields_of_view_of_different_size_are_warned_about(caplog):
    twice = Grid(GRID.shape, [2 * s for s in GRID.spacing], GRID.origin, GRID.direction)
    with caplog.at_level(logging.WARNING):
        check_pair(changed(moving=image(twice)), IDENTITY)
    assert "is a spacing wrong" in caplog.text


def test_a_warped_pair_holds_everything_of_the_moving_side_on_the_fixed_grid():
    _, other = pair_of_grids(3)
    initial = compose(bspline_pair(GRID, size_mm=0.5)[0], turned(3, GRID))
    mask = LabelMap(torch.ones(other.shape), other)
    guides = LandmarkSet(initial(GRID.points()[8:12, 8:12, 8:12].reshape(-1, 3)))
    pair = ImagePair(image(), image(other, 2), moving_mask=mask, moving_points=guides)
    found = warp_pair(pair, initial)
    expected = warp(pair.moving, initial, onto=GRID, default=pair.moving.data.min().item())
    assert torch.equal(found.moving.data, expected.data) and found.moving.grid == GRID
    assert found.moving_mask.grid == GRID and 0 < found.moving_mask.data.float().mean() < 1
    back = GRID.points()[8:12, 8:12, 8:12].reshape(-1, 3)
    assert torch.allclose(found.moving_points.points, back, atol=1e-3)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"fixed_labels": LabelMap(torch.ones(GRID.shape), GRID)}, "only together with moving labels"),
        ({"moving_landmarks": points(3)}, "only together with fixed landmarks"),
        ({"fixed_landmarks": points(3), "moving_landmarks": points(4)}, "3 fixed landmarks but 4"),
    ],
)
def test_what_judges_a_case_comes_in_pairs(known, says):
    with pytest.raises(ValueError, match=says):
        Case(SOUND, **known)


def test_moving_labels_alone_are_an_atlas_to_be_warped():
    assert Case(SOUND, moving_labels=LabelMap(torch.ones(GRID.shape), GRID)).fixed_labels is None
