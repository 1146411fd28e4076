"""Scores of the fused image alone: its contrast and how fast it changes.

They use no source: sharpening, noise and plain maximum fusion raise them, so a higher value means
more contrast, not a better fusion. In units of the data range; volumes are scored in 3D, where
differences along an axis are divided by its spacing over the finest.
"""

from __future__ import annotations

import math

import numpy as np

from hybridreg.fusion_scores.fused_pairs import FusedPair


def standard_deviation(pair: FusedPair) -> float:
    """SD of the fused image in the foreground, 0 to 0.5."""
    return float(pair.fused[pair.inside].std(dtype=np.float64))


def spatial_frequency(pair: FusedPair) -> float:
    """SF: root of the sum over axes of mean squared differences of neighbors (Eskicioglu 1995).

    sqrt(row frequency^2 + column frequency^2), of neighbors that both lie in the foreground.
    """
    total = 0.0
    for axis, step in enumerate(pair.steps):
        ends = [(slice(None),) * axis + (cut,) for cut in (slice(1, None), slice(None, -1))]
        both = pair.inside[ends[0]] & pair.inside[ends[1]]
        if both.any():
            difference = (pair.fused[ends[0]] - pair.fused[ends[1]])[both]
            total += np.mean(difference**2, dtype=np.float64) / step**2
    return math.sqrt(total)


def average_gradient(pair: FusedPair) -> float:
    """AG: mean of sqrt(sum of squared derivatives / dimension),
    by central differences (Cui 2015).
    """
    total = 0.0
    for part in pair.slabs(halo=1):
        slopes = np.stack(np.gradient(part.fused, *part.steps))
        total += np.sqrt((slopes**2).mean(0))[part.inside].sum(dtype=np.float64)
    return float(total / pair.inside.sum())
