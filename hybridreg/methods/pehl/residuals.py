"""Pose-indexed local image residuals: regions of a radiograph and of a projection that move with a pose.

A region is a square around the projection of a point of the object, as wide as ``width_mm`` at the
depth of the object, and turned with it in the plane. The residual is the difference of the
projection at the estimated pose and the radiograph in the same regions, so it depends little on the
pose itself (Miao 2016, III.B).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.geometry import apply_matrix
from hybridreg.methods.pehl.placement import Placement
from hybridreg.radiographs import Detector

_FLAT = 1e-6  # of a region's contrast


def regions(
    placement: Placement, parameters: Tensor, points: Tensor, *, width_mm: float, pixels: int
) -> Tensor:
    """Where the regions' pixels lie on the detector, (B, N, pixels, pixels, 2): column, row.

    parameters: (B, 6); points: (N, 3) CT mm.
    """
    detector = placement.detector
    source, corner = (
        placement.frame.T @ torch.as_tensor(p, dtype=torch.float64)
        for p in (detector.source, detector.grid.origin)
    )
    within = placement.in_view(parameters)  # (B, 4, 4)
    at = points.to(torch.float64) @ within[:, :3, :3].mT + within[:, None, :3, 3]  # (B, N, 3)
    cast = source + (at - source) * ((corner[2] - source[2]) / (at[..., 2:] - source[2]))
    nearer = (source[2] - corner[2]) / (source[2] - parameters[:, 3].to(torch.float64))  # (B,)
    steps = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels - 0.5
    down, across = torch.meshgrid(steps, steps, indexing="ij")
    cos, sin = (
        f(parameters[:, 2].to(torch.float64).deg2rad())[:, None, None]
        for f in (torch.cos, torch.sin)
    )
    offsets = torch.stack([cos * across - sin * down, sin * across + cos * down], -1)
    offsets = offsets * (width_mm * nearer)[:, None, None, None]  # (B, pixels, pixels, 2)
    spacing = torch.tensor(detector.grid.spacing[:2], dtype=torch.float64)
    middles = (cast[..., :2] - corner[:2]) / spacing
    return middles[..., None, None, :] + (offsets / spacing)[:, None]


def crops(images: Tensor, at: Tensor) -> Tensor:
    """Images (B, rows, columns), interpolated at places (B, N, h, w, 2), (B, N, h, w).

    Beyond the border values repeat.
    """
    rows, columns = images.shape[-2:]
    size = torch.tensor([columns, rows], dtype=at.dtype)
    normalized = ((2 * at + 1) / size - 1).to(images).flatten(1, 2)
    how = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}
    return F.grid_sample(images[:, None], normalized, **how)[:, 0].unflatten(1, at.shape[1:3])


def residual(projected: Tensor, measured: Tensor) -> Tensor:
    """The residual of regions (B, N, h, w), independent of scale and offset of each image."""
    return _contrast(projected) - _contrast(measured)


def _contrast(found: Tensor) -> Tensor:
    found = found - found.mean((-2, -1), keepdim=True)
    return found / found.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=_FLAT)


def covering(detector: Detector, at: Tensor) -> Detector | None:
    """The part of a detector that places (..., 2), column and row, need; None if they miss it."""
    low, high = at.flatten(0, -2).amin(0), at.flatten(0, -2).amax(0)
    first = [max(0, int(v)) for v in low.floor()]
    stop = [min(n, int(v) + 2) for v, n in zip(high.floor(), detector.shape[::-1], strict=True)]
    if any(b - a < 2 for a, b in zip(first, stop, strict=True)):
        return None
    return detector.crop(slice(first[1], stop[1]), slice(first[0], stop[0]))


def shifted(at: Tensor, whole: Detector, part: Detector) -> Tensor:
    """Places on the whole detector as places on a part of it."""
    start = apply_matrix(
        whole.grid.physical_to_voxel(), torch.tensor([part.grid.origin], dtype=torch.float64)
    )
    return at - start[0, :2].round()
