"""Samplers that find their samples in small masks, and only there."""

import pytest
import torch
from conftest import oblique_grid

from hybridreg.geometry import Grid
from hybridreg.images import LabelMap
from hybridreg.methods.elastix.small_masks import fitted_to_mask, share_of_box

RANDOM = {"ImageSampler": ("RandomCoordinate",), "Metric": ("AdvancedMeanSquares",)}


def diagonal(grid: Grid, voxels: int = 1) -> LabelMap:
    """A line of voxels, so thick along the last axis, through a corner of the image."""
    data = torch.zeros(grid.shape, dtype=torch.int32)
    for i in range(10):
        data[i, i, i : i + voxels] = 3
    return LabelMap(data, grid)


def test_the_box_is_tight_along_the_patients_axes_and_the_whole_image_otherwise():
    upright = Grid(
        (21, 31, 24), (1.1, 0.9, 2.3), (-40.0, 25.0, 60.0), [[0, 0, 1], [-1, 0, 0], [0, 1, 0]]
    )
    assert share_of_box(diagonal(upright)) == pytest.approx(10 / 10**3)
    oblique = oblique_grid(left_handed=True)
    assert share_of_box(diagonal(oblique)) == pytest.approx(10 / (21 * 31 * 24))
    assert share_of_box(LabelMap(torch.ones(oblique.shape), oblique)) == 1


def test_a_small_mask_changes_the_sampler_and_a_large_one_nothing():
    grid = Grid((21, 31, 24))
    found = fitted_to_mask(RANDOM, diagonal(grid))
    assert found["ImageSampler"] == ("RandomSparseMask",)
    assert found["NumberOfJacobianMeasurements"] == ("100000",)
    assert found["Metric"] == RANDOM["Metric"]
    block = torch.zeros(grid.shape)
    block[3:6, 4:8, 5:9] = 1
    assert fitted_to_mask(RANDOM, LabelMap(block, grid)) == RANDOM


def test_what_a_file_chose_with_open_eyes_stays():
    mask = diagonal(Grid((21, 31, 24)))
    for sampler in ("Grid", "Full", "RandomSparseMask"):
        assert fitted_to_mask({"ImageSampler": (sampler,)}, mask) == {"ImageSampler": (sampler,)}
    assert fitted_to_mask({}, mask) == {}
    given = {"ImageSampler": ("Random", "Grid"), "NumberOfJacobianMeasurements": ("7",)}
    found = fitted_to_mask(given, mask)
    assert found["ImageSampler"] == ("RandomSparseMask", "Grid")
    assert found["NumberOfJacobianMeasurements"] == ("7",)
