"""Angles, scales and shifts come back from the transforms they were put into."""

import pytest
import torch
from conftest import oblique_grid
from test_transforms import bspline_pair, turned

from hybridreg.decomposition import decompose, fitted_affine
from hybridreg.transforms import AffineTransform, DisplacementField, compose, rigid


@pytest.mark.parametrize(
    "angles",
    [(12.0, -25.0, 40.0), (-60.0, 170.0, -100.0), (90.0, 0.0, 20.0), (-90.0, 0.0, 20.0), (30.0,)],
)
def test_angles_and_shift_of_a_rigid_come_back_about_any_center(angles):
    dimension = 3 if len(angles) == 3 else 2
    shift = (3.0, -8.0, 5.0)[:dimension]
    center = torch.tensor([20.0, -30.0, 60.0], dtype=torch.float64)[:dimension]
    found = decompose(rigid(angles, shift, center), center)
    assert found.rotation_deg == pytest.approx(angles, abs=1e-6)
    assert found.translation_mm == pytest.approx(shift)
    assert found.scales == pytest.approx([1.0] * dimension) and not found.reflects


def test_scales_and_reflections_are_distinguished():
    stretch = torch.diag(torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64))
    turn = rigid((10.0, 20.0, 30.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    found = decompose(compose(turn, AffineTransform.from_parts(stretch, [0.0] * 3)))
    assert found.scales == pytest.approx([2.0, 1.0, 0.5])
    assert found.rotation_deg == pytest.approx([10.0, 20.0, 30.0])
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    found = decompose(compose(turn, AffineTransform.from_parts(mirror, [0.0] * 3)))
    assert found.reflects and found.scales == pytest.approx([1.0] * 3)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_fitted_affine_of_an_affine_is_itself(dimension):
    grid = oblique_grid(dimension, left_handed=True)
    affine = turned(dimension, grid)
    found = fitted_affine(DisplacementField.sampled(affine, grid))
    assert torch.allclose(found(grid.corners()), affine(grid.corners()), atol=1e-4)


def test_no_other_affine_fits_a_deformation_better():
    grid = oblique_grid()
    field = DisplacementField.sampled(compose(bspline_pair(grid)[0], turned(3, grid)), grid)
    points = grid.points()
    target = points + field.vectors.movedim(0, -1)
    best = fitted_affine(field)
    error = (best(points) - target).square().sum()
    for _ in range(10):
        nudge = torch.eye(4, dtype=torch.float64)
        nudge[:3] += 1e-3 * torch.randn(3, 4, dtype=torch.float64)
        assert (compose(AffineTransform(nudge), best)(points) - target).square().sum() > error
