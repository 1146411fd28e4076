"""Uniform B-splines at scattered points: the numerics of B-spline transforms."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from hybridreg.kernels.splines import at_points

_CHUNK = 1 << 14  # points at a time, so that their neighborhoods fit the cache


class BSpline:
    """Sum of coefficients times B-splines centered on them, at continuous voxel indices.

    coefficients: shape (C, z, y, x) or (C, y, x). Without compiled loops each in-plane neighborhood
    is laid out as one row (y * x, C), so that its sum is a small matrix product; that takes 16
    times the memory.
    """

    def __init__(self, coefficients: Tensor, order: int = 3):
        self._coefficients, self._order, self._support = coefficients, order, order + 1
        self._shape = tuple(n - order for n in coefficients.shape[1:])  # of complete neighborhoods
        # For a point at the far edge, the first neighbor is the last one with a complete
        # neighborhood.
        self._last = torch.tensor([n - 1 for n in self._shape[::-1]])

    def __call__(self, index: Tensor) -> Tensor:
        """Values (N, C) at indices (N, D), in (x, y, z) order.

        Each lies where all order + 1 neighbors along every axis exist:
        (order - 1)/2 <= index <= size - 1 - (order - 1)/2.
        """
        found = at_points(self._coefficients, index, self._order)
        if found is not None:
            return found
        return torch.cat([self._at(part.to(self._rows)) for part in index.split(_CHUNK)])

    @cached_property
    def _rows(self) -> Tensor:
        table = self._coefficients.movedim(0, -1)
        axis = table.ndim - 3
        for plane in (axis, axis + 1):
            table = table.unfold(plane, self._support, 1)  # (z, y, x, C, ky, kx) in the end
        return table.movedim(-3, -1).reshape(-1, self._support**2, len(self._coefficients))

    def _at(self, index: Tensor) -> Tensor:
        first = (index - (self._order - 1) / 2).floor().long().clamp(min=0).minimum(self._last)
        along = [weights(index[:, d] - first[:, d], self._order) for d in range(index.shape[1])]
        plane = (along[1][:, :, None] * along[0][:, None, :]).flatten(1)  # (n, y * x)
        where = first[:, 1] * self._shape[-1] + first[:, 0]
        if index.shape[1] == 2:
            return _dot(plane, self._rows, where)
        stride = self._shape[-2] * self._shape[-1]
        where = where + first[:, 2] * stride
        return sum(
            _dot(plane * along[2][:, k : k + 1], self._rows, where + k * stride)
            for k in range(self._support)
        )


def _dot(weights: Tensor, rows: Tensor, where: Tensor) -> Tensor:
    return torch.bmm(weights[:, None, :], rows.index_select(0, where))[:, 0]


def weights(offset: Tensor, order: int) -> Tensor:
    """Weights of the order + 1 neighbors of points ``offset`` after the first; shape (N, order+1).

    offset lies in [(order - 1)/2, (order + 1)/2].
    """
    if order == 1:
        return torch.stack([1 - offset, offset], 1)
    if order == 2:
        t = offset - 1  # distance to the middle neighbor, in [-1/2, 1/2]
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
