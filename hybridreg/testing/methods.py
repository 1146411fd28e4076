"""The contract of a registration method, as functions of the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace

import torch
from torch import Tensor

from hybridreg.cases import Case, ImagePair
from hybridreg.config import describe_method, load_method
from hybridreg.evaluation import target_registration_error
from hybridreg.images import Image, LabelMap
from hybridreg.methods.base import RegistrationMethod, RegistrationResult, accepted
from hybridreg.phantoms import blobs
from hybridreg.projection_pair import ProjectionPair
from hybridreg.registry import METHODS
from hybridreg.testing.projections import PROJECTION_CHECKS
from hybridreg.testing.promises import doubled, require
from hybridreg.transforms import Transform, compose, rigid

_SHIFT_MM = (3.0, -2.0, 4.0)
_INITIAL_DEG, _INITIAL_MM = 15.0, 20.0  # commute with nothing, so a swapped order cannot pass
_INITIAL_ERROR_MM = 0.5
_INVERSE_VOXELS = 0.1
_SHOWN = 0.1  # of blobs, whose values go to about 2


def check_method(method: RegistrationMethod):
    """Runs every promise of a registration method on small oblique phantoms, in 2D and 3D.

    The method must be set for small smooth images of one contrast. AssertionError says which
    promise is broken. See ``METHOD_CHECKS`` for the promises, each a function of the method alone,
    and ``projections.PROJECTION_CHECKS`` for those of a method of radiographs, on a phantom
    implant.
    """
    for check in checks_of(method):
        check(method)


def checks_of(method: RegistrationMethod) -> tuple[Callable[[RegistrationMethod], None], ...]:
    """The promises of a method, by the type of pair that it takes."""
    if accepted(method) is ProjectionPair:
        return (is_its_configuration, *PROJECTION_CHECKS)
    return METHOD_CHECKS


def recovers_a_shift(method: RegistrationMethod):
    """A known shift on oblique anisotropic grids is found to half a voxel."""
    for dimension in (2, 3):
        case = blobs(dimension=dimension, translation_mm=_SHIFT_MM[:dimension])
        result = method.register(case.pair)
        require(isinstance(result, RegistrationResult), f"register gave a {type(result).__name__}")
        voxel = min(case.pair.fixed.grid.spacing)
        _near(case, result.transform, voxel / 2, f"after a shift in {dimension}D")


def returns_the_total(method: RegistrationMethod):
    """The result includes the initial transform, of 15 degrees and 20 mm: T(x) = A(R(x))."""
    for dimension in (2, 3):
        case, initial = _turned(dimension)
        start = _error_mm(case, initial)
        allowed = min(start / 2, _INITIAL_ERROR_MM)
        found = method.register(case.pair, initial).transform
        _near(case, found, allowed, f"from an initial transform {start:.2f} mm off in {dimension}D")


def leaves_identical_images_alone(method: RegistrationMethod):
    """Two identical images stay where they show something, to a fifth of a voxel on average."""
    case = blobs(dimension=2)
    pair = replace(case.pair, moving=case.pair.fixed)
    points = pair.fixed.grid.points()[pair.fixed.data[0] > _SHOWN]
    moved = (method.register(pair).transform(points) - points).norm(dim=-1).mean().item()
    allowed = 0.2 * min(pair.fixed.grid.spacing)
    require(moved < allowed, f"identical images were moved by {moved:.3f} mm on average")


def takes_two_channels(method: RegistrationMethod):
    """Images of two channels are registered as well as those of one."""
    case = blobs(dimension=2, translation_mm=_SHIFT_MM[:2])
    pair = ImagePair(*(doubled(image) for image in (case.pair.fixed, case.pair.moving)))
    found = method.register(pair).transform
    _near(case, found, min(pair.fixed.grid.spacing) / 2, "with two channels")


def obeys_the_fixed_mask(method: RegistrationMethod):
    """Voxels outside the fixed mask have no influence: there the images show another shift."""
    case = blobs(dimension=2, translation_mm=_SHIFT_MM[:2])
    grid = case.pair.fixed.grid
    away = (grid.points() - grid.center).norm(dim=-1) > 0.3 * min(grid.extent)
    spoiled = case.pair.fixed.data.clone()
    spoiled[:, away] = spoiled.roll(5, -1)[:, away]
    mask = LabelMap((~away).int(), grid)
    pair = replace(case.pair, fixed=Image(spoiled, grid), fixed_mask=mask)
    inside = grid.points()[~away]
    error = (method.register(pair).transform(inside) - case.true_transform(inside)).norm(dim=-1)
    allowed = min(grid.spacing)
    require(error.median() < allowed, f"inside the fixed mask it ended {error.median():.2f} mm off")


def changes_no_input(method: RegistrationMethod):
    """Images are what they were afterwards."""
    case = blobs(dimension=2, translation_mm=(1.0, 1.0))
    before = [image.data.clone() for image in (case.pair.fixed, case.pair.moving)]
    method.register(case.pair)
    for old, image in zip(before, (case.pair.fixed, case.pair.moving), strict=True):
        require(torch.equal(old, image.data), "it changed an image that it was given")


def repeats_exactly(method: RegistrationMethod):
    """The same pair gives the same transform again."""
    case = blobs(dimension=2, translation_mm=(1.0, 1.0))
    points = case.pair.fixed.grid.points()
    first, second = (method.register(case.pair).transform(points) for _ in range(2))
    require(torch.equal(first, second), "the same pair gave two different transforms")


def agrees_with_its_inverse(method: RegistrationMethod):
    """Where it gives an inverse, that leads back to a tenth of a voxel on average."""
    for dimension in (2, 3):
        case, initial = _turned(dimension)
        result = method.register(case.pair, initial)
        if result.inverse is None:
            return
        grid = case.pair.fixed.grid
        inner = grid.crop([4] * dimension, [n - 4 for n in grid.shape]).points()
        apart = (result.inverse(result.transform(inner)) - inner).norm(dim=-1).mean().item()
        allowed = _INVERSE_VOXELS * min(grid.spacing)
        require(apart < allowed, f"its inverse leads back {apart:.3f} mm beside the start")


def refuses_what_cannot_be_registered(method: RegistrationMethod):
    """NaN and pairs whose channels differ are ValueErrors that say so."""
    pair = blobs(dimension=3).pair
    nan = Image(torch.full_like(pair.fixed.data, torch.nan), pair.fixed.grid)
    for bad, word in ((replace(pair, fixed=nan), "NaN"), (_uneven(pair), "channels")):
        try:
            method.register(bad)
        except ValueError as error:
            require(word in str(error), f"the refusal does not speak of {word}: {error}")
        else:
            raise AssertionError(f"it registered a pair that is unsound ({word})")


def traces_its_optimization(method: RegistrationMethod):
    """What the trace holds has named terms, finite, in counted iterations."""
    trace = method.register(blobs(dimension=2, translation_mm=(1.0, 1.0)).pair).trace
    for entry in trace:
        finite = all(torch.isfinite(torch.tensor(float(v))) for v in entry.terms.values())
        require(entry.stage and entry.iteration >= 0 and entry.terms and finite, f"trace: {entry}")


def is_its_configuration(method: RegistrationMethod):
    """A frozen dataclass whose TOML table builds it again,
    where it stands in the table of methods.
    """
    require(is_dataclass(method) and method.__dataclass_params__.frozen, "no frozen dataclass")
    if METHODS.name_of(type(method)) in METHODS:
        table = describe_method(method)
        require(load_method(table) == method, f"this table builds another method: {table}")
        known = {"name", *(field.name for field in fields(method))}
        require(set(table) == known, f"the table has other keys than its fields: {sorted(table)}")


METHOD_CHECKS: tuple[Callable[[RegistrationMethod], None], ...] = (
    is_its_configuration,
    refuses_what_cannot_be_registered,
    recovers_a_shift,
    returns_the_total,
    leaves_identical_images_alone,
    takes_two_channels,
    obeys_the_fixed_mask,
    changes_no_input,
    repeats_exactly,
    agrees_with_its_inverse,
    traces_its_optimization,
)


def _turned(dimension: int) -> tuple[Case, Transform]:
    """A case turned by 15 degrees and shifted by 20 mm, and a start that is nearly right."""
    angles, shift = [_INITIAL_DEG] * (2 * dimension - 3), [_INITIAL_MM, 0.0, 0.0][:dimension]
    case = blobs(dimension=dimension, angles_deg=angles, translation_mm=shift)
    center = case.pair.fixed.grid.center
    return case, compose(
        case.true_transform, rigid([3.0] * (2 * dimension - 3), [2.0] * dimension, center)
    )


def _error_mm(case: Case, transform: Transform) -> float:
    errors: Tensor = target_registration_error(
        transform, case.fixed_landmarks, case.moving_landmarks
    )
    return errors.median().item()


def _near(case: Case, transform: Transform, allowed_mm: float, when: str):
    error = _error_mm(case, transform)
    require(error < allowed_mm, f"{when}: {error:.2f} mm off, {allowed_mm:.2f} allowed")


def _uneven(pair: ImagePair) -> ImagePair:
    return replace(pair, moving=doubled(pair.moving))
