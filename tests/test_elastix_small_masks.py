"""Samples that are found in small masks and small moving images."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import oblique_grid

from hybridreg.cases import ImagePair
from hybridreg.config import load_method, with_settings
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.methods.elastix.small_masks import fitted_to_masks, fraction_of_box
from hybridreg.phantoms import head_case

RANDOM = {"ImageSampler": ("RandomCoordinate",), "Metric": ("AdvancedMeanSquares",)}


def diagonal(grid: Grid, voxels: int = 1) -> LabelMap:
    """A line of voxels, so thick along the last axis, through a corner of the image."""
    data = torch.zeros(grid.shape, dtype=torch.int32)
    for i in range(10):
        data[i, i, i : i + voxels] = 3
    return LabelMap(data, grid)


def fitted_to_fixed(parameters: dict, mask: LabelMap) -> dict:
    image = Image(torch.zeros(1, *mask.grid.shape), mask.grid)
    return fitted_to_masks(parameters, ImagePair(image, image, fixed_mask=mask))


def test_the_box_is_tight_along_the_patients_axes_and_the_whole_image_otherwise():
    upright = Grid(
        (21, 31, 24), (1.1, 0.9, 2.3), (-40.0, 25.0, 60.0), [[0, 0, 1], [-1, 0, 0], [0, 1, 0]]
    )
    assert fraction_of_box(diagonal(upright)) == pytest.approx(10 / 10**3)
    oblique = oblique_grid(left_handed=True)
    assert fraction_of_box(diagonal(oblique)) == pytest.approx(10 / (21 * 31 * 24))
    assert fraction_of_box(LabelMap(torch.ones(oblique.shape), oblique)) == 1


def test_a_small_mask_changes_the_sampler_and_a_large_one_nothing():
    grid = Grid((21, 31, 24))
    found = fitted_to_fixed(RANDOM, diagonal(grid))
    assert found["ImageSampler"] == ("RandomSparseMask",)
    assert found["NumberOfJacobianMeasurements"] == ("100000",)
    assert found["Metric"] == RANDOM["Metric"]
    block = torch.zeros(grid.shape)
    block[3:6, 4:8, 5:9] = 1
    assert fitted_to_fixed(RANDOM, LabelMap(block, grid)) == RANDOM


def test_what_a_file_chose_with_open_eyes_stays():
    mask = diagonal(Grid((21, 31, 24)))
    for sampler in ("Grid", "Full", "RandomSparseMask"):
        assert fitted_to_fixed({"ImageSampler": (sampler,)}, mask) == {"ImageSampler": (sampler,)}
    assert fitted_to_fixed({}, mask) == {}
    given = {"ImageSampler": ("Random", "Grid"), "NumberOfJacobianMeasurements": ("7",)}
    found = fitted_to_fixed(given, mask)
    assert found["ImageSampler"] == ("RandomSparseMask", "Grid")
    assert found["NumberOfJacobianMeasurements"] == ("7",)


def test_samples_are_asked_for_that_can_lie_in_the_moving_mask():
    fixed_grid, grid = Grid((20, 30, 40), (2.0, 1.0, 1.0)), oblique_grid()
    fixed, moving = (Image(torch.zeros(1, *g.shape), g) for g in (fixed_grid, grid))
    mask = torch.zeros(grid.shape, dtype=torch.int32)
    mask[4:20, 4:20, 4:20] = 2
    pair = ImagePair(fixed, moving, moving_mask=LabelMap(mask, grid))
    fraction = 16**3 * math.prod(grid.spacing) / (20 * 30 * 40 * 2)
    (ratio,) = fitted_to_masks(RANDOM, pair)["RequiredRatioOfValidSamples"]
    assert float(ratio) == pytest.approx(0.25 * fraction, abs=1e-4)
    small = torch.zeros(fixed_grid.shape, dtype=torch.int32)
    small[5:10, 5:10, 5:10] = 1
    pair = replace(pair, fixed_mask=LabelMap(small, fixed_grid))
    assert "RequiredRatioOfValidSamples" not in fitted_to_masks(RANDOM, pair)
    given = {**RANDOM, "RequiredRatioOfValidSamples": ("0.1",)}
    assert fitted_to_masks(given, pair)["RequiredRatioOfValidSamples"] == ("0.1",)


def test_samples_are_asked_for_that_can_lie_in_a_smaller_moving_image():
    whole, part = Grid((40, 40, 40)), Grid((20, 20, 20), origin=(10.0, 10.0, 10.0))
    fixed, moving = (Image(torch.zeros(1, *g.shape), g) for g in (whole, part))
    (ratio,) = fitted_to_masks(RANDOM, ImagePair(fixed, moving))["RequiredRatioOfValidSamples"]
    assert float(ratio) == pytest.approx(0.25 / 8, abs=1e-4)
    assert fitted_to_masks(RANDOM, ImagePair(moving, fixed)) == RANDOM
    assert fitted_to_masks(RANDOM, ImagePair(fixed, fixed)) == RANDOM


@pytest.mark.parametrize(("dimension", "inner"), [(2, "fixed"), (2, "moving"), (3, "moving")])
def test_an_inner_part_of_the_other_image_is_registered(dimension, inner):
    angles, shift = [5.0] * (2 * dimension - 3), [5.0, -4.0, 3.0][:dimension]
    whole = Grid((48, 60, 60)[3 - dimension :], (3.5,) * dimension, (-100.0,) * dimension)
    # half the length along each axis: a quarter of the area, an eighth of the volume
    part = whole.crop([n // 4 for n in whole.shape], [3 * n // 4 for n in whole.shape])
    grids = {"fixed_grid": whole, "moving_grid": whole, f"{inner}_grid": part}
    case = head_case(
        dimension=dimension, fixed="t1", moving="t1",
        angles_deg=angles, translation_mm=shift, **grids,
    )  # fmt: skip
    method = with_settings(load_method("rigid"), threads=1)
    found = method.register(case.pair).transform
    points = part.points().flatten(0, -2)
    assert (found(points) - case.true_transform(points)).norm(dim=-1).mean() < 0.5
