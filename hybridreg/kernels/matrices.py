"""Tiny matrices, one at every voxel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Matrix = Sequence[Sequence[Tensor]]
"""[row][column], of every voxel; also one tensor of shape (D, D, ...)."""


def determinant(m: Matrix) -> Tensor:
    """At every voxel; of a Jacobian, 0 or less is a fold.

    Written out: the batched routine of torch is some 30 times slower on tiny matrices.
    """
    if len(m) == 2:
        return m[0][0] * m[1][1] - m[0][1] * m[1][0]
    (a, b, c), (d, e, f), (g, h, i) = m
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
