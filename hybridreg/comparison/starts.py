"""The capture range: how far off a registration may start and still find the same result."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from hybridreg.transforms import Transform, rigid

LARGEST_MM, LARGEST_DEG = 60.0, 45.0  # of the last perturbation
TOLERANCE_MM = 2.0  # mean distance of two results that are the same


def perturbation(number: int, center: torch.Tensor, *, seed: int, count: int = 8) -> Transform:
    """The perturbation of a start: a rotation about the center and a translation, in any direction.

    number: from 0 to count - 1; sizes grow with it in equal steps to ``LARGEST_MM`` and
    ``LARGEST_DEG``. The same for all methods and cases.
    """
    random = np.random.default_rng([seed, number])
    size = (number + 1) / count
    dimension = len(center)
    axis = random.standard_normal(1 if dimension == 2 else 3)
    shift = random.standard_normal(dimension)
    angles = LARGEST_DEG * size * axis / np.linalg.norm(axis)
    return rigid(
        angles.tolist(), (LARGEST_MM * size * shift / np.linalg.norm(shift)).tolist(), center
    )


def capture_mm(starts: Mapping[str, tuple[float | None, float | None]]) -> float | None:
    """The distance in mm of the farthest start from which, and from all less perturbed ones, the
    result was found again to ``TOLERANCE_MM``; 0 if not from the first, None without starts.

    starts: by number, the distances of the start and of the end from the result without
    perturbation, in mm; None where it failed.
    """
    if not starts:
        return None
    reached = 0.0
    for number in sorted(starts, key=int):
        start, end = starts[number]
        if start is None or end is None or end > TOLERANCE_MM:
            break
        reached = max(reached, start)
    return reached
