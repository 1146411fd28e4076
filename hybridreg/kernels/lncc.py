"""Local correlation, value and gradient, for ``similarity.LNCC``."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import NO_WEIGHT, over_slabs, volume


def statistics(
    loops: ModuleType,
    fixed: Tensor,
    moved: Tensor,
    weight: Tensor | None,
    radius: int,
    noise: float,
) -> tuple[float, float, np.ndarray]:
    """The weighted sum of squared local correlations, that of weights, and what the gradient needs.

    fixed, moved: shape (C, *shape). weight: shape (*shape) or None. noise: added to the product of
    variances.
    """
    f, m = volume(fixed), volume(moved)
    w = NO_WEIGHT if weight is None else volume(weight[None])[0]
    factors = np.empty((len(f), 3, *f.shape[1:]), np.float32)
    total, weights = 0.0, 0.0
    for channel in range(len(f)):
        arrays = f[channel], m[channel], w, factors[channel]
        numbers = radius, np.float32(noise)
        parts = over_slabs(loops.statistics, f.shape[1:], *arrays, *numbers, least=_slices(radius))
        total, weights = np.sum(parts, 0) + (total, weights)
    return float(total), float(weights), factors


def gradient(
    loops: ModuleType,
    fixed: Tensor,
    moved: Tensor,
    factors: np.ndarray,
    radius: int,
    adjoint: float,
) -> Tensor:
    """Of the sum that ``statistics`` gave, times an adjoint, by the moved image; (C, *shape)."""
    out = torch.empty(moved.shape)
    f, m, gradients = volume(fixed), volume(moved), volume(out)
    for channel in range(len(f)):
        arrays = f[channel], m[channel], factors[channel]
        numbers = radius, np.float32(adjoint)
        over_slabs(
            loops.gradient,
            f.shape[1:],
            *arrays,
            *numbers,
            gradients[channel],
            least=_slices(radius),
        )
    return out


def _slices(radius: int) -> int:
    """In a slab: its first takes 2 radius + 1 slices, each further one two."""
    return 4 * (2 * radius + 1)
