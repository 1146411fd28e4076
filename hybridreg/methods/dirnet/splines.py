"""Cubic B-splines of control points on the voxels of an image, differentiable, and their bending.

The control points of a spacing of n voxels lie in the middles of blocks of n voxels, where a
network that halves its images log2(n) times predicts them. Beyond the image they are zero.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
from torch import Tensor

_SAMPLES = 4  # of the bending energy per control point and axis


def dense(control: Tensor, spacing: int) -> Tensor:
    """The spline at every voxel: (B, D, *control shape) to (B, D, *(spacing * control shape))."""
    return _at(control, [_voxels(n, spacing) for n in control.shape[2:]])


def bending(control: Tensor, spacing: int) -> Tensor:
    """Mean sum of squared second derivatives, of displacements and positions in voxels (Rueckert
    1999).

    The integrand of the bending energy, with both mixed derivatives.
    """
    dimension = control.ndim - 2
    total = control.new_zeros(())
    for axes in itertools.product(range(dimension), repeat=2):
        orders = [axes.count(axis) for axis in range(dimension)]
        found = _at(control, [_samples(n, order) for n, order in zip(control.shape[2:], orders)])
        total = total + found.square().sum(1).mean()
    return total / spacing**4


def _at(control: Tensor, matrices: list[Tensor]) -> Tensor:
    """control (B, D, *shape) times one matrix (places, control points) per axis."""
    for axis, matrix in enumerate(matrices, start=2):
        control = torch.tensordot(control, matrix.to(control), ([axis], [1])).movedim(-1, axis)
    return control


@lru_cache(maxsize=64)
def _voxels(count: int, spacing: int) -> Tensor:
    places = (torch.arange(count * spacing, dtype=torch.float64) + 0.5) / spacing - 0.5
    return _basis(places, count, 0)


@lru_cache(maxsize=64)
def _samples(count: int, order: int) -> Tensor:
    places = (torch.arange(count * _SAMPLES, dtype=torch.float64) + 0.5) / _SAMPLES - 0.5
    return _basis(places, count, order)


def _basis(places: Tensor, count: int, order: int) -> Tensor:
    """The cubic B-spline, or its 1st or 2nd derivative, of each control point: (places, count)."""
    x = places[:, None] - torch.arange(count, dtype=torch.float64)
    near, far = x.abs(), (2 - x.abs()).clamp(min=0)
    if order == 0:
        inner, outer = 2 / 3 - near**2 + near**3 / 2, far**3 / 6
    elif order == 1:
        inner, outer = x.sign() * (1.5 * near**2 - 2 * near), -x.sign() * far**2 / 2
    else:
        inner, outer = 3 * near - 2, far
    return torch.where(near < 1, inner, outer).float()
