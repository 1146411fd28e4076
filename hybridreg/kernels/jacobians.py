"""Jacobian determinants of displacements (D, *shape), in mm along the axes of their lattice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import along_axes, loops, over_slabs, vector_volume
from hybridreg.kernels.matrices import determinant


def determinants(
    displacement: Tensor, spacing: tuple[float, ...], *, threads: int | None = None
) -> Tensor:
    """det(d(x + u)/dx) at every voxel, shape (*shape), as ``warping.jacobian_determinant`` has it.

    Central differences, one-sided at the border; an axis of one voxel counts as undeformed.
    """
    if compiled := loops("jacobians", displacement):
        vectors = vector_volume(displacement)
        out = np.empty(vectors.shape[1:], np.float32)
        spread = np.array(along_axes(spacing), np.float32)
        over_slabs(compiled.determinants, out.shape, vectors, spread, out, threads=threads)
        return torch.from_numpy(out.reshape(displacement.shape[1:]))
    rows = [
        [slope(u, u.ndim - 1 - axis, h) + float(axis == c) for axis, h in enumerate(spacing)]
        for c, u in enumerate(displacement)
    ]
    return determinant(rows)


def slope(values: Tensor, dim: int, h: float) -> Tensor:
    """Central differences per mm, one-sided at the border; 0 along an axis of one voxel."""
    if values.shape[dim] == 1:
        return torch.zeros_like(values)
    return torch.gradient(values, spacing=h, dim=dim)[0]
