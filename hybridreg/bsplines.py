"""Uniform B-splines at scattered points: the numerics of B-spline transforms."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 14  # points at a time; their neighbourhoods then stay in the processor's cache


def evaluate(coefficients: Tensor, index: Tensor, order: int = 3) -> Tensor:
    """Sum of coefficients times B-splines centred on them, at continuous voxel indices.

    coefficients: shape (C, z, y, x) or (C, y, x).
    index: shape (N, D), (x, y, z) order, each within the region where all order + 1 neighbours
        along every axis exist: order/2 - 1/2 <= index <= size - 1 - (order/2 - 1/2).
    Gives shape (N, C).
    """
    support = order + 1
    rows, counts = _neighbourhoods(coefficients, support)
    last = torch.tensor([n - 1 for n in counts[::-1]])
    values = torch.empty(len(index), coefficients.shape[0], dtype=coefficients.dtype)
    for start in range(0, len(index), _CHUNK):
        part = index[start : start + _CHUNK].to(coefficients.dtype)
        first = (part - (order - 1) / 2).floor().long().clamp(min=0).minimum(last)
        weights = [_weights(part[:, d] - first[:, d], order) for d in range(part.shape[1])]
        plane = (weights[1][:, :, None] * weights[0][:, None, :]).flatten(1)  # (n, y * x)
        where = first[:, 1] * counts[-1] + first[:, 0]
        if part.shape[1] == 2:
            values[start : start + _CHUNK] = _dot(plane, rows, where)
            continue
        stride = counts[-2] * counts[-1]
        where = where + first[:, 2] * stride
        values[start : start + _CHUNK] = sum(
            _dot(plane * weights[2][:, k : k + 1], rows, where + k * stride) for k in range(support)
        )
    return values


def _neighbourhoods(coefficients: Tensor, support: int) -> tuple[Tensor, tuple[int, ...]]:
    """Each in-plane neighbourhood laid out as one row (y * x, C), and the counts of rows."""
    table = coefficients.movedim(0, -1)
    axis = table.ndim - 3
    table = table.unfold(axis, support, 1).unfold(axis + 1, support, 1)  # (z, y, x, C, ky, kx)
    counts = (*[n - support + 1 for n in table.shape[:axis]], *table.shape[axis : axis + 2])
    rows = table.movedim(-3, -1).reshape(-1, support * support, coefficients.shape[0])
    return rows, counts


def _dot(weights: Tensor, rows: Tensor, where: Tensor) -> Tensor:
    return torch.bmm(weights[:, None, :], rows.index_select(0, where))[:, 0]


def _weights(offset: Tensor, order: int) -> Tensor:
    """Weights of the order + 1 neighbours of points ``offset`` after the first; shape (N, order+1).

    offset lies in [(order - 1)/2, (order + 1)/2].
    """
    if order == 1:
        return torch.stack([1 - offset, offset], 1)
    if order == 2:
        t = offset - 1  # distance to the middle neighbour, in [-1/2, 1/2]
        return torch.stack([(0.5 - t) ** 2 / 2, 0.75 - t * t, (0.5 + t) ** 2 / 2], 1)
    if order == 3:
        t = offset - 1
        s = 1 - t
        return torch.stack(
            [
                s**3 / 6,
                2 / 3 - t * t * (2 - t) / 2,
                2 / 3 - s * s * (2 - s) / 2,
                t**3 / 6,
            ],
            1,
        )
    raise ValueError(f"B-splines of order 1, 2 and 3 are known, found {order}")
