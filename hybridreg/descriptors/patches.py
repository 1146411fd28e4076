"""Random patches of images, more of them where there is structure (importance sampling)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

_BINS = 16  # of intensity, in a random change of contrast


class Patches:
    """Draws cubic patches (squares in 2D) centered at voxels with a chance that grows with the
    gradient.

    images: by name, each (1, *shape) in [0, 1]. size: voxels along every axis, odd. even: the
    fraction of patches whose centers are drawn evenly from the foreground (Wu 2016 draws by the
    gradient's magnitude alone, and never sees the inside of a region).
    ValueError for images that are too small, or without any structure.
    """

    def __init__(self, images: Mapping[str, Tensor], *, size: int, even: float = 0.2):
        self._images = list(images.values())
        self._size, self._chances = size, []
        for name, image in images.items():
            if min(image.shape[1:]) < size:
                raise ValueError(
                    f"{name} has {min(image.shape[1:])} voxels along an axis, and patches "
                    f"need {size}: "
                    "leave it out, or train with smaller voxels"
                )
            chances = _chances(image, size, even)
            if not chances[-1] > 0:
                raise ValueError(
                    f"{name} is the same everywhere: there is nothing to learn from it"
                )
            self._chances.append(chances)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Patches of random images: (count, 1, *size)."""
        which = torch.randint(len(self._images), (count,), generator=generator)
        draws = torch.rand(count, generator=generator, dtype=torch.float64)
        found = [self._patch(i, x) for i, x in zip(which.tolist(), draws, strict=True)]
        return torch.stack(found)

    def _patch(self, number: int, draw: Tensor) -> Tensor:
        image, chances = self._images[number], self._chances[number]
        place = int(torch.searchsorted(chances, draw * chances[-1], right=True))
        inner = [n - self._size + 1 for n in image.shape[1:]]
        corner = []
        for count in reversed(inner):
            place, start = divmod(place, count)
            corner.append(start)
        where = tuple(slice(start, start + self._size) for start in reversed(corner))
        return image[(slice(None), *where)]


def _chances(image: Tensor, size: int, even: float) -> Tensor:
    """Cumulative chances of the patches of an image, by the voxels of their centers, float64."""
    reach = size // 2
    inner = tuple(slice(reach, n - reach) for n in image.shape[1:])
    steps = torch.stack(torch.gradient(image[0]))
    gradient = steps.square().sum(0).sqrt()[inner].flatten().double()
    shown = (image[0][inner].flatten() > 0).double()
    parts = [(1 - even, gradient), (even, shown)]
    chances = sum(w * p / p.sum().clamp(min=1e-12) for w, p in parts)
    return (chances * (gradient.sum() > 0)).cumsum(0)


def in_another_contrast(patches: Tensor, generator: Generator) -> Tensor:
    """Patches (N, 1, *size) in [0, 1], each through a random function of intensity that keeps 0.

    It is linear between random values at 0, 1/16, ..., which are smoothed, so that contrasts
    vanish, reverse or grow. For two tissues of one brightness in one contrast and of two in the
    other.
    """
    knots = torch.rand(len(patches), 1, _BINS // 3, generator=generator)
    knots = torch.nn.functional.interpolate(knots, _BINS + 1, mode="linear", align_corners=True)[
        :, 0
    ]
    low, high = knots.amin(1, keepdim=True), knots.amax(1, keepdim=True)
    knots = (knots - low) / (high - low)
    place = patches.flatten(1) * _BINS
    below = place.long().clamp(0, _BINS - 1)
    values = torch.lerp(knots.gather(1, below), knots.gather(1, below + 1), place - below)
    return torch.where(patches > 0, values.reshape(patches.shape), 0.0)
