"""Resampling agrees with SimpleITK; Jacobians and inverses with closed forms."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid
from test_geometry import sitk_image
from test_transforms import bspline_pair, turned

from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.transforms import AffineTransform, DisplacementField, compose
from hybridreg.warping import invert, jacobian_determinant, warp


def pair_of_grids(dimension: int) -> tuple[Grid, Grid]:
    """An oblique fixed grid and a left-handed moving grid of other spacing that overlap in part."""
    fixed, moving = oblique_grid(dimension), oblique_grid(dimension, left_handed=True)
    shift = fixed.center - moving.center + 4.0
    origin = (torch.tensor(moving.origin, dtype=torch.float64) + shift).tolist()
    return fixed, Grid(moving.shape, np.multiply(moving.spacing, 0.9), origin, moving.direction)


def both_transforms(dimension: int, fixed: Grid):
    affine, (bspline, theirs) = turned(dimension, fixed), bspline_pair(fixed)
    linear, shift = affine.linear.numpy().ravel().tolist(), affine.translation.tolist()
    matrix = sitk.AffineTransform(linear, shift)
    return compose(bspline, affine), sitk.CompositeTransform([theirs, matrix])


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize(
    ("interpolation", "code"),
    [
        ("linear", sitk.sitkLinear),
        ("nearest", sitk.sitkNearestNeighbor),
        ("cubic", sitk.sitkBSpline),
    ],
)
def test_warp_agrees_with_simpleitk_on_oblique_grids(dimension, interpolation, code):
    fixed, moving = pair_of_grids(dimension)
    ours, theirs = both_transforms(dimension, fixed)
    image = Image(torch.rand(2, *moving.shape) * 1000, moving)
    found = warp(image, ours, onto=fixed, interpolation=interpolation, default=-7.0)
    for channel in range(2):
        source = sitk.GetImageFromArray(image.data[channel].numpy())
        source.CopyInformation(sitk_image(moving))
        expected = sitk.Resample(source, sitk_image(fixed), theirs, code, -7.0, sitk.sitkFloat32)
        expected = torch.from_numpy(sitk.GetArrayFromImage(expected))
        assert 0.1 < (expected != -7).double().mean() < 1
        assert torch.allclose(found.data[channel], expected, atol=0.01)  # 1e-5 of the range


@pytest.mark.parametrize("dimension", [2, 3])
def test_labels_are_warped_by_nearest_neighbor_as_in_simpleitk(dimension):
    fixed, moving = pair_of_grids(dimension)
    ours, theirs = both_transforms(dimension, fixed)
    labels = LabelMap(torch.randint(0, 5000, moving.shape), moving, {3: "three"})
    found = warp(labels, ours, onto=fixed)
    source = sitk.GetImageFromArray(labels.data.numpy())
    source.CopyInformation(sitk_image(moving))
    expected = sitk.Resample(source, sitk_image(fixed), theirs, sitk.sitkNearestNeighbor, 0)
    assert torch.equal(found.data, torch.from_numpy(sitk.GetArrayFromImage(expected)))
    assert found.names == {3: "three"} and found.data.dtype == torch.int32


def test_what_is_outside_shows_the_lowest_finite_value_of_each_channel():
    moving = Grid((4, 5, 6), (1.0, 1.0, 1.0))
    data = torch.rand(3, *moving.shape) * 100
    data[:, 0, 0, :3] = torch.tensor([[-1000.0], [7.0], [0.0]])
    data[:, 0, 1, 0] = torch.tensor([-torch.inf, torch.nan, 0.0])
    shift = AffineTransform.from_parts(torch.eye(3), [2.0, 0, 0])
    for how in ("linear", "nearest"):
        outside = warp(Image(data, moving), shift, onto=moving, interpolation=how).data[..., 4:]
        for channel, least in enumerate((-1000.0, data[1][data[1].isfinite()].min(), 0.0)):
            assert (outside[channel] == least).all()
    given = warp(Image(data, moving), shift, onto=moving, default=-7.0).data[..., 4:]
    assert (given == -7).all()
    labels = LabelMap(torch.full(moving.shape, 5), moving)
    assert warp(labels, shift, onto=moving).data.unique().tolist() == [0, 5]
    nothing = Image(torch.full(moving.shape, torch.nan), moving)
    assert (warp(nothing, shift, onto=moving).data[..., 4:] == 0).all()


def test_a_field_on_the_fixed_grid_warps_as_the_transform_it_was_sampled_from():
    fixed, moving = pair_of_grids(3)
    transform, _ = both_transforms(3, fixed)
    image = Image(torch.rand(moving.shape), moving)
    by_field = warp(image, DisplacementField.sampled(transform, fixed), onto=fixed)
    assert torch.allclose(by_field.data, warp(image, transform, onto=fixed).data, atol=1e-5)


def test_inputs_are_never_modified():
    fixed, moving = pair_of_grids(2)
    transform, _ = both_transforms(2, fixed)
    image = Image(torch.rand(moving.shape), moving)
    before = image.data.clone()
    warp(image, transform, onto=fixed)
    assert torch.equal(image.data, before)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_jacobian_of_an_affine_is_its_determinant_everywhere(dimension):
    grid = oblique_grid(dimension, left_handed=True)
    linear = torch.eye(dimension, dtype=torch.float64) + 0.2 * torch.randn(dimension, dimension)
    affine = AffineTransform.from_parts(linear, [3.0] * dimension, grid.center)
    expected = torch.linalg.det(linear).item()
    found = jacobian_determinant(affine, grid).data
    assert torch.allclose(found, torch.full_like(found, expected), atol=1e-4)


def test_the_jacobian_of_a_sine_agrees_with_calculus_to_second_order():
    """u = a sin(x / b) along LPS x, seen on an oblique grid: det = 1 + a / b cos(x / b)."""

    class Sine:
        def __call__(self, points):
            wave = torch.sin(points[..., 0] / 9.0) * 6.0
            return points + torch.stack([wave, 0 * wave, 0 * wave], -1)

    errors = []
    for factor in (1.0, 0.5):
        base = oblique_grid()
        grid = base.with_spacing([s * factor for s in base.spacing])
        expected = 1 + 6 / 9 * torch.cos(grid.points()[..., 0] / 9.0)
        found = jacobian_determinant(Sine(), grid).data[0]
        inner = tuple(slice(1, -1) for _ in grid.shape)
        errors.append((found - expected)[inner].abs().max().item())
    assert errors[0] < 0.02 and errors[1] < errors[0] / 3.5


def test_the_jacobian_agrees_with_simpleitks():
    oblique = oblique_grid()
    grid = Grid(oblique.shape, oblique.spacing, oblique.origin)  # ITK's filter ignores direction
    _, theirs = bspline_pair(grid)
    args = grid.size, grid.origin, grid.spacing, np.ravel(grid.direction)
    field = sitk.TransformToDisplacementField(theirs, sitk.sitkVectorFloat64, *args)
    ours, _ = bspline_pair(grid)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))
    inner = tuple(slice(1, -1) for _ in grid.shape)  # ITK pads the border, we difference one-sided
    found = jacobian_determinant(ours, grid).data[0].numpy()
    assert np.abs(found - expected)[inner].max() < 1e-4


def test_slabs_leave_no_seam_in_the_jacobian(monkeypatch):
    grid = oblique_grid()
    transform, _ = bspline_pair(grid)
    whole = jacobian_determinant(transform, grid).data
    monkeypatch.setattr(Grid.slabs, "__defaults__", (700,))
    assert torch.allclose(jacobian_determinant(transform, grid).data, whole, atol=1e-5)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_inverse_on_the_moving_grid_undoes_a_composite(dimension):
    grid = oblique_grid(dimension)
    affine, (bspline, _) = turned(dimension, grid), bspline_pair(grid, size_mm=0.7)
    moving = Grid(grid.shape, grid.spacing, affine(grid.points().flatten(0, -2))[0], grid.direction)
    transform = compose(bspline, affine)
    inverse = invert(transform, onto=moving)
    assert inverse.mean_residual_mm < 1e-3
    y = moving.points()[tuple(slice(5, -5) for _ in moving.shape)]
    assert (transform(inverse.transform(y)) - y).norm(dim=-1).max() < 1e-3
    exact = invert(affine, onto=moving)
    assert exact.max_residual_mm == 0 and isinstance(exact.transform, AffineTransform)


def test_warping_across_dimensions_and_unknown_interpolations_are_refused():
    image = Image(torch.rand(5, 6), Grid((5, 6)))
    with pytest.raises(ValueError, match="2D image cannot be warped onto 3D"):
        warp(image, AffineTransform(torch.eye(3)), onto=Grid((5, 6, 7)))
    with pytest.raises(ValueError, match="interpolation is one of"):
        warp(image, AffineTransform(torch.eye(3)), onto=image.grid, interpolation="sinc")
    assert math.isfinite(image.data.sum())
