"""The contract of a method of radiographs and a CT, as functions of the method, on a phantom implant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from hybridreg.cases import Case
from hybridreg.images import Image
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.phantoms.implant import LENGTH_MM, implant_arm, implant_case, implant_corners
from hybridreg.poses import pose, projection_error
from hybridreg.testing.promises import require
from hybridreg.transforms import AffineTransform, Transform, rigid

_TRUE = (4.0, -3.0, 8.0, 12.0, -2.0, 1.0)  # degrees and mm, from the C-arm to the CT
_AWAY_DEG, _AWAY_MM = (3.0, -2.0, 4.0), (1.0, 3.0, -1.5)
_NEAR = 0.02  # of the implant's length, on the detector
_BACK_MM = 1e-6


def finds_the_pose(method: RegistrationMethod):
    """From a few degrees and mm away, the pose is found to 2 % of the object's length on the
    detector.
    """
    case, start = _scene()
    result = method.register(case.pair, start)
    require(isinstance(result, RegistrationResult), f"register gave a {type(result).__name__}")
    before, after = (_error_mm(case, t) for t in (start, result.transform))
    require(
        after < min(_NEAR * LENGTH_MM, before / 2),
        f"it ended {after:.2f} mm off on the detector, from {before:.2f} mm",
    )


def stays_at_the_true_pose(method: RegistrationMethod):
    """From the true pose it does not go further than that either."""
    case, _ = _scene()
    found = method.register(case.pair, case.true_transform).transform
    after = _error_mm(case, found)
    require(after < _NEAR * LENGTH_MM, f"it left the true pose by {after:.2f} mm on the detector")


def inverts_its_pose(method: RegistrationMethod):
    """The inverse, where it gives one, leads back."""
    case, start = _scene()
    result = method.register(case.pair, start)
    if result.inverse is None:
        return
    points = implant_corners()
    apart = (result.transform(result.inverse(points)) - points).norm(dim=-1).max().item()
    require(apart < _BACK_MM, f"its inverse leads back {apart:.3g} mm beside the start")


def repeats_exactly(method: RegistrationMethod):
    """The same pair gives the same pose again, and its images are what they were."""
    case, start = _scene()
    images = [case.pair.fixed[0].data, case.pair.moving.data]
    before = [image.clone() for image in images]
    points = implant_corners()
    first, second = (method.register(case.pair, start).transform(points) for _ in range(2))
    require(torch.equal(first, second), "the same pair gave two different poses")
    for old, image in zip(before, images, strict=True):
        require(torch.equal(old, image), "it changed an image that it was given")


def refuses_what_cannot_be_registered(method: RegistrationMethod):
    """A CT that is not in HU and an initial transform that is not rigid are ValueErrors that say
    so.
    """
    case, start = _scene()
    unsigned = Image(case.pair.moving.data + 1000, case.pair.moving.grid)
    larger = AffineTransform(torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64)))
    for pair, initial, word in (
        (replace(case.pair, moving=unsigned), start, "HU"),
        (case.pair, larger, "scales"),
    ):
        try:
            method.register(pair, initial)
        except ValueError as error:
            require(word in str(error), f"the refusal does not speak of {word}: {error}")
        else:
            raise AssertionError(f"it registered what is unsound ({word})")


def traces_its_steps(method: RegistrationMethod):
    """What the trace holds has named terms, finite, in counted iterations."""
    case, start = _scene()
    for entry in method.register(case.pair, start).trace:
        finite = all(torch.isfinite(torch.tensor(float(v))) for v in entry.terms.values())
        require(entry.stage and entry.iteration >= 0 and entry.terms and finite, f"trace: {entry}")


PROJECTION_CHECKS: tuple[Callable[[RegistrationMethod], None], ...] = (
    refuses_what_cannot_be_registered,
    finds_the_pose,
    stays_at_the_true_pose,
    inverts_its_pose,
    repeats_exactly,
    traces_its_steps,
)


def _scene() -> tuple[Case, Transform]:
    true = pose(_TRUE)
    away = rigid(_AWAY_DEG, _AWAY_MM, (0, 0, 0))
    return implant_case(true, implant_arm(240, 1.0)), AffineTransform(true.matrix @ away.matrix)


def _error_mm(case: Case, found: Transform) -> float:
    view = case.pair.fixed[0].detector
    return projection_error(found, case.true_transform, implant_corners(), view).mean().item()
