"""Measures of a deformation: local change of volume, and folding."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybridreg.images import Image, LabelMap
from hybridreg.kernels.matrices import determinant
from hybridreg.transforms import DisplacementField


@dataclass(frozen=True)
class JacobianStatistics:
    """Statistics of det(dT/dx) over voxels.

    folding_percent: percentage of voxels with det <= 0. log_sd: standard deviation of ln(det) over
    the other voxels. p1, p99: percentiles.
    """

    voxels: int
    folding_percent: float
    log_sd: float | None
    minimum: float
    p1: float
    p99: float
    maximum: float


def jacobian_statistics(determinant: Image, *, mask: LabelMap | None = None) -> JacobianStatistics:
    """Statistics of the image from ``jacobian_determinant``, where the mask is not 0.

    The determinants are neither offset nor clipped.
    """
    values = determinant.data[0]
    inside = None if mask is None else _inside(mask, determinant)
    voxels = values.numel() if inside is None else int(inside.count_nonzero())
    if voxels == 0:
        raise ValueError("the mask is empty: give one with voxels inside, or none")
    if not any(values.stride()):  # one number, of an affine
        values, inside = values.flatten()[:1], None
    values = (values if inside is None else values[inside]).flatten().numpy()
    positive = values[values > 0]
    p1, p99 = np.percentile(values, [1, 99])
    return JacobianStatistics(
        voxels=voxels,
        folding_percent=100 * (values.size - positive.size) / values.size,
        log_sd=float(np.log(positive).std(dtype=np.float64)) if positive.size else None,
        minimum=float(values.min()),
        p1=float(p1),
        p99=float(p99),
        maximum=float(values.max()),
    )


def non_diffeomorphic_percent(
    field: DisplacementField, *, mask: LabelMap | None = None
) -> float | None:
    """Non-diffeomorphic volume, in percent of the undeformed volume (Liu 2024).

    Central differences skip the voxel they are taken at and miss folds there; this measure does
    not. Each cell between 8 voxels is cut into 5 tetrahedra, which can be done in two ways; the
    measure is the volume of the inverted ones, averaged over both. In 2D the triangles of a cell
    cut along either diagonal. mask: only cells with all corners inside. None if there is no cell.
    """
    grid, vectors = field.grid, field.vectors
    if min(grid.shape) < 2:
        return None
    inside = torch.ones(grid.shape, dtype=torch.bool) if mask is None else _inside(mask, field)
    if not inside.any():
        return None
    box = _box(inside)
    inside, vectors = inside[box], vectors[(slice(None), *box)]
    grid = grid.crop([part.start for part in box], [part.stop for part in box])
    voxels_by_mm = grid.physical_to_voxel()[:-1, :-1].to(vectors)
    inverted, cells = 0.0, 0
    for rows, _ in grid.slabs(1 << 18):
        cut = slice(rows.start, rows.stop + 1)  # cells reach into the next slab
        used = torch.stack(list(_corners(inside[None, cut]).values())).all(0)[0]
        displacement = torch.einsum("ab,b...->a...", voxels_by_mm, vectors[:, cut])
        inverted += (_inverted_volume(displacement) * used).sum(dtype=torch.float64).item()
        cells += int(used.sum())
    return 100 * inverted / cells if cells else None


def _box(inside: Tensor) -> tuple[slice, ...]:
    """The smallest box around the voxels inside."""
    ends = []
    for axis in range(inside.ndim):
        others = [other for other in range(inside.ndim) if other != axis]
        where = inside.any(dim=others).nonzero() if others else inside.nonzero()
        ends.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(ends)


def _inverted_volume(displacement: Tensor) -> Tensor:
    """Inverted volume of each cell over the undeformed volume, the mean over both decompositions.

    displacement: in voxels, (x, y, z) components first, shape (D, *shape).
    """
    dimension = len(displacement)
    moved = {}
    for corner, values in _corners(displacement).items():
        start = torch.tensor(corner, dtype=values.dtype).reshape(-1, *[1] * dimension)
        moved[corner] = values + start
    simplices = [_at_corner(corner) for corner in moved]
    if dimension == 3:  # cutting off every other corner leaves a tetrahedron in the middle
        even = [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
        odd = [tuple(1 - n for n in corner) for corner in even]
        simplices += [even[:2] + even[:1:-1], odd]
    total = 0
    for first, *others in simplices:
        volume = determinant([moved[corner] - moved[first] for corner in others])
        total = total + (-volume).clamp(min=0)
    return total / (2 * math.factorial(dimension))


def _at_corner(corner: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A corner and its neighbors along the axes,
    ordered so that the undeformed volume is positive.
    """
    neighbors = [
        tuple(1 - n if axis == a else n for a, n in enumerate(corner))
        for axis in range(len(corner))
    ]
    if sum(corner) % 2:
        neighbors[:2] = neighbors[1::-1]
    return [corner, *neighbors]


def _corners(values: Tensor) -> dict[tuple[int, ...], Tensor]:
    """Values (C, *shape) at each corner, named (x, y, z) in 0 and 1,
    of all cells between voxels.
    """
    ends = {0: slice(None, -1), 1: slice(1, None)}
    corners = itertools.product((0, 1), repeat=values.ndim - 1)
    return {c: values[(slice(None), *(ends[n] for n in reversed(c)))] for c in corners}


def _inside(mask: LabelMap, subject: Image | DisplacementField) -> Tensor:
    if not mask.grid.matches(subject.grid):
        raise ValueError(
            f"the mask (size {mask.grid.size}, spacing {mask.grid.spacing}) does not "
            "lie on the grid "
            f"of the transform (size {subject.grid.size}, spacing {subject.grid.spacing}): "
            "resample the mask onto it"
        )
    return mask.data != 0
