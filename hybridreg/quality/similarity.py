"""Similarity of the fixed image and the moving one through a transform."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.images import LabelMap
from hybridreg.preprocessing import half_of_otsu, pair_without_outliers
from hybridreg.transforms import Transform, interpolate

_POINTS = 100_000
_FEWEST = 100  # points; fewer are not significant
_BINS = 32


@dataclass(frozen=True)
class Similarity:
    """Similarity of the fixed image and the moving one through a transform.

    overlap: fraction of the fixed field of view (or mask) that the moving image covers, 0 to 1.
    mutual_information: in nats, of 32-bin histograms between robust limits; higher is better.
    correlation: Pearson's, -1 to 1, in the foreground of either image; intended for
        images of the same contrast. (With air included, any two brains correlate.)
    The last two are None without overlap; of several channels they are the mean.
    """

    overlap: float
    mutual_information: float | None
    correlation: float | None


@dataclass(frozen=True, eq=False)
class ComparedPoints:
    """A regular lattice over the fixed image, within its mask.

    points: LPS mm, shape (N, D). values: of the fixed image there, shape (C, N).
    """

    points: Tensor
    values: np.ndarray

    @classmethod
    def over(cls, pair: ImagePair, count: int) -> ComparedPoints:
        """About ``count`` points, but not closer than the voxels."""
        grid = pair.fixed.grid
        step = max((math.prod(grid.extent) / count) ** (1 / grid.dimension), min(grid.spacing))
        points = grid.with_spacing([step] * grid.dimension).points().flatten(0, -2)
        values, inside = interpolate(pair.fixed.data, grid, points)
        if pair.fixed_mask is not None:
            inside &= _within(pair.fixed_mask, points)
        return cls(points[inside], values[:, inside].numpy())


def moving_at(pair: ImagePair, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Values (C, N) of the moving image; bool (N,), true where it (and its mask) covers a point."""
    values, covered = interpolate(pair.moving.data, pair.moving.grid, points)
    if pair.moving_mask is not None:
        covered &= _within(pair.moving_mask, points)
    return values.numpy(), covered.numpy()


def similarity(pair: ImagePair, transform: Transform, *, points: int = _POINTS) -> Similarity:
    """Compares at about ``points`` points of a lattice over the fixed image (and its mask)."""
    pair = pair_without_outliers(pair)
    fixed = ComparedPoints.over(pair, points)
    moving, covered = moving_at(pair, transform(fixed.points))
    overlap = float(covered.sum() / max(len(covered), 1))
    if covered.sum() < _FEWEST:
        return Similarity(overlap, None, None)
    information, correlations = [], []
    for channel, (f, m) in enumerate(zip(fixed.values[:, covered], moving[:, covered])):
        information.append(mutual_information(Bins.of(f)(f), Bins.of(m)(m)))
        shown = f > half_of_otsu(_some(pair.fixed.data[channel]))
        shown |= m > half_of_otsu(_some(pair.moving.data[channel]))
        correlations.append(_correlation(f[shown], m[shown]) if shown.sum() >= _FEWEST else 0.0)
    return Similarity(overlap, float(np.mean(information)), float(np.mean(correlations)))


def _within(mask: LabelMap, points: Tensor) -> Tensor:
    fraction, inside = interpolate((mask.data != 0)[None].float(), mask.grid, points)
    return inside & (fraction[0] > 0.5)


@dataclass(frozen=True)
class Bins:
    """Values in histogram bins of one width between two limits; outliers are in the last bins."""

    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Bins:
        """Between limits that are robust to outliers."""
        return cls(*(float(limit) for limit in np.percentile(values, [0.1, 99.9])))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        width = max(self.high - self.low, 1e-12) / _BINS
        return np.clip((values - self.low) / width, 0, _BINS - 1).astype(np.int64)


def mutual_information(fixed: np.ndarray, moving: np.ndarray) -> float:
    """In nats, from the bins of values at the same points."""
    joint = np.bincount(fixed * _BINS + moving, minlength=_BINS**2).reshape(_BINS, _BINS)
    joint = joint / max(joint.sum(), 1)
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / expected[filled])).sum())


def _some(values: Tensor) -> np.ndarray:
    return values.flatten()[:: max(1, values.numel() // _POINTS)].numpy()


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0
