"""The pose of an object as seen by one detector: in its plane, in depth, and out of the plane.

Six parameters (tx, ty, theta, tz, alpha, beta) in mm and degrees place the object in the view's
frame, whose origin is the isocenter and whose axes are those of the detector: along a row, along a
column and to the X-ray source. A point q of the CT lies there at Rz(theta) Rx(alpha) Ry(beta) B (q
- center) + (tx, ty, tz), where ``center`` is the middle of the object and B turns the axes of the
  CT to those of the view at zero angles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hybridreg.poses import pose_matrices, pose_parameters
from hybridreg.radiographs import Detector
from hybridreg.transforms import AffineTransform

PARAMETERS = ("tx_mm", "ty_mm", "theta_deg", "tz_mm", "alpha_deg", "beta_deg")
GROUPS = {"in_plane": (0, 1, 2), "out_of_plane": (4, 5), "depth": (3,)}
"""The parameters that are regressed together, in the order of the hierarchy (Miao 2016)."""

_AS_POSE = [4, 5, 2, 0, 1, 3]  # the six in the order of ``poses``: rx, ry, rz, tx, ty, tz
_FROM_POSE = [3, 4, 2, 5, 0, 1]


def corrected(parameters: Tensor, errors: Tensor) -> Tensor:
    """Parameters (..., 6) with errors (..., 6) added, those of tx and ty along axes turned by
    theta.

    Regions turn with the object, so an error as they see it does too.
    """
    return torch.cat(
        [
            parameters[..., :2] + _turned(errors[..., :2], parameters[..., 2]),
            parameters[..., 2:] + errors[..., 2:],
        ],
        -1,
    )


def before(parameters: Tensor, errors: Tensor) -> Tensor:
    """The parameters that ``corrected`` by these errors are the given ones."""
    rest = parameters[..., 2:] - errors[..., 2:]
    return torch.cat([parameters[..., :2] - _turned(errors[..., :2], rest[..., 0]), rest], -1)


def _turned(vectors: Tensor, degrees: Tensor) -> Tensor:
    (x, y), angle = vectors.unbind(-1), degrees.deg2rad()
    return torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], -1)


@dataclass(frozen=True, eq=False)
class Placement:
    """Converts poses (C-arm mm to CT mm) to the six parameters and back.

    center: (3,) LPS mm of the CT. axes: B, (3, 3), by default such that at zero angles the object
    lies as in the CT.
    """

    detector: Detector
    center: Tensor
    axes: Tensor | None = None

    @cached_property
    def frame(self) -> Tensor:
        """Columns: the axes of the view in the C-arm's frame, (3, 3)."""
        return torch.tensor(self.detector.grid.direction, dtype=torch.float64)

    @cached_property
    def turned(self) -> Tensor:
        """B, (3, 3) float64."""
        return self.frame.T if self.axes is None else self.axes.to(torch.float64)

    def in_view(self, parameters: Tensor) -> Tensor:
        """Matrices (..., 4, 4) from CT mm to the view's frame, of parameters (..., 6)."""
        placed = pose_matrices(parameters[..., _AS_POSE])
        return placed @ _affine(self.turned, -(self.turned @ self.center.to(torch.float64)))

    def matrices(self, parameters: Tensor) -> Tensor:
        """Poses, C-arm mm to CT mm, (..., 4, 4), of parameters (..., 6)."""
        return torch.linalg.inv(_affine(self.frame) @ self.in_view(parameters))

    def parameters(self, matrix: Tensor) -> Tensor:
        """The six parameters of a pose (4, 4); ValueError where it is not rigid."""
        back = _affine(self.turned.T, self.center.to(torch.float64))
        placed = torch.linalg.inv(matrix @ _affine(self.frame)) @ back
        return pose_parameters(AffineTransform(placed))[_FROM_POSE]


def _affine(linear: Tensor, shift: Tensor | None = None) -> Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = linear
    if shift is not None:
        matrix[:3, 3] = shift
    return matrix
