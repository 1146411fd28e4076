"""Transforms agree with SimpleITK point by point, and undo themselves."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid
from test_geometry import sitk_image

from hybridreg.geometry import Grid
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    BSplineTransform,
    CompositeTransform,
    DisplacementField,
    compose,
    rigid,
)

DIMENSIONS = [2, 3]


def turned(dimension: int, grid: Grid) -> AffineTransform:
    angles = (15.0, -10.0, 12.0) if dimension == 3 else (15.0,)
    return rigid(angles, [20.0, -7.0, 5.0][:dimension], grid.center)


def bspline_pair(grid: Grid, order: int = 3, size_mm: float = 1.5):
    """The same random free-form deformation as ours and as SimpleITK's."""
    theirs = sitk.BSplineTransformInitializer(sitk_image(grid), [6] * grid.dimension, order)
    count = len(theirs.GetParameters())
    theirs.SetParameters(np.random.default_rng(order).normal(size=count) * size_mm)
    fixed = np.array(theirs.GetFixedParameters())
    d = grid.dimension
    shape = tuple(int(n) for n in fixed[:d][::-1])
    control = Grid(shape, fixed[2 * d : 3 * d], fixed[d : 2 * d], fixed[3 * d :].reshape(d, d))
    coefficients = np.array(theirs.GetParameters()).reshape(d, *shape)
    return BSplineTransform(torch.tensor(coefficients), control, order), theirs


def scattered(grid: Grid, count: int = 400) -> torch.Tensor:
    """Points in and around the field of view."""
    unit = torch.rand(count, grid.dimension, dtype=torch.float64) * 2.6 - 1.3
    matrix = grid.to_physical()
    return unit @ matrix[:-1, :-1].T + matrix[:-1, -1]


def mapped(transform: sitk.Transform, points: torch.Tensor) -> torch.Tensor:
    images = [transform.TransformPoint(p) for p in points.tolist()]
    return torch.tensor(images, dtype=torch.float64)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_rigid_agrees_with_itks_euler_transform(dimension):
    grid = oblique_grid(dimension)
    center = grid.center.tolist()
    angles = np.radians([15.0, -10.0, 12.0] if dimension == 3 else [15.0])
    kind = sitk.Euler3DTransform if dimension == 3 else sitk.Euler2DTransform
    theirs = kind(center, *angles, [20.0, -7.0, 5.0][:dimension])
    points = scattered(grid)
    assert torch.allclose(turned(dimension, grid)(points), mapped(theirs, points), atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("grid", [oblique_grid(2), oblique_grid(3, left_handed=True)])
def test_bsplines_agree_with_itk_inside_and_outside_their_region(grid, order):
    ours, theirs = bspline_pair(grid, order)
    points = scattered(grid)
    found, expected = ours(points), mapped(theirs, points)
    assert torch.allclose(found, expected, atol=1e-10)
    still = (expected - points).norm(dim=-1) == 0
    assert 0.1 < still.double().mean() < 0.9  # both regions were visited


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_bsplines_reach_the_very_edge_of_their_region(dimension, order):
    """At the last valid index, the far neighbor along an axis lies beyond the last coefficient."""
    size, margin = (7, 6, 5)[:dimension], (order - 1) / 2
    control = Grid(size[::-1])
    coefficients = torch.randn(dimension, *control.shape, dtype=torch.float64)
    edge = torch.cartesian_prod(*[torch.tensor([margin, n - 1 - margin]) for n in size]).double()
    found = BSplineTransform(coefficients, control, order)(edge)
    inner = edge.clamp(min=margin + 1e-9) - 1e-9 * (edge > margin)  # just inside: by continuity
    expected = BSplineTransform(coefficients, control, order)(inner)
    assert torch.allclose(found, expected, atol=1e-6)
    assert (found - edge).norm(dim=-1).min() > 1e-3


@pytest.mark.parametrize("grid", [oblique_grid(2), oblique_grid(3, left_handed=True)])
def test_displacement_fields_agree_with_itk_inside_and_outside(grid):
    vectors = torch.randn(grid.dimension, *grid.shape, dtype=torch.float64)
    image = sitk.GetImageFromArray(vectors.movedim(0, -1).numpy(), isVector=True)
    image.CopyInformation(sitk_image(grid))
    theirs = sitk.DisplacementFieldTransform(image)
    points = scattered(grid)
    found = DisplacementField(vectors, grid)(points)
    assert torch.allclose(found, mapped(theirs, points), atol=1e-10)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_composition_is_written_as_in_algebra(dimension):
    grid = oblique_grid(dimension)
    a, (b, _) = turned(dimension, grid), bspline_pair(grid)
    points = scattered(grid)
    assert torch.equal(CompositeTransform((a, b))(points), a(b(points)))
    nested = compose(IDENTITY, a, CompositeTransform((a, CompositeTransform((b, a)))), IDENTITY)
    assert [type(part) for part in nested.parts] == [AffineTransform, BSplineTransform, type(a)]
    assert torch.allclose(nested(points), a(a(b(a(points)))), atol=1e-10)
    assert torch.equal(IDENTITY(points), points)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_every_inverse_undoes_its_transform(dimension):
    grid = oblique_grid(dimension)
    a = rigid((5.0, -4.0, 3.0)[: 2 * dimension - 3], [1.0, -0.5, 0.7][:dimension], grid.center)
    b, _ = bspline_pair(grid, size_mm=0.7)
    field = DisplacementField.sampled(b, grid)
    inner = grid.points()[tuple(slice(7, -7) for _ in grid.shape)]
    for transform in (a, b, field, compose(b, a), compose(a, b, a)):
        back = transform.inverse()
        assert torch.allclose(back(transform(inner)), inner, atol=1e-3)
        assert (transform(inner) - inner).norm(dim=-1).max() > 0.5
    assert b.inverse().solve(inner)[1].max() <= 1e-4


def test_a_fold_shows_in_the_residual_of_the_inverse():
    grid = Grid((8, 40), (1.0, 1.0))
    vectors = torch.zeros(2, 8, 40)
    vectors[0, :, 20:] = -15.0  # the right half is laid over the left one
    _, residual = DisplacementField(vectors, grid).inverse().solve(grid.points())
    assert residual.max() > 1.0


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: AffineTransform(torch.eye(2)), "3x3 or 4x4"),
        (lambda: rigid([1.0, 2.0], [0.0, 0.0], [0.0, 0.0]), "found 2 angles"),
        (lambda: AffineTransform(torch.full((3, 3), torch.nan)), "finite"),
        (lambda: AffineTransform(torch.ones(4, 4)), "last row"),
        (lambda: AffineTransform(torch.diag(torch.tensor([1.0, 0, 1]))).inverse(), "singular"),
        (lambda: DisplacementField(torch.zeros(3, 4, 4), Grid((4, 4))), "do not fit"),
        (lambda: BSplineTransform(torch.zeros(2, 3, 9), Grid((3, 9))), "at least 4 control"),
        (lambda: BSplineTransform(torch.zeros(2, 9, 9), Grid((9, 9)), order=4), "order"),
    ],
)
def test_impossible_transforms_are_refused_in_words(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def every_kind(dimension: int) -> list:
    grid = oblique_grid(dimension)
    bspline, _ = bspline_pair(grid)
    affine = turned(dimension, grid)
    field = DisplacementField.sampled(bspline, grid)
    return [IDENTITY, affine, bspline, field, compose(bspline, affine), bspline.inverse()]


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_lists_and_arrays_of_points_are_mapped_as_tensors_are(dimension):
    points = scattered(oblique_grid(dimension), 6).reshape(2, 3, dimension)
    for transform in every_kind(dimension):
        expected = transform(points)
        for given in (points.numpy(), points.tolist(), tuple(points.numpy())):
            found = transform(given)
            assert isinstance(found, np.ndarray) and found.dtype == np.float64
            assert np.array_equal(found, expected.numpy())
        one = transform(points[0, 0].tolist())
        assert one.shape == (dimension,) and np.allclose(one, expected[0, 0], atol=1e-12)
        assert transform(points.float()).dtype == torch.float32
        whole = transform(points.round().long())  # must not be rounded again
        assert whole.dtype == torch.float64 and torch.equal(whole, transform(points.round()))


@pytest.mark.parametrize("bad", [3.0, [1.0], "1,2,3", [[1, 2, 3], [4, 5]], None, {"x": 1}])
def test_what_is_no_list_of_points_is_refused_in_words(bad):
    for transform in every_kind(3):
        with pytest.raises(ValueError, match="maps points in LPS mm"):
            transform(bad)
