"""Images interpolated by compiled loops, compared with torch and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.kernels.compiled import torch_only
from hybridreg.kernels.enclosing import enclosed
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    DisplacementField,
    compose,
    interpolate,
    rigid,
)
from hybridreg.warping import jacobian_determinant, warp


@pytest.fixture(params=[2, 3], ids=["2D", "3D"])
def scene(request) -> tuple[Image, LabelMap, Grid, AffineTransform, DisplacementField]:
    """An oblique, anisotropic image and labels, another grid,
    an affine and a rough field onto it.
    """
    dimension = request.param
    generator = torch.Generator().manual_seed(3)
    cosine, sine = np.cos(0.3), np.sin(0.3)
    turned = np.eye(dimension)
    turned[:2, :2] = [[cosine, -sine], [sine, cosine]]
    grid = Grid(
        (13, 11, 9)[:dimension], (1.1, 0.7, 2.0)[:dimension], (5.0, -3.0, 2.0)[:dimension], turned
    )
    onto = Grid(
        (12, 14, 10)[:dimension], (0.9, 1.3, 1.7)[:dimension], (1.0, -8.0, -3.0)[:dimension]
    )
    image = Image(torch.randn(2, *grid.shape, generator=generator), grid)
    labels = LabelMap(torch.randint(0, 2**30, grid.shape, generator=generator), grid)
    matrix = torch.eye(dimension + 1, dtype=torch.float64)
    matrix[:-1] += 0.1 * torch.randn(dimension, dimension + 1, generator=generator).double()
    vectors = 1.5 * torch.randn(dimension, *onto.shape, generator=generator)
    return image, labels, onto, AffineTransform(matrix), DisplacementField(vectors, onto)


@pytest.mark.parametrize("how", ["linear", "nearest"])
def test_resampling_by_loops_is_what_torch_gives(scene, how):
    image, labels, onto, affine, field = scene
    for transform in (IDENTITY, affine, field):
        found = warp(image, transform, onto=onto, interpolation=how, default=-7.0).data
        found_labels = warp(labels, transform, onto=onto).data
        with torch_only():
            expected = warp(image, transform, onto=onto, interpolation=how, default=-7.0).data
            expected_labels = warp(labels, transform, onto=onto).data
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert torch.equal(found_labels, expected_labels)
        assert 0 < (found == -7).sum() < found.numel()


def test_interpolation_at_points_is_what_torch_gives_inside_and_outside(scene):
    image, _, onto, affine, _ = scene
    points = affine(onto.points())
    values, inside = interpolate(image.data, image.grid, points)
    with torch_only():
        expected, expected_inside = interpolate(image.data, image.grid, points)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    assert torch.equal(inside, expected_inside) and inside.any() and not inside.all()


def test_an_affine_sampled_on_a_grid_is_the_affine_at_its_points(scene):
    *_, onto, affine, _ = scene
    vectors = DisplacementField.sampled(affine, onto).vectors
    points = onto.points()
    torch.testing.assert_close(vectors, (affine(points) - points).movedim(-1, 0).float())
    twice = DisplacementField.sampled(compose(affine, affine), onto).vectors
    torch.testing.assert_close(twice, (affine(affine(points)) - points).movedim(-1, 0).float())


def test_the_jacobian_of_an_affine_is_its_determinant_everywhere(scene):
    *_, onto, affine, field = scene
    found = jacobian_determinant(affine, onto).data
    assert torch.allclose(found, torch.linalg.det(affine.linear).float())
    sampled = jacobian_determinant(DisplacementField.sampled(affine, onto), onto).data
    torch.testing.assert_close(found, sampled, rtol=0, atol=1e-5)
    precise = DisplacementField(field.vectors.double(), onto)
    torch.testing.assert_close(
        jacobian_determinant(field, onto).data,
        jacobian_determinant(precise, onto).data,
        rtol=0,
        atol=1e-4,
    )


def test_a_slice_as_a_volume_counts_as_undeformed_across():
    grid = Grid((1, 6, 7), (1.0, 1.0, 5.0))
    stretch = AffineTransform(torch.diag(torch.tensor([1.0, 1.2, 3.0, 1.0])))
    turned = compose(rigid([0, 0, 20], [1, 2, 3], [0, 0, 0]), stretch)
    assert torch.allclose(jacobian_determinant(turned, grid).data, torch.tensor(1.2), atol=1e-5)


def test_what_lies_between_marked_voxels_along_every_axis_is_enclosed():
    shell = np.zeros((9, 10, 11), bool)
    shell[2:7, 3:8, 1:9] = True
    shell[3:6, 4:7, 2:8] = False  # a cavity
    shell[0, 0, 0] = True  # alone in a corner
    expected = np.zeros_like(shell)
    expected[2:7, 3:8, 1:9] = True
    expected[0, 0, 0] = True
    assert np.array_equal(enclosed(shell), expected)
    with torch_only():
        assert np.array_equal(enclosed(shell), expected)
    noise = np.random.default_rng(1).random((7, 8, 9)) > 0.8
    found = enclosed(noise)
    with torch_only():
        assert np.array_equal(found, enclosed(noise))
    assert np.array_equal(enclosed(shell[4]), expected[4])
