"""How well two images fit under a transform, judged without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybridreg.cases import ImagePair
from hybridreg.transforms import Transform, interpolate

_POINTS = 100_000


@dataclass(frozen=True)
class Similarity:
    """Agreement of the fixed image with the moving one seen through a transform.

    overlap: share of the fixed field of view (or mask) that the moving image covers, 0 to 1.
    mutual_information: in nats, of 32-bin histograms between robust limits; higher is better.
    correlation: Pearson's, -1 to 1, meant for images of the same contrast.
    The last two are None without overlap; of several channels they are the mean.
    """

    overlap: float
    mutual_information: float | None
    correlation: float | None


def similarity(pair: ImagePair, transform: Transform) -> Similarity:
    """Compares at about 100,000 points on a regular lattice over the fixed image (and its mask)."""
    grid = pair.fixed.grid
    step = max((np.prod(grid.extent) / _POINTS) ** (1 / grid.dimension), min(grid.spacing))
    points = grid.with_spacing([step] * grid.dimension).points().flatten(0, -2)
    fixed, inside = interpolate(pair.fixed.data, grid, points)
    moving, covered = interpolate(pair.moving.data, pair.moving.grid, transform(points))
    for mask, where in ((pair.fixed_mask, points), (pair.moving_mask, transform(points))):
        if mask is not None:
            weight, _ = interpolate((mask.data != 0)[None].float(), mask.grid, where)
            inside &= weight[0] > 0.5
    used = inside & covered
    overlap = used.sum().item() / max(inside.sum().item(), 1)
    if used.sum() < 100:
        return Similarity(overlap, None, None)
    pairs = [(f[used].numpy(), m[used].numpy()) for f, m in zip(fixed, moving, strict=True)]
    return Similarity(
        overlap,
        float(np.mean([_mutual_information(f, m) for f, m in pairs])),
        float(np.mean([_correlation(f, m) for f, m in pairs])),
    )


def _mutual_information(a: np.ndarray, b: np.ndarray, bins: int = 32) -> float:
    limits = [np.percentile(values, [0.1, 99.9]) for values in (a, b)]
    clipped = [np.clip(v, *limit) for v, limit in zip((a, b), limits, strict=True)]
    joint, _, _ = np.histogram2d(*clipped, bins=bins)
    joint /= joint.sum()
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / expected[filled])).sum())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0
