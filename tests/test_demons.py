"""Diffeomorphic demons: against ITK's, in steps and in what they recover, without folds."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from bent_scenes import bent, error_mm, masked_apart, thick, turned_far, with_noise

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.kernels.compiled import torch_only
from hybridreg.kernels.demons import demons_step, exponential
from hybridreg.kernels.jacobians import determinants
from hybridreg.kernels.smoothing import smoothed
from hybridreg.methods.base import RegistrationError
from hybridreg.methods.demons import Demons
from hybridreg.phantoms import blobs
from hybridreg.transforms import IDENTITY, DisplacementField
from hybridreg.warping import jacobian_determinant, warp

QUICK = Demons(iterations=(40, 40, 30), scaled=False)


def isotropic(case) -> ImagePair:
    """Both images on one oblique grid of equal voxels, whose step length ITK counts in voxels."""
    grid = case.pair.fixed.grid.with_spacing([2.0] * case.pair.dimension)
    return ImagePair(
        *(warp(image, IDENTITY, onto=grid) for image in (case.pair.fixed, case.pair.moving))
    )


def by_itk(pair: ImagePair, **settings) -> torch.Tensor:
    """The displacement (*shape, D) in LPS mm of ITK's filter without any smoothing.

    Intensities are times 100, since it skips differences below .001.
    """
    images = []
    for image in (pair.fixed, pair.moving):
        made = sitk.GetImageFromArray(image.data[0].double().numpy() * 100)
        made.SetSpacing(image.grid.spacing)
        made.SetOrigin(image.grid.origin)
        made.SetDirection(np.array(image.grid.direction).ravel())
        images.append(made)
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetSmoothDisplacementField(False)
    demons.SetSmoothUpdateField(False)
    demons.SetUseGradientType(demons.Symmetric)
    for name, value in settings.items():
        getattr(demons, f"Set{name}")(value)
    return torch.from_numpy(sitk.GetArrayFromImage(demons.Execute(*images)))


@pytest.mark.parametrize("dimension", [2, 3])
def test_without_smoothing_its_steps_are_those_of_itk(dimension):
    pair = isotropic(bent(dimension))
    settings = {"NumberOfIterations": 3, "MaximumUpdateStepLength": 0.5}
    expected = by_itk(pair, **settings)
    plain = Demons(
        spacing_mm=2.0,
        iterations=(3,),
        tolerance=0,
        step=0.5,
        fluid_mm=0,
        diffusion_mm=0,
        scaled=False,
    )
    points = pair.fixed.grid.points()
    found = plain.register(pair).transform(points) - points
    shown = pair.fixed.data[0] > 0.1
    inner = torch.zeros_like(shown)
    inner[(slice(4, -4),) * dimension] = True
    shown &= inner  # at the border ITK has no gradient of the fixed image
    assert expected[shown].norm(dim=-1).mean() > 0.5
    apart = (found - expected)[shown].norm(dim=-1)
    assert apart.mean() < 0.005 and apart.quantile(0.99) < 0.1  # of a voxel of 2 mm


@pytest.mark.parametrize("shape", [(23, 17), (13, 5, 19), (1, 6, 7)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_is_the_minimum_of_its_energy_and_agrees_with_torch(shape, weighted):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *shape, generator=generator) for _ in range(2)]
    weight = torch.rand(shape, generator=generator) if weighted else None
    spacing = (0.7, 1.5, 2.0)[: len(shape)]
    found = demons_step(*images, weight, spacing, 1.5)
    with torch_only():
        expected = demons_step(*images, weight, spacing, 1.5)
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)

    fixed, moved = (i.double() for i in images)
    mean, r = (fixed + moved) / 2, fixed - moved
    axes = [len(shape) - axis for axis in range(len(shape))]
    slopes = [
        torch.gradient(mean, spacing=h, dim=a)[0] if mean.shape[a] > 1 else torch.zeros_like(mean)
        for a, h in zip(axes, spacing, strict=True)
    ]
    v = found.double().requires_grad_()
    misfit = r - sum(s * c for s, c in zip(slopes, v, strict=True))
    w = 1.0 if weight is None else weight
    energy = (w * misfit.square().sum(0)) + r.square().sum(0) / (4 * 1.5**2) * v.square().sum(0)
    (gradient,) = torch.autograd.grad(energy.sum(), v)
    assert gradient.abs().max() < 1e-3


def test_no_step_is_longer_than_allowed_and_none_is_taken_where_images_agree_or_weigh_nothing():
    generator = torch.Generator().manual_seed(1)
    fixed, moved = (torch.rand(2, 9, 10, 11, generator=generator) for _ in range(2))
    moved[:, :, :4] = fixed[:, :, :4]
    weight = torch.ones(9, 10, 11)
    weight[6:] = 0
    found = demons_step(fixed, moved, weight, (1.0, 1.0, 1.0), 0.8)
    assert 0.5 < found.norm(dim=0).max() <= 0.8 + 1e-5
    assert found[:, 6:].abs().max() == 0 and found[:, :, :4].abs().max() == 0


@pytest.mark.parametrize("shape", [(40, 41), (30, 31, 32)])
def test_an_exponential_has_the_exponential_of_the_opposite_as_its_inverse(shape):
    """And no folds, where adding the velocity itself folds."""
    generator = torch.Generator().manual_seed(2)
    spacing = (1.0, 1.5, 2.0)[: len(shape)]
    rough = torch.randn(len(shape), *shape, generator=generator)
    velocity = smoothed(rough, (3.0,) * len(shape))
    velocity *= 9 / velocity.norm(dim=0).max()
    grid = Grid(shape, spacing)
    fields = [exponential(v, spacing) for v in (velocity, -velocity)]
    assert determinants(velocity, spacing).min() < 0 < determinants(fields[0], spacing).min()
    along, back = (DisplacementField(field, grid) for field in fields)
    points = grid.points()[(slice(10, -10),) * len(shape)]
    assert (along(points) - points).norm(dim=-1).max() > 1
    assert (back(along(points)) - points).norm(dim=-1).mean() < 0.15


def test_a_uniform_velocity_is_its_own_exponential():
    velocity = torch.full((2, 8, 9), 3.3)
    assert torch.allclose(exponential(velocity, (1.0, 2.0)), velocity)
    assert torch.equal(exponential(0 * velocity, (1.0, 2.0)), 0 * velocity)


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_bend_is_followed_without_folds_and_with_its_inverse(dimension):
    case = bent(dimension)
    grid = case.pair.fixed.grid
    result = QUICK.register(case.pair)
    before, after = (error_mm(case, t) for t in (IDENTITY, result.transform))
    assert before.median() > 2.5 and after.median() < 0.5
    assert jacobian_determinant(result.transform, grid).data.min() > 0
    points = grid.points()
    there = result.transform(points)
    kept = grid.contains(there)
    apart = (result.inverse(there[kept]) - points[kept]).norm(dim=-1)
    assert apart.mean() < 0.1 * min(grid.spacing)


def test_an_initial_transform_of_any_kind_is_part_of_the_result():
    case, initials = turned_far()
    for initial in initials:
        found = QUICK.register(case.pair, initial).transform
        assert error_mm(case, found).median() < 0.6 * error_mm(case, initial).median()


def test_torch_and_the_kernels_take_the_same_steps():
    case = bent(3)
    method = replace(QUICK, iterations=(15, 10))
    results = [method.register(case.pair)]
    with torch_only():
        results.append(method.register(case.pair))
    points = case.pair.fixed.grid.points()
    a, b = (result.transform(points) for result in results)
    assert (a - points).norm(dim=-1).max() > 2
    assert (a - b).norm(dim=-1).mean() < 0.02


def test_a_channel_of_noise_does_not_mislead_the_others():
    case = bent(3)
    result = QUICK.register(with_noise(case.pair))
    assert error_mm(case, result.transform).median() < error_mm(case, IDENTITY).median() / 2


def test_thick_slices_are_smoothed_in_mm():
    case = bent(3)
    result = QUICK.register(thick(case.pair))
    assert error_mm(case, result.transform).median() < 0.7 * error_mm(case, IDENTITY).median()


@pytest.mark.parametrize("name", ["fluid_mm", "diffusion_mm"])
def test_more_smoothing_gives_a_smoother_map(name):
    case = bent(2)
    spreads = []
    for sigma in (0.5, 1.5, 4.0):
        settings = {"iterations": (10,), "fluid_mm": 0.5, "diffusion_mm": 0.0, name: sigma}
        method = replace(QUICK, tolerance=0.0, **settings)
        found = method.register(case.pair).transform
        spreads.append(jacobian_determinant(found, case.pair.fixed.grid).data.log().std())
    assert spreads[0] > spreads[1] > spreads[2] > 0


def test_it_stops_by_itself():
    case = blobs(dimension=2, translation_mm=(1.0, 1.0))
    trace = replace(QUICK, iterations=(500, 500)).register(case.pair).trace
    assert len(trace) < 500
    for level in (0, 1):
        values = [e.terms["squared difference"] for e in trace if e.level == level]
        assert values[-1] < values[0]


def test_masks_that_leave_nothing_are_refused():
    with pytest.raises(RegistrationError, match="inside both masks"):
        QUICK.register(masked_apart(bent(2).pair))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"iterations": ()}, "for each level"),
        ({"step": 0.0}, "step must be more than 0"),
        ({"fluid_mm": -1.0}, "fluid_mm must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Demons(**settings)
