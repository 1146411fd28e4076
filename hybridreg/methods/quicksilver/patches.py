"""The momentum over a whole image from a network's patches: overlaps averaged, air left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from hybridreg.methods.quicksilver.network import PATCH, MomentumNetwork

STRIDE = 14  # voxels from patch to patch, as published
_AT_ONCE = {2: 64, 3: 8}  # patches evaluated together


def predicted(
    network: MomentumNetwork,
    fixed: Tensor,
    moving: Tensor,
    *,
    size: int = PATCH,
    stride: int = STRIDE,
) -> Tensor:
    """The network's output over whole images (1, *shape), shape (D, *shape).

    Patches overlap by size - stride voxels and are averaged there; the last ones along each axis
    end at the border. Patches where both images are 0 everywhere are left out, and 0 there. Images
    smaller than a patch are padded with zeros.
    """
    shape = fixed.shape[1:]
    padded = [max(n, size) for n in shape]
    images = [_padded(image, padded) for image in (fixed, moving)]
    corners = [c for c in _corners(padded, size, stride) if _shown(images, c, size)]
    total = fixed.new_zeros(network.dimension, *padded)
    count = fixed.new_zeros(padded)
    at_once = _AT_ONCE[network.dimension]
    for start in range(0, len(corners), at_once):
        some = corners[start : start + at_once]
        cut = [torch.stack([image[_place(c, size)] for c in some]) for image in images]
        with torch.no_grad():
            found = network(*cut)
        for corner, patch in zip(some, found, strict=True):
            total[_place(corner, size)] += patch
            count[_place(corner, size)[1:]] += 1
    return (total / count.clamp(min=1))[(slice(None), *[slice(n) for n in shape])]


def _corners(shape: Sequence[int], size: int, stride: int) -> list[tuple[int, ...]]:
    starts = [sorted({*range(0, n - size, stride), n - size}) for n in shape]
    return list(itertools.product(*starts))


def _place(corner: Sequence[int], size: int) -> tuple[slice, ...]:
    return (slice(None), *[slice(c, c + size) for c in corner])


def _shown(images: Sequence[Tensor], corner: Sequence[int], size: int) -> bool:
    return any(bool((image[_place(corner, size)] != 0).any()) for image in images)


def _padded(image: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    out = image.new_zeros(len(image), *shape)
    out[(slice(None), *[slice(n) for n in image.shape[1:]])] = image
    return out
