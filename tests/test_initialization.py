"""Aligned centers lie where they should, on oblique grids."""

import pytest
import torch
from conftest import oblique_grid

from hybridreg.cases import ImagePair
from hybridreg.images import Image, LabelMap
from hybridreg.initialization import center_of_mass, initialize


def ball(grid, offset_mm: float, background: float = 0.0) -> Image:
    center = grid.center + offset_mm
    radius = (grid.points() - center).norm(dim=-1)
    return Image(background + 100 * torch.sigmoid((8 - radius) * 2), grid)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("background", [0.0, -1024.0])
def test_the_center_of_mass_of_a_ball_is_its_center(dimension, background):
    grid = oblique_grid(dimension)
    found = center_of_mass(ball(grid, 1.5, background))
    assert torch.allclose(found, grid.center + 1.5, atol=0.1)  # a tenth of a voxel


def test_a_mask_hides_what_lies_outside():
    grid = oblique_grid()
    image = ball(grid, 0.0)
    spoiled = image.data[0].clone()
    spoiled[:, :3] = 500
    mask = LabelMap(image.data[0] > 10, grid)
    assert torch.allclose(center_of_mass(Image(spoiled, grid), mask), grid.center, atol=0.1)


def test_both_starts_bring_the_centers_together():
    fixed, moving = oblique_grid(), oblique_grid(left_handed=True)
    pair = ImagePair(ball(fixed, 1.0), ball(moving, -2.0))
    by_center, by_mass = initialize(pair, "centers"), initialize(pair, "mass")
    assert torch.allclose(by_center(fixed.center), moving.center)
    assert torch.allclose(by_mass(fixed.center + 1.0), moving.center - 2.0, atol=0.2)
    with pytest.raises(ValueError, match="centers, mass"):
        initialize(pair, "middle")
