"""Folds are taken out of B-splines, and nothing else is changed."""

import pytest
import torch
from conftest import oblique_grid

from hybridreg.geometry import Grid, apply_matrix
from hybridreg.transforms import AffineTransform, BSplineTransform, DisplacementField, compose
from hybridreg.unfolding import unfolded
from hybridreg.warping import jacobian_determinant


def bent(dimension, size_mm, *, order=3, left_handed=False, seed=0):
    """A B-spline of independent random displacements on an oblique, anisotropic control grid."""
    grid = oblique_grid(dimension, left_handed=left_handed)
    grid = grid.with_spacing([5.0 * s for s in grid.spacing])
    draw = torch.Generator().manual_seed(seed)
    shape = (dimension, *(n + 5 for n in grid.shape))
    coefficients = size_mm * torch.randn(shape, generator=draw, dtype=torch.float64)
    return BSplineTransform(
        coefficients, Grid(shape[1:], grid.spacing, grid.origin, grid.direction), order
    )


def determinants(spline):
    """At fine voxels of the region where the spline acts."""
    grid = spline.grid
    shape = [8 * (n - spline.order) + 1 for n in grid.shape]
    first = torch.full((1, grid.dimension), (spline.order - 1) / 2, dtype=torch.float64)
    origin = apply_matrix(grid.voxel_to_physical(), first)[0].tolist()
    fine = Grid(shape, [s / 8 for s in grid.spacing], origin, grid.direction)
    values = jacobian_determinant(DisplacementField.sampled(spline, fine), fine).data[0]
    return values[(slice(2, -2),) * grid.dimension]  # beyond the rim nothing moves


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("dimension", [2, 3])
def test_no_fold_is_left_of_a_deformation_that_folds_much(dimension, left_handed):
    folded = bent(dimension, 7.0, left_handed=left_handed)
    assert (determinants(folded) <= 0).float().mean() > 0.01
    assert determinants(unfolded(folded)).min() > 0


@pytest.mark.parametrize("order", [2, 3])
def test_a_sound_deformation_stays_exactly_as_it_is(order):
    sound = bent(3, 0.3, order=order)
    assert determinants(sound).min() > 0.1
    assert torch.equal(unfolded(sound).coefficients, sound.coefficients)


def test_control_points_away_from_the_fold_stay_exactly_as_they_are():
    calm = bent(3, 0.2)
    coefficients = calm.coefficients.clone()
    coefficients[:, 5, 5, 5] += 25.0
    mended = unfolded(BSplineTransform(coefficients, calm.grid)).coefficients
    changed = (mended != coefficients).any(0).nonzero()
    assert len(changed) and (changed - 5).abs().max() <= 4
    assert torch.equal(mended[:, 0], coefficients[:, 0])


def test_a_fold_is_undone_by_less_change_than_smoothing_all_control_points():
    folded = bent(3, 5.0, seed=3)
    mended = unfolded(folded).coefficients
    change = (mended - folded.coefficients).square().sum()
    mean = torch.nn.functional.avg_pool3d(folded.coefficients[None], 3, 1, padding=1)[0]
    assert 0 < change < 0.2 * (mean - folded.coefficients).square().sum()


def test_splines_inside_a_composition_are_unfolded_and_affine_parts_kept():
    affine = AffineTransform(torch.diag(torch.tensor([1.1, 0.9, 1.05, 1.0])))
    total = unfolded(compose(bent(3, 7.0), affine))
    assert total.parts[-1] is affine
    assert determinants(total.parts[0]).min() > 0
