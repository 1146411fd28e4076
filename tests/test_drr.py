"""Projections: against closed forms, exact integrals, ITK's ray casting and finite differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import oblique_grid
from torch import Tensor

from hybridreg.drr import Projector, attenuation, by_structure
from hybridreg.geometry import Grid, apply_matrix
from hybridreg.images import Image, LabelMap
from hybridreg.kernels import compiled
from hybridreg.kernels.projection import line_integrals
from hybridreg.poses import pose, pose_matrices
from hybridreg.radiographs import Detector
from hybridreg.transforms import AffineTransform, interpolate, rigid

GRID = Grid((40, 44, 48), (1.0, 1.1, 0.9), (-21.0, -23.0, -20.0))
POSES = [(0, 0, 0, 0, 0, 0), (20, -35, 50, 1.5, -2, 3), (-70, 10, 5, 0, 4, -1)]


def detector(primary: float = 30.0, secondary: float = -15.0) -> Detector:
    return Detector.of_c_arm(
        (23, 17),
        (4.0, 4.5),
        source_to_detector=900.0,
        source_to_isocenter=600.0,
        primary_deg=primary,
        secondary_deg=secondary,
        principal_point=(9.5, 7.0),
    )


def rays(view: Detector, at: AffineTransform) -> tuple[Tensor, Tensor]:
    """Source (3,) and unit directions (rows, columns, 3) in the frame of the CT."""
    source = at(torch.tensor(view.source)[None].double())[0]
    along = at(view.grid.points()[0]) - source
    return source, along / along.norm(dim=-1, keepdim=True)


def soft(depth: Tensor, grid: Grid) -> Image:
    """1 inside a solid, from the depth in mm below its surface, with an edge of one voxel."""
    return Image((0.5 + depth / np.mean(grid.spacing)).clamp(0, 1).float(), grid)


def check_chords(found: Tensor, expected: Tensor):
    """Within 1 % of the longest; at the silhouette, where chords rise steeply, in the mean."""
    deep = expected > 0.5 * expected.max()
    assert deep.sum() > 20
    assert (found - expected)[deep].abs().max() < 0.01 * expected.max()
    assert abs(found.mean() / expected.mean() - 1) < 0.01


def noise(grid: Grid, channels: int = 1) -> Image:
    """Smooth enough to have derivatives that differences show."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(channels, 1, *grid.shape, generator=generator)
    return Image(torch.nn.functional.avg_pool3d(values, 5, 1, 2)[:, 0], grid)


@pytest.mark.parametrize("numbers", POSES)
def test_a_sphere_has_the_chords_of_its_closed_form(numbers):
    at = pose(numbers)
    center, radius = torch.tensor([1.0, -2.0, 0.5]).double(), 15.0
    found = Projector(soft(radius - (GRID.points() - center).norm(dim=-1), GRID))(detector(), at)[0]
    source, along = rays(detector(), at)
    offset = torch.linalg.cross(along, (source - center).expand_as(along)).norm(dim=-1)
    expected = 2 * (radius**2 - offset**2).clamp(min=0).sqrt()
    check_chords(found, expected)


@pytest.mark.parametrize("numbers", POSES)
def test_a_box_of_whole_voxels_keeps_its_full_length(numbers):
    data = torch.zeros(GRID.shape)
    data[8:32, 10:30, 12:40] = 1
    low, high = (
        apply_matrix(GRID.voxel_to_physical(), torch.tensor(corner).double())
        for corner in ([11.5, 9.5, 7.5], [39.5, 29.5, 31.5])
    )
    at = pose(numbers)
    found = Projector(Image(data, GRID))(detector(), at)[0]
    source, along = rays(detector(), at)
    expected, smaller = (_chords_of_box(low + n, high - n, source, along) for n in (0.0, 1.0))
    sound = (expected - smaller < 4) & (smaller > 0)  # others graze a face, which is a voxel thick
    assert sound.sum() > 10
    assert (found - expected)[sound].abs().max() < 0.01 * expected.max()
    assert (found - expected)[sound].square().mean().sqrt() < 0.005 * expected.max()
    assert abs(found.mean() / expected.mean() - 1) < 0.01


def _chords_of_box(low: Tensor, high: Tensor, source: Tensor, along: Tensor) -> Tensor:
    ends = torch.stack([(low - source) / along, (high - source) / along])
    return (ends.amax(0).amin(-1) - ends.amin(0).amax(-1)).clamp(min=0)


def test_a_cylinder_that_lies_askew_has_the_chords_of_its_closed_form():
    axis = torch.tensor([0.5, -0.4, 0.75]).double()
    axis /= axis.norm()
    points, radius = GRID.points(), 9.0
    across = points - (points @ axis)[..., None] * axis
    image = soft(radius - across.norm(dim=-1), GRID)
    source, along = rays(detector(), pose(POSES[0]))
    found = Projector(image)(detector(), pose(POSES[0]))[0]
    normal = torch.linalg.cross(along, axis.expand_as(along))
    distance = (normal @ source).abs() / normal.norm(dim=-1)
    expected = 2 * (radius**2 - distance**2).clamp(min=0).sqrt() / normal.norm(dim=-1)
    middle = apply_matrix(GRID.to_normalized(), _nearest(source, along, axis)).abs().amax(-1) < 0.5
    check_chords(found[middle], expected[middle])


def _nearest(source: Tensor, along: Tensor, axis: Tensor) -> Tensor:
    """The points of the rays that are nearest to an axis through 0."""
    a, b = source - (source @ axis) * axis, along - (along @ axis)[..., None] * axis
    return source - along * ((b @ a) / (b * b).sum(-1))[..., None]


def exact(image: Image, source: Tensor, end: Tensor) -> float:
    """The integral of the trilinear volume between two points, in mm: two Gauss points a cell."""
    grid = image.grid.crop((-1,) * 3, [n + 1 for n in image.grid.shape])
    first, last = apply_matrix(grid.physical_to_voxel(), torch.stack([source, end]))
    planes = [(torch.arange(n) - a) / (b - a) for n, a, b in zip(grid.size, first, last)]
    cuts = torch.cat(planes).clamp(0, 1).unique()
    middle, half = (cuts[1:] + cuts[:-1]) / 2, (cuts[1:] - cuts[:-1]) / 2
    places = torch.cat([middle - half / math.sqrt(3), middle + half / math.sqrt(3)])
    padded = torch.nn.functional.pad(image.data, (1,) * 6)
    values, _ = interpolate(padded, grid, source + places[:, None] * (end - source))
    return ((values[0] * half.repeat(2)).sum() * (end - source).norm()).item()


def test_the_error_against_the_exact_integral_of_the_volume_is_small():
    grid = oblique_grid()
    volume, view = noise(grid), detector()
    at = pose((10, 20, 30, 1, 2, 3), grid.center)
    found = Projector(volume)(view, at)[0]
    source = at(torch.tensor(view.source)[None].double())[0]
    ends = at(view.grid.points()[0])
    chosen = [(8, 9), (5, 12), (10, 7), (7, 10), (9, 9)]
    expected = torch.tensor([exact(volume, source, ends[i, j]) for i, j in chosen])
    values = torch.stack([found[i, j] for i, j in chosen])
    assert expected.min() > 5
    assert (values - expected).abs().max() < 0.005 * expected.max()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_compiled_loops_and_torch_agree_in_images_and_derivatives(axis, monkeypatch):
    monkeypatch.setattr(compiled, "_SLAB_VOXELS", 1)
    monkeypatch.setattr("hybridreg.kernels.projection._LEAST_RAYS", 7)
    monkeypatch.setattr("hybridreg.kernels.projection._SAMPLES", 1000)
    volume = torch.nn.functional.pad(noise(Grid((9, 11, 13)), 2).data, (1,) * 6)
    generator = torch.Generator().manual_seed(axis)
    middle = torch.tensor(volume.shape[:0:-1]) / 2
    sources = middle + 3 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
    directions = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    sources[:, axis] -= 40
    directions[..., axis] += 80
    directions[0, 0, (axis + 1) % 3] = 0
    results = []
    for dtype in (torch.float32, torch.float64):  # float64 goes by torch
        rays = [r.clone().requires_grad_() for r in (sources, directions)]
        image = line_integrals(volume.to(dtype), *rays)
        weights = torch.cos(torch.arange(image.numel())).reshape(image.shape).to(dtype)
        (image * weights).sum().backward()
        results.append([image, *(r.grad for r in rays)])
    for compiled_one, by_torch in zip(*results, strict=True):
        scale = by_torch.abs().max()
        assert scale > 0
        assert (compiled_one - by_torch).abs().max() < 2e-5 * scale


def test_derivatives_by_the_pose_are_those_of_finite_differences():
    grid = oblique_grid()
    projector, view, center = Projector(noise(grid, 2)), detector(), tuple(grid.center.tolist())
    at = torch.tensor([5.0, -3.0, 8.0, 0.4, -0.3, 0.2]).double()
    image, slopes = projector.with_derivatives(view, at, center)
    torch.testing.assert_close(image, projector(view, pose(at, center)))
    for k, step in enumerate([0.02] * 3 + [0.02] * 3):
        ends = [
            projector(view, pose(at + sign * step * torch.eye(6)[k], center)) for sign in (-1, 1)
        ]
        difference = (ends[1] - ends[0]) / (2 * step)
        off = (slopes[k] - difference).abs()
        assert difference.abs().max() > 0.05
        assert off.mean() < 0.02 * difference.abs().mean()


def test_autograd_agrees_with_the_derivatives_in_a_batch_of_poses():
    grid = oblique_grid()
    projector, view, center = Projector(noise(grid, 2)), detector(), tuple(grid.center.tolist())
    several = torch.tensor(POSES, dtype=torch.float64).requires_grad_()
    images = projector(view, pose_matrices(several, center))
    assert images.shape == (3, 2, 17, 23)
    weights = torch.sin(torch.arange(images.numel())).reshape(images.shape)
    (images * weights).sum().backward()
    for n, numbers in enumerate(POSES):
        image, slopes = projector.with_derivatives(view, torch.tensor(numbers).double(), center)
        torch.testing.assert_close(images[n], image)
        expected = (slopes * weights[n]).sum((1, 2, 3)).double()
        torch.testing.assert_close(several.grad[n], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow  # importing itk takes seconds
def test_itk_casts_the_same_image_but_for_the_voxel_that_it_loses():
    itk = pytest.importorskip("itk")
    grid = Grid((30, 30, 30), (1.0, 1.0, 1.0), (-14.5,) * 3)
    values = noise(grid).data[0]
    values[:2] = values[-2:] = 0
    values[:, :2] = values[:, -2:] = 0
    values[..., :2] = values[..., -2:] = 0
    view = Detector.of_c_arm(
        (12, 12), (2.0, 2.0), source_to_detector=400.0, source_to_isocenter=300.0
    )
    image = itk.image_from_array(values.numpy())
    image.SetOrigin(grid.origin)
    caster = itk.RayCastInterpolateImageFunction[itk.Image[itk.F, 3], itk.D].New()
    caster.SetInputImage(image)
    caster.SetFocalPoint(view.source)
    caster.SetThreshold(0.0)
    caster.SetTransform(itk.Euler3DTransform[itk.D].New())
    points = view.grid.points()[0]
    expected = torch.tensor([[caster.Evaluate(p.tolist()) for p in row] for row in points])
    found = Projector(Image(values, grid))(view, AffineTransform(torch.eye(4)))[0]
    assert found.max() > 10
    assert (found - expected).abs().max() < 0.05 * found.max()
    assert (found - expected).mean().abs() < 0.01 * found.max()


@pytest.mark.gpu
def test_a_gpu_gives_the_same_image_and_derivatives():
    volume, at = noise(oblique_grid(), 2), torch.tensor(POSES[1]).double()
    center = tuple(oblique_grid().center.tolist())
    there = Image(volume.data.cuda(), volume.grid)
    found = Projector(there).with_derivatives(detector(), at, center)
    expected = Projector(volume).with_derivatives(detector(), at, center)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)


def test_an_affine_pose_is_followed_on_oblique_grids():
    """The CT through a rigid transform, and the grid moved by it instead, give the same image."""
    grid, view = oblique_grid(left_handed=True), detector()
    volume, centered = noise(grid), pose((0,) * 6, grid.center)
    turn = rigid([10, -25, 40], [2, 3, -4], grid.center)
    matrix = turn.inverse().matrix @ grid.voxel_to_physical()
    axes = matrix[:3, :3] / torch.tensor(grid.spacing)
    moved = replace(grid, origin=matrix[:3, 3].tolist(), direction=axes.tolist())
    through = AffineTransform(turn.matrix @ centered.matrix)
    expected = Projector(volume)(view, through)
    torch.testing.assert_close(Projector(Image(volume.data, moved))(view, centered), expected)
    assert expected.max() > 10


def test_a_region_of_interest_is_a_part_of_the_image():
    projector, at, view = Projector(noise(GRID)), pose(POSES[1]), detector()
    region = view.crop(slice(3, 10), slice(5, -2))
    torch.testing.assert_close(projector(region, at), projector(view, at)[:, 3:10, 5:-2])


def test_structures_sum_to_the_whole():
    mu = noise(GRID)
    labels = LabelMap(
        (GRID.points()[..., 0] > 0).int() * 3 + (GRID.points()[..., 1] > 4).int(), GRID
    )
    parts = Projector(by_structure(mu, labels))(detector(), pose(POSES[1]))
    assert parts.shape[0] == 4
    whole = Projector(mu)(detector(), pose(POSES[1]))[0]
    torch.testing.assert_close(parts.sum(0), whole, rtol=1e-4, atol=1e-4)


def test_hounsfield_units_become_attenuation_and_other_numbers_are_refused():
    ct = Image(
        torch.tensor([-2000.0, -1000.0, -500.0, 0.0, 1000.0]).reshape(1, 1, 5), Grid((1, 1, 5))
    )
    expected = 0.0192 * torch.tensor([0, 0, 0.5, 1, 2])
    torch.testing.assert_close(attenuation(ct).data.flatten(), expected)
    assert attenuation(ct, calcium=1.5).data.max() == pytest.approx(0.0192 * 2.5)
    with pytest.raises(ValueError, match="no CT in HU"):
        attenuation(Image(ct.data + 2000, ct.grid))


def test_a_volume_that_wants_gradients_is_refused():
    volume = torch.zeros(1, 4, 4, 4, requires_grad=True)
    with pytest.raises(ValueError, match="no gradient by the volume"):
        line_integrals(volume, torch.zeros(1, 3).double(), torch.ones(1, 1, 3).double())
