"""The joint histogram of two images and its gradient, for ``similarity.MI``."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import NO_WEIGHT, over_slabs, volume


def joint_histogram(
    loops: ModuleType,
    fixed: Tensor,
    moved: Tensor,
    weight: Tensor | None,
    limits: np.ndarray,
    bins: int,
) -> np.ndarray:
    """Summed weights, shape (bins, bins + 3), float64, of one channel (*shape).

    limits: the lowest value and bins per unit of the fixed, then of the moved image, float32. A
    moved value counts in four of the columns by cubic B-splines.
    """
    f, m, w = _volumes(fixed, moved, weight)
    return np.sum(over_slabs(loops.joint, f.shape, f, m, w, limits, bins), 0)


def histogram_gradient(
    loops: ModuleType,
    fixed: Tensor,
    moved: Tensor,
    weight: Tensor | None,
    limits: np.ndarray,
    slopes: np.ndarray,
) -> Tensor:
    """By the moved image (*shape), of the sum of ``slopes`` times the joint histogram."""
    f, m, w = _volumes(fixed, moved, weight)
    out = torch.empty(moved.shape)
    table = np.ascontiguousarray(slopes, np.float32)
    over_slabs(loops.gradient, f.shape, f, m, w, limits, len(table), table, volume(out[None])[0])
    return out


def _volumes(fixed: Tensor, moved: Tensor, weight: Tensor | None):
    w = NO_WEIGHT if weight is None else volume(weight[None])[0]
    return volume(fixed[None])[0], volume(moved[None])[0], w
