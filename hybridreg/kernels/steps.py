"""From the gradient by the moved image to a step of the map: force, momentum, limit.

Images are (C, *shape), vectors (D, *shape) along the axes of their lattice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import (
    along_axes,
    flat_vectors,
    loops,
    over_slabs,
    volume,
)
from hybridreg.kernels.jacobians import slope

_TINY = 1e-30


def force(
    gradient: Tensor, moved: Tensor, spacing: tuple[float, ...], *, threads: int | None = None
) -> Tensor:
    """The gradient by v of a measure of moved(x + v(x)), at v = 0, of that by the moved image.

    Central differences of the moved image per mm, one-sided at the border, summed over channels.
    """
    if compiled := loops("steps", gradient, moved):
        images = volume(moved)
        out = np.empty((3, *images.shape[1:]), np.float32)
        spread = np.array(along_axes(spacing), np.float32)
        over_slabs(
            compiled.force, out.shape[1:], volume(gradient), images, spread, out, threads=threads
        )
        return flat_vectors(out, moved.ndim - 1)
    slopes = [slope(moved, moved.ndim - 1 - axis, h) for axis, h in enumerate(spacing)]
    return torch.stack([(gradient * s).sum(0) for s in slopes])


def gathered(
    momentum: Tensor | None, vectors: Tensor, kept: float, *, threads: int | None = None
) -> tuple[Tensor, float]:
    """kept momentum + vectors, and its typical length: the mean of squared over that of lengths.

    Voxels with zero vectors are left out of that. The momentum is overwritten.
    """
    if momentum is None:
        momentum = torch.zeros_like(vectors)
    if (compiled := loops("steps", momentum, vectors)) and vectors.ndim == 4:
        new = volume(vectors)
        parts = over_slabs(
            compiled.gathered,
            new.shape[1:],
            volume(momentum),
            new,
            np.float32(kept),
            threads=threads,
        )
        total, squares = np.sum(parts, 0)
    else:
        momentum.mul_(kept).add_(vectors)
        lengths = momentum.norm(dim=0)
        total, squares = lengths.sum().item(), lengths.square().sum().item()
    return momentum, float(squares / max(total, _TINY))


def limited(vectors: Tensor, longest: float, soft: float, *, threads: int | None = None) -> Tensor:
    """longest v / sqrt(|v|^2 + soft^2): never longer than ``longest``,
    and linear where v is short.
    """
    soft = max(soft, _TINY**0.5)
    if (compiled := loops("steps", vectors)) and vectors.ndim == 4:
        given = volume(vectors)
        out = np.empty_like(given)
        numbers = np.float32(longest), np.float32(soft)
        over_slabs(compiled.limited, given.shape[1:], given, *numbers, out, threads=threads)
        return torch.from_numpy(out)
    return vectors * (longest / (vectors.square().sum(0) + soft**2).sqrt())
