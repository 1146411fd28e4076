"""Search of the initial alignment of a linear registration: rotations about aligned centers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hybridreg.methods.base import RegistrationError
from hybridreg.methods.linear.fitting import Dissimilarity, fitted
from hybridreg.methods.linear.parameters import Family, rotations

_STEP_DEG = 22.5  # a rotation halfway between two is found from either
_REFINED = 6
_ITERATIONS = 15


def searched(
    dissimilarity: Dissimilarity,
    center: np.ndarray,
    radius: float,
    starts: Sequence[np.ndarray],
    largest_deg: float,
    report: Callable[[float], None],
) -> np.ndarray:
    """The best rigid alignment after each start: turned about the center, and the best of them
    refined.

    center: of the fixed image in LPS mm. starts: matrices fixed -> moving.
    RegistrationError where the images overlap from none of them.
    """
    turned = [
        _about(start, center, vector) @ start
        for start in starts
        for vector in rotations(largest_deg, _STEP_DEG, len(center))
    ]
    values = np.array([dissimilarity.value(matrix) for matrix in turned])
    if not np.isfinite(values).any():
        raise RegistrationError(
            "the images do not overlap from any start that was tried: give an initial "
            "transform, or "
            "masks of what both show"
        )
    best = [turned[i] for i in np.argsort(values, kind="stable")[:_REFINED] if values[i] < np.inf]
    refined = []
    for number, matrix in enumerate(best):
        family = Family("rigid", (matrix @ np.append(center, 1))[:-1], radius)
        how = {"since": matrix, "iterations": _ITERATIONS, "tolerance": 0.05}
        refined.append(fitted(dissimilarity, family, matrix, **how))
        report((number + 1) / len(best))
    return min(refined, key=dissimilarity.value)


def _about(start: np.ndarray, center: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """A rotation about where a start takes the center."""
    place = (start @ np.append(center, 1))[:-1]
    return Family("rigid", place, 1.0).matrix(np.concatenate([np.zeros(len(center)), vector]))
