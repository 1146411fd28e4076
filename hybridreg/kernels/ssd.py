"""The sum of squared differences, for ``similarity.SSD``."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from hybridreg.kernels.compiled import NO_WEIGHT, over_slabs, volume


def squared_differences(
    loops: ModuleType, fixed: Tensor, moved: Tensor, weight: Tensor | None
) -> float:
    """The sum over voxels and channels of (fixed - moved)^2 times weight.

    fixed, moved: shape (C, *shape). weight: shape (*shape) or None.
    """
    w = NO_WEIGHT if weight is None else volume(weight[None])[0]
    return sum(
        sum(over_slabs(loops.squared_differences, f.shape, f, m, w))
        for f, m in zip(volume(fixed), volume(moved), strict=True)
    )
