"""Grids agree with SimpleITK on where voxels lie."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid
from scipy.spatial.transform import Rotation

from hybridreg.geometry import Grid, apply_matrix

GRIDS = [
    oblique_grid(3),
    oblique_grid(3, left_handed=True),
    oblique_grid(2),
    oblique_grid(2, left_handed=True),
]


def sitk_image(grid: Grid) -> sitk.Image:
    image = sitk.Image(list(grid.size), sitk.sitkFloat32)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.ravel(grid.direction))
    return image


@pytest.mark.parametrize("grid", GRIDS)
def test_points_agree_with_simpleitk(grid):
    image, points = sitk_image(grid), grid.points()
    for index in np.ndindex(*[min(n, 4) for n in grid.size]):
        expected = image.TransformIndexToPhysicalPoint([int(i) for i in index])
        assert points[index[::-1]].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_voxel_and_normalized_frames_are_inverse_to_physical(grid):
    points = torch.randn(50, grid.dimension, dtype=torch.float64) * 30
    for there, back in (
        (grid.to_normalized(), grid.to_physical()),
        (grid.physical_to_voxel(), grid.voxel_to_physical()),
    ):
        assert torch.allclose(apply_matrix(back, apply_matrix(there, points)), points, atol=1e-10)


@pytest.mark.parametrize("grid", GRIDS)
def test_normalized_one_is_the_outer_face(grid):
    image = sitk_image(grid)
    low = image.TransformContinuousIndexToPhysicalPoint([-0.5] * grid.dimension)
    high = image.TransformContinuousIndexToPhysicalPoint([n - 0.5 for n in grid.size])
    found = apply_matrix(grid.to_normalized(), torch.tensor([low, high], dtype=torch.float64))
    expected = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None].expand_as(found)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_slabs_and_crops_keep_every_voxel_where_it_was(grid):
    points = grid.points()
    for rows, slab in grid.slabs(voxels=700):
        assert torch.allclose(slab.points(), points[rows], atol=1e-11)
    start, stop = [3] * grid.dimension, [9] * grid.dimension
    inner = points[tuple(slice(3, 9) for _ in start)]
    assert torch.allclose(grid.crop(start, stop).points(), inner, atol=1e-11)


def test_axis_letters_of_any_rotation_are_those_of_nibabel():
    labels = (("R", "L"), ("A", "P"), ("I", "S"))  # of LPS, as nibabel has them of RAS
    for seed in range(200):  # also about 45 degrees off, where two axes are nearest to one letter
        direction = Rotation.random(random_state=seed).as_matrix()
        direction[:, 0] *= (-1) ** seed
        grid = Grid((4, 5, 6), spacing=(1, 2, 3), direction=direction)
        affine = grid.voxel_to_physical().numpy()
        assert grid.axis_letters() == "".join(nibabel.aff2axcodes(affine, labels))


@pytest.mark.parametrize("grid", GRIDS)
def test_another_spacing_keeps_the_center_and_covers_the_field_of_view(grid):
    for spacing in ([2 * s for s in grid.spacing], [0.7] * grid.dimension):
        other = grid.with_spacing(spacing)
        assert torch.allclose(other.center, grid.center, atol=1e-11)
        assert other.contains(grid.corners() * (1 - 1e-9) + grid.center * 1e-9).all()
        assert all(a - b < s for a, b, s in zip(other.extent, grid.extent, other.spacing))


@pytest.mark.parametrize("grid", GRIDS)
def test_turned_and_reordered_axes_keep_every_voxel_where_it_was(grid):
    order = (2, 0, 1)[: grid.dimension] if grid.dimension == 3 else (1, 0)
    turned = (0, grid.dimension - 1)
    points = grid.points().permute(*order, -1).flip(turned)
    assert torch.allclose(grid.with_axes(order, turned).points(), points, atol=1e-11)


@pytest.mark.parametrize("grid", GRIDS)
def test_upright_axes_point_as_the_patients(grid):
    reordered = grid.with_axes(tuple(range(grid.dimension))[::-1], (0,))
    upright = reordered.with_axes(*reordered.upright_axes())
    directions = np.array(upright.direction)
    assert (np.argmax(np.abs(directions), axis=0) == np.arange(grid.dimension)).all()
    assert (np.diag(directions) > 0).all()


def test_matches_forgives_header_noise_but_not_half_a_voxel():
    grid = oblique_grid()
    noisy = Grid(grid.shape, grid.spacing, np.add(grid.origin, 1e-8), np.add(grid.direction, 1e-8))
    shifted = Grid(grid.shape, grid.spacing, np.add(grid.origin, 0.45), grid.direction)
    assert grid.matches(noisy) and not grid.matches(shifted)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(shape=(3, 4, 5, 6)), "2 or 3 axes"),
        (dict(shape=(3, 0, 5)), "at least one voxel"),
        (dict(shape=(3, 4), spacing=(1, 0)), "positive"),
        (dict(shape=(3, 4), spacing=(1, np.nan)), "finite"),
        (dict(shape=(3, 4), spacing=(1, 1, 1)), "spacing needs shape"),
        (dict(shape=(3, 4), direction=((1, 0), (1, 0))), "right angles"),
        (dict(shape=(3, 4), direction=((1, 0.1), (0, 1))), "right angles"),
    ],
)
def test_impossible_grids_are_refused_in_words(arguments, says):
    with pytest.raises(ValueError, match=says):
        Grid(**arguments)
