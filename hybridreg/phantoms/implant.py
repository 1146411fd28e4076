"""A metal implant in closed form, similar to a hip stem, for 2D/3D registration.

It has no symmetry, so every pose has a different projection.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridreg.cases import Case
from hybridreg.drr import Projector, attenuation
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.phantoms.shapes import Ellipsoid, Tube, joined
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Detector
from hybridreg.transforms import IDENTITY, AffineTransform, Transform

TITANIUM_HU = 12_600.0
"""Of an attenuation of 0.26 per mm, that of titanium at 70 keV."""

_AIR_HU = -1000.0
_PARTS = (
    Tube((0, 0, -55), (0, 0, 15), 4, 9),  # stem
    Tube((0, 0, 15), (28, -4, 36), 7, 6),  # neck
    Ellipsoid((33, -4.7, 39.8), (14, 14, 14)),  # head
    Tube((0, 0, 4), (-14, 9, 12), 4, 3),  # fin
)
_LOW, _HIGH = (-17.0, -18.7, -59.0), (47.0, 12.0, 53.8)
LENGTH_MM = math.dist(_LOW, _HIGH)
"""Of the diagonal of its bounding box."""


def implant(grid: Grid, *, transform: Transform = IDENTITY, hu: float = TITANIUM_HU) -> Image:
    """The implant in air on a grid through a transform: value(x) = implant(transform(x)), in HU.

    Its middle lies near (10, 0, 0). At its surface values fall over one voxel.
    """
    voxel = math.prod(grid.spacing) ** (1 / 3)
    data = torch.empty(grid.shape)
    for rows, slab in grid.slabs():
        filled = 0.5 + depth(transform(slab.points())) / voxel
        data[rows] = _AIR_HU + (hu - _AIR_HU) * filled.clamp(0, 1)
    return Image(data, grid)


def implant_grid(spacing_mm: float = 1.0) -> Grid:
    """A field of view with at least 2 mm of air around the implant."""
    return Grid((118, 36, 70), origin=(-19.5, -21.0, -61.5)).with_spacing([spacing_mm] * 3)


def implant_arm(pixels: int = 320, spacing_mm: float = 0.75, primary_deg: float = 0.0) -> Detector:
    """A C-arm of usual distances whose square detector the implant fits onto."""
    return Detector.of_c_arm(
        (pixels, pixels),
        (spacing_mm, spacing_mm),
        source_to_detector=1000.0,
        source_to_isocenter=700.0,
        primary_deg=primary_deg,
    )


def implant_case(true: AffineTransform, *detectors: Detector, ct_mm: float = 1.0) -> Case:
    """The implant's CT and its projections at a pose, without noise;
    by default onto one detector.
    """
    ct = implant(implant_grid(ct_mm))
    projector = Projector(attenuation(ct))
    views = detectors or (implant_arm(),)
    pair = ProjectionPair(tuple(projector.radiograph(view, true) for view in views), ct)
    return Case(pair, name="implant", true_transform=true)


def depth(points: Tensor) -> Tensor:
    """Of points (..., 3), in mm, below its surface, shape (...); negative outside."""
    x, y, z = points.unbind(-1)
    return joined(_PARTS, (x, y, z))


def implant_corners() -> Tensor:
    """The corners of its bounding box, (8, 3) mm: where errors of its pose are measured."""
    ends = [torch.tensor(pair, dtype=torch.float64) for pair in zip(_LOW, _HIGH, strict=True)]
    return torch.cartesian_prod(*ends)
