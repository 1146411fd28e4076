"""Gaussian and Laplacian pyramids of images and volumes of any size, exactly invertible.

Burt and Adelson 1983, with the filter [1 4 6 4 1]/16 and the border rules of the code published
with Liu et al. 2017: symmetric (the border voxel repeated) on the way down, the border voxel
replicated on the way up. The filter is separable, so each axis is halved separately, or not at all:
a step of a pyramid is a tuple of the axes that it halves, counted from the end (-1 is x), and a
pyramid a tuple of such steps. Axes in front of those are independent images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Steps = tuple[tuple[int, ...], ...]

_FEWEST_VOXELS = 8  # an axis of a volume is not halved below
_ALIKE = math.sqrt(2)  # spacings within this ratio are halved together


def published_steps(shape: Sequence[int]) -> Steps:
    """The steps of Liu 2017 for images (y, x): floor(log2(min(y, x))) levels, so one step fewer."""
    levels = int(min(shape)).bit_length() - 1
    return ((-2, -1),) * (levels - 1)


def steps_by_spacing(shape: Sequence[int], spacing: Sequence[float]) -> Steps:
    """Steps that first make voxels nearly isotropic, then halve all axes equally.

    shape: array order; spacing: mm, (x, y, z) order. An axis with a larger spacing than
    the others is halved later, and no axis is reduced to fewer than 8 voxels.
    """
    count = dict(enumerate(reversed(shape), start=1))
    length = dict(enumerate(spacing, start=1))
    steps = []
    while open_axes := [a for a in count if (count[a] + 1) // 2 >= _FEWEST_VOXELS]:
        finest = min(length[a] for a in open_axes)
        halved = [a for a in open_axes if length[a] <= _ALIKE * finest]
        for axis in halved:
            count[axis] = (count[axis] + 1) // 2
            length[axis] *= 2
        steps.append(tuple(sorted(-a for a in halved)))
    return tuple(steps)


def reduce(image: Tensor, axes: Sequence[int]) -> Tensor:
    """Smoothed and every second voxel kept, the first included, along the axes."""
    for axis in sorted(axes):  # the outermost first: its passes are contiguous and halve the rest
        image = _reduce(image, axis)
    return image


def expand(image: Tensor, axes: Sequence[int], *, shape: Sequence[int]) -> Tensor:
    """Interpolated back to the shape (whole, or of the last axes) before a reduction."""
    for axis in sorted(axes, reverse=True):
        image = _expand(image, axis, shape[axis])
    return image


def gaussian_pyramid(image: Tensor, steps: Steps) -> list[Tensor]:
    """The image and its reductions, finest first: one level more than steps."""
    levels = [image]
    for axes in steps:
        levels.append(reduce(levels[-1], axes))
    return levels


def laplacian_pyramid(image: Tensor, steps: Steps) -> list[Tensor]:
    """The detail lost by each reduction, finest first, and last the low-pass residual."""
    levels = []
    for axes in steps:
        coarse = reduce(image, axes)
        levels.append(expand(coarse, axes, shape=image.shape).neg_().add_(image))
        image = coarse
    return [*levels, image]


def collapse(levels: Sequence[Tensor], steps: Steps) -> Tensor:
    """The image of a Laplacian pyramid."""
    image = levels[-1]
    for level, axes in zip(reversed(levels[:-1]), reversed(steps), strict=True):
        image = expand(image, axes, shape=level.shape).add_(level)
    return image.clone() if len(levels) == 1 else image


def _reduce(image: Tensor, axis: int) -> Tensor:
    count = image.shape[axis]
    kept = (count + 1) // 2
    index = torch.arange(-2, 2 * kept + 1, device=image.device)
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= count, 2 * count - 1 - index, index).clamp(0, count - 1)
    padded = image.index_select(axis, index).movedim(axis, 0)
    taps = [padded[first : first + 2 * kept - 1 : 2] for first in range(5)]
    out = taps[0] + taps[4]
    out.add_(taps[1], alpha=4).add_(taps[3], alpha=4).add_(taps[2], alpha=6)
    return out.div_(16).movedim(0, axis)


def _expand(image: Tensor, axis: int, count: int) -> Tensor:
    shape = list(image.shape)
    shape[axis] = count
    out = image.new_empty(shape)
    x, even, odd = (t.movedim(axis, 0) for t in (image, out, out))
    even, odd = even[::2], odd[1::2]
    torch.mul(x, 6 / 8, out=even)
    even[1:].add_(x[:-1], alpha=1 / 8)
    even[:-1].add_(x[1:], alpha=1 / 8)
    even[0].add_(x[0], alpha=1 / 8)
    even[-1].add_(x[-1], alpha=1 / 8)
    inner = min(len(odd), len(x) - 1)
    torch.add(x[:inner], x[1 : inner + 1], out=odd[:inner]).mul_(1 / 2)
    odd[inner:].copy_(x[inner : len(odd)])  # beyond the border as on it
    return out
