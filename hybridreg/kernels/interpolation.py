"""Images interpolated as ITK does: coordinates and arithmetic in float64, a default outside.

For what is shown, scored and stored. ``sampling`` is for the iterations of methods: float32, and
values repeat beyond the border.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import loops, over_slabs, vector_volume, volume

_NO_VECTORS = np.empty((0, 1, 1, 1), np.float32)


def resampled(
    values: Tensor,
    matrix: Tensor,
    shape: tuple[int, ...],
    *,
    displacement: Tensor | None = None,
    scales: Tensor | None = None,
    outside: Tensor,
    nearest: bool = False,
) -> Tensor | None:
    """Values (C, *their shape) at the voxels i of a lattice; None where no loop can be used.

    The index in the values is matrix (i, 1) + scales u(i). matrix: (D+1, D+1), in (x, y, z) order.
    displacement: u, (D, *shape), float32; scales: (D, D). outside: (C,) or (1,), the result beyond
    the faces of the outermost voxels. nearest: the value of the nearest voxel; then values may be
    int32.
    """
    given = [] if displacement is None else [displacement]
    if not (nearest and values.dtype == torch.int32 and values.device.type == "cpu"):
        given.append(values)
    compiled = loops("interpolation", *given)
    if compiled is None:
        return None
    size = tuple(shape) if len(shape) == 3 else (shape[0], 1, shape[1])
    source = volume(values)
    out = np.empty((len(source), *size), source.dtype)
    vectors = _NO_VECTORS if displacement is None else vector_volume(displacement)
    linear = np.zeros((3, 4)) if scales is None else _rows(scales)
    default = np.broadcast_to(outside.double().numpy(), (len(source),)).copy()
    loop = compiled.nearest if nearest else compiled.linear
    arguments = _matrix(matrix), vectors, linear, default
    over_slabs(loop, size, source, *arguments, out)
    return torch.from_numpy(out.reshape(len(source), *shape))


def at_points(values: Tensor, matrix: Tensor, points: Tensor) -> tuple[Tensor, Tensor] | None:
    """Linear interpolation at points (N, D), index = matrix (point, 1); None where no loop can be
    used.

    Gives float64 values (C, N), repeated beyond the border, and bool (N,): inside the faces.
    """
    if values.requires_grad or points.requires_grad or points.dtype != torch.float64:
        return None
    compiled = loops("interpolation", values)
    if compiled is None:
        return None
    source, count = volume(values), len(points)
    places = points.numpy() if points.shape[1] == 3 else np.zeros((count, 3))
    if points.shape[1] == 2:
        places[:, ::2] = points.numpy()
    out, inside = np.empty((len(source), count)), np.empty(count, bool)
    over_slabs(
        compiled.at_points,
        (count, 1, 1),
        source,
        _matrix(matrix),
        np.ascontiguousarray(places),
        out,
        inside,
    )
    return torch.from_numpy(out), torch.from_numpy(inside)


def _rows(linear: Tensor, first: Tensor | None = None) -> np.ndarray:
    """A matrix (D, D) and D constants as (3, 4), for loops, which see volumes."""
    kept = [0, 1, 2] if len(linear) == 3 else [0, 2]
    rows = np.zeros((3, 4))
    rows[np.ix_(kept, kept)] = linear.double().numpy()
    if first is not None:
        rows[kept, 3] = first.double().numpy()
    return rows


def _matrix(matrix: Tensor) -> np.ndarray:
    return _rows(matrix[:-1, :-1], matrix[:-1, -1])
