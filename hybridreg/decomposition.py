"""Decomposition of a transform into rotation angles, scales and a translation."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from hybridreg.geometry import apply_matrix
from hybridreg.transforms import AffineTransform, DisplacementField

_POINTS = 20_000


@dataclass(frozen=True)
class Decomposition:
    """x -> R S (x - c) + c + t: a stretch S, a rotation R about a center c, and a translation t.

    rotation_deg: one angle in 2D; in 3D about x, y and z with R = Rz Rx Ry, as in ``rigid``.
    scales: along the principal axes of S, descending. translation_mm: t, the displacement of the
    center.
    reflects: true if x is mirrored first, which is anatomically impossible.
    """

    rotation_deg: tuple[float, ...]
    scales: tuple[float, ...]
    translation_mm: tuple[float, ...]
    reflects: bool


def decompose(affine: AffineTransform, center: Tensor | None = None) -> Decomposition:
    """The parts of an affine, about a center in LPS mm (by default the origin)."""
    if center is None:
        center = torch.zeros(len(affine.translation), dtype=torch.float64)
    left, scales, right = torch.linalg.svd(affine.linear)
    reflects = torch.linalg.det(affine.linear).item() < 0
    mirror = torch.ones_like(scales)
    mirror[0] = -1.0 if reflects else 1.0
    return Decomposition(
        rotation_deg=tuple(_angles_deg(left @ right * mirror)),
        scales=tuple(scales.tolist()),
        translation_mm=tuple((affine(center) - center).tolist()),
        reflects=reflects,
    )


def fitted_affine(field: DisplacementField) -> AffineTransform:
    """The affine nearest to a transform in the mean over its grid (least squares)."""
    grid, dimension = field.grid, field.grid.dimension
    step = max(1, math.ceil((math.prod(grid.shape) / _POINTS) ** (1 / dimension)))
    steps = (slice(None, None, step),) * dimension
    vectors = field.vectors[(slice(None), *steps)].flatten(1).T.double()
    index = torch.ones(field.vectors[0][steps].shape).nonzero().flip(-1).double() * step
    points = apply_matrix(grid.voxel_to_physical(), index)
    center = points.mean(0)
    offsets = torch.cat([points - center, torch.ones(len(points), 1, dtype=torch.float64)], 1)
    # An axis of one voxel does not determine its scale: the minimum-norm solution keeps it.
    solution = torch.linalg.lstsq(offsets, vectors, driver="gelsd").solution
    linear = torch.eye(dimension, dtype=torch.float64) + solution[:-1].T
    return AffineTransform.from_parts(linear, solution[-1], center)


def _angles_deg(rotation: Tensor) -> list[float]:
    """The angles that ``hybridreg.transforms.rigid`` takes: about x, y and z, R = Rz Rx Ry."""
    if len(rotation) == 2:
        return [math.degrees(math.atan2(rotation[1, 0], rotation[0, 0]))]
    with warnings.catch_warnings():  # at x = +-90 degrees (gimbal lock) y is set to 0
        warnings.simplefilter("ignore", UserWarning)
        z, x, y = Rotation.from_matrix(rotation.numpy()).as_euler("ZXY", degrees=True).tolist()
    return [x, y, z]
