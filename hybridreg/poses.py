"""Poses of a patient under a C-arm: six parameters, their rigid transform, and its error.

A pose maps the C-arm's frame to the LPS of a CT: T(x) = R x + isocenter + t. The numbers are (rx,
ry, rz) in degrees, R = Rz Rx Ry as in ``transforms.rigid``, and t = (tx, ty, tz) in mm along the
axes of the CT. At all zeros the point ``isocenter`` of the CT, in LPS mm, lies at the isocenter of
the C-arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hybridreg.decomposition import decompose
from hybridreg.radiographs import Detector
from hybridreg.transforms import AffineTransform, CompositeTransform, Transform, compose

PARAMETERS = ("rx", "ry", "rz", "tx", "ty", "tz")
_RIGID = 1e-4  # how far scales may be from 1
ORIGIN = (0.0, 0.0, 0.0)


def pose(
    parameters: Sequence[float] | Tensor, isocenter: Sequence[float] = ORIGIN
) -> AffineTransform:
    """The transform, C-arm mm to CT mm, of six numbers."""
    return AffineTransform(pose_matrices(torch.as_tensor(parameters), isocenter))


def pose_matrices(parameters: Tensor, isocenter: Sequence[float] = ORIGIN) -> Tensor:
    """Matrices (..., 4, 4), float64, of parameters (..., 6); differentiable."""
    if parameters.shape[-1] != 6:
        raise ValueError(
            f"a pose has six numbers, {', '.join(PARAMETERS)}; found {parameters.shape[-1]}"
        )
    parameters = parameters.to(torch.float64)
    x, y, z = (
        _rotation(a, axis) for axis, a in enumerate(parameters[..., :3].deg2rad().unbind(-1))
    )
    shift = parameters[..., 3:] + torch.as_tensor(isocenter).to(parameters)
    top = torch.cat([z @ x @ y, shift[..., None]], -1)
    last = top.new_tensor([0, 0, 0, 1]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, last], -2)


def pose_parameters(transform: AffineTransform, isocenter: Sequence[float] = ORIGIN) -> Tensor:
    """The six numbers of a rigid transform; ValueError where it is not rigid."""
    parts = decompose(transform)
    worst = max(abs(scale - 1) for scale in parts.scales)
    if len(parts.scales) != 3 or parts.reflects or worst > _RIGID:
        raise ValueError(
            "a pose is a rotation and a translation in 3D; found a transform that "
            + (f"scales by {parts.scales}" if worst > _RIGID else "is 2D or mirrors")
            + ": give a rigid transform"
        )
    shift = transform.translation - torch.as_tensor(isocenter, dtype=torch.float64)
    return torch.cat([torch.tensor(parts.rotation_deg, dtype=torch.float64), shift])


def stepped(matrix: Tensor, steps: Tensor, axes: Tensor) -> Tensor:
    """The pose (4, 4) after steps (..., 6), as for ``pose_matrices``, along axes of the C-arm's
    frame.

    axes: (3, 3), its columns; the object turns about the isocenter. Shape (..., 4, 4).
    """
    frame = torch.eye(4, dtype=torch.float64)
    frame[:3, :3] = axes
    return matrix @ frame @ pose_matrices(steps) @ frame.mT


def rigid_matrix(pose: Transform) -> Tensor:
    """The matrix (4, 4) of a pose; ValueError for a transform that is no rigid one in 3D."""
    total = compose(pose)
    if isinstance(total, CompositeTransform) and not total.parts:
        return torch.eye(4, dtype=torch.float64)
    if not isinstance(total, AffineTransform):
        raise ValueError(f"a pose is one rigid transform, not a {type(total).__name__}")
    pose_parameters(total)  # refuses what is not rigid
    return total.matrix


class PoseError(NamedTuple):
    """The error of a pose."""

    rotation_deg: float
    translation_mm: float


def pose_error(found: AffineTransform, true: AffineTransform) -> PoseError:
    """The angle between both rotations, and the distance between the isocenters."""
    between = found.linear @ true.linear.T
    spin = torch.stack([(between - between.T)[i, j] for i, j in ((2, 1), (0, 2), (1, 0))]).norm()
    angle = torch.atan2(spin, between.trace() - 1)  # exact for small angles, unlike acos
    distance = (found.translation - true.translation).norm()
    return PoseError(angle.rad2deg().item(), distance.item())


def projection_error(
    found: AffineTransform, true: AffineTransform, points: Tensor, detector: Detector
) -> Tensor:
    """How far the shadows of CT points (N, 3), in LPS mm, lie apart on the detector, in mm: shape
    (N,).

    Its mean is the mTREproj; only what shows in the radiograph counts, little of an error in depth.
    """
    shadows = [detector.shadows(t.inverse()(points.to(torch.float64))) for t in (found, true)]
    return (shadows[0] - shadows[1]).norm(dim=-1)


def _rotation(angle: Tensor, axis: int) -> Tensor:
    """Matrices (..., 3, 3) of angles (...) in radians about the x, y or z axis."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = {
        0: (one, zero, zero, zero, cos, -sin, zero, sin, cos),
        1: (cos, zero, sin, zero, one, zero, -sin, zero, cos),
        2: (cos, -sin, zero, sin, cos, zero, zero, zero, one),
    }[axis]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))
