"""Gaussian smoothing of images and vector fields, and coarser lattices made with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.kernels.compiled import along_axes, loops, over_slabs, volume
from hybridreg.kernels.sampling import Placement, sample

_REACH = 3.0  # standard deviations


def smoothed(
    values: Tensor,
    sigma: tuple[float, ...],
    *,
    radius: tuple[int, ...] | None = None,
    threads: int | None = None,
) -> Tensor:
    """Values (C, *shape) smoothed by Gaussians of sigma voxels along (x, y, z), cut at 3 sigma.

    Beyond the border values repeat. 0 leaves an axis alone. radius: voxels at which to cut instead.
    """
    radii = radius or [math.ceil(_REACH * s) if s > 0.05 else 0 for s in sigma]
    windows = [_window(s, r) for s, r in zip(sigma, radii, strict=True)]
    if max(len(w) for w in windows) == 1:
        return values.clone()
    if compiled := loops("smoothing", values):
        given = volume(values)
        out = np.empty_like(given)
        spread = along_axes(windows, _window(0.0, 0))
        over_slabs(compiled.smooth, given.shape[1:], given, *spread, out, threads=threads)
        return torch.from_numpy(out.reshape(values.shape))
    return _by_torch(values, windows)


def downsampled(
    values: Tensor, factors: tuple[float, ...], *, threads: int | None = None
) -> Tensor:
    """Values (C, *shape) in voxels larger by factors of 1 or more along (x, y, z).

    The shape is rounded up and shares its middle with the old one, as ``Grid.with_spacing`` has it.
    Smoothed before by .5 sqrt(factor^2 - 1) voxels, which is what the larger voxels cannot show.
    """
    smooth = smoothed(values, antialiasing(factors), threads=threads)
    size = values.shape[:0:-1]
    counts = [max(1, math.ceil(n / f - 1e-6)) for n, f in zip(size, factors, strict=True)]
    firsts = [
        (n - 1) / 2 - (count - 1) / 2 * f for n, count, f in zip(size, counts, factors, strict=True)
    ]
    placement = Placement.along_axes(firsts, factors, [0.0] * len(size))
    return sample(smooth, None, placement, tuple(counts[::-1]), threads=threads)


def antialiasing(factors: Sequence[float]) -> tuple[float, ...]:
    """Sigma in voxels along each axis, before voxels become larger by these factors."""
    return tuple(0.5 * math.sqrt(max(f**2 - 1, 0.0)) for f in factors)


def _window(sigma: float, radius: int) -> np.ndarray:
    """The middle value and one side of a Gaussian whose sum is 1, float32."""
    places = np.arange(radius + 1)
    values = np.exp(-0.5 * (places / max(sigma, 1e-6)) ** 2)
    return (values / (2 * values.sum() - 1)).astype(np.float32)


def _by_torch(values: Tensor, windows: list[np.ndarray]) -> Tensor:
    convolve = F.conv2d if values.ndim == 3 else F.conv3d
    for axis, window in zip(range(values.ndim - 1, 0, -1), windows, strict=True):
        radius = len(window) - 1
        if radius == 0:
            continue
        padding = [0, 0] * (values.ndim - 1)
        padding[2 * (values.ndim - 1 - axis)] = padding[2 * (values.ndim - 1 - axis) + 1] = radius
        padded = F.pad(values[:, None], padding, mode="replicate")
        where = [1] * (values.ndim + 1)
        where[axis + 1] = -1
        both = torch.from_numpy(np.concatenate([window[:0:-1], window])).to(values)
        values = convolve(padded, both.reshape(where))[:, 0]
    return values
