"""The sum of squared differences, for ``similarity.SSD``."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from torch import Tensor

from hybridreg.kernels.compiled import NO_WEIGHT, over_slabs, volume


def squared_differences(
    loops: ModuleType, fixed: Tensor, moved: Tensor, weight: Tensor | None
) -> tuple[float, float]:
    """The sums over voxels and channels of (fixed - moved)^2 times weight, and of weights.

    fixed, moved: shape (C, *shape). weight: shape (*shape) or None.
    """
    w = NO_WEIGHT if weight is None else volume(weight[None])[0]
    parts = [
        part
        for f, m in zip(volume(fixed), volume(moved), strict=True)
        for part in over_slabs(loops.squared_differences, f.shape, f, m, w)
    ]
    return tuple(np.sum(parts, 0).tolist())
