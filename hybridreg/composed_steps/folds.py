"""Removal of folds from displacements by increasing local smoothing."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hybridreg.kernels.smoothing import smoothed

_MIN_DETERMINANT = 0.02  # minimum determinant, which rounding does not make negative
_ROUNDS = 12
_SHRINKING = 0.9

Determinants = Callable[[Tensor], Tensor]
"""Of a displacement (D, *shape): shape (*shape), as folds are counted."""


def unfolded(displacement: Tensor, determinants: Determinants) -> tuple[Tensor, int]:
    """The displacement without folds, and how many voxels were folded, or nearly.

    Around such voxels it is blended with its smoothed version, over a range that grows from round
    to round. If smoothing is not sufficient, the whole displacement is scaled down.
    """
    found = 0
    for number in range(_ROUNDS):
        bad = determinants(displacement) < _MIN_DETERMINANT
        count = int(bad.sum())
        if count == 0:
            return displacement, found
        found = found or count
        sigma = (1.0 + 0.5 * number,) * len(displacement)
        around = smoothed(bad[None].to(displacement), sigma)
        around = (around * (1 / around.max())).mul_(8).clamp_(max=1)
        displacement = displacement + around * (smoothed(displacement, sigma) - displacement)
    while (determinants(displacement) < _MIN_DETERMINANT).any():
        displacement = displacement * _SHRINKING
    return displacement, found
