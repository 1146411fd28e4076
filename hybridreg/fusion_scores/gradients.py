"""Scores of edges: how much of the sources' edges the fused image keeps, and how many it adds.

Gradients are Sobel's, also in 3D: half the difference of both neighbors along an axis,
divided by its spacing over the finest, smoothed by [1 2 1] / 4 along the others; borders repeat.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from hybridreg.fusion_scores.fused_pairs import FusedPair, UndefinedScore

_GRAY_LEVELS = 255  # thresholds and weights were published for 8-bit images
_NO_EDGE = 1.0  # gray levels a voxel: less is noise


class _Sigmoid(NamedTuple):
    """top / (1 + exp(-slope (x - middle)))."""

    top: float
    slope: float
    middle: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.top / (1 + np.exp(-self.slope * (x - self.middle)))


# Xydeas and Petrovic 2000, and Kumar 2013.
STRENGTH, ORIENTATION = _Sigmoid(0.9994, 15, 0.5), _Sigmoid(0.9879, 22, 0.8)
KUMAR_STRENGTH, KUMAR_ORIENTATION = _Sigmoid(0.9999, 19, 0.5), _Sigmoid(0.9995, 22, 0.5)
MAX_PRESERVED = float(STRENGTH(np.float64(1)) * ORIENTATION(np.float64(1)))


def edge_preservation(pair: FusedPair) -> float:
    """Q^AB/F: fraction of the sources' gradients kept in strength and direction, 0 to 0.975; higher
    is better (Xydeas and Petrovic 2000).

    At each voxel and for each source G is the weaker gradient over the stronger, 1 for equal ones,
    and A = 1 - angle / (pi/2), the angle between the two directions as lines, 0 to pi/2. The
    product of a sigmoid of each is averaged over the foreground, weighted by the source's gradient.

    Public implementations set G of equal gradients to their value, do not wrap the angle, and pad
    with zeros.
    """
    kept = total = 0.0
    for part in pair.slabs(halo=1):
        fused = gradient(part.fused, part)
        for image in (part.fixed, part.moved):
            source = gradient(image, part)
            weight = _norm(source)
            strength, alignment = agreement(source, fused)
            kept += (STRENGTH(strength) * ORIENTATION(alignment) * weight).sum()
            total += weight.sum()
    if total == 0:
        raise UndefinedScore("neither source has an edge in the foreground")
    return float(kept / total)


def fusion_artifacts(pair: FusedPair) -> float:
    """N^AB/F: weighted loss where the fused gradient exceeds both sources', 0 to 1; LOWER is better
    (Petrovic and Xydeas 2005 as modified by Kumar 2013: the fused image's own, invented edges).

    Weights are gradient^1.5 from 2 gray levels (of 255) a voxel on, below that 0.001.
    """
    invented = total = 0.0
    for part in pair.slabs(halo=1):
        images = (part.fused, part.fixed, part.moved)
        sums = artifact_sums(*(gradient(image, part) * _GRAY_LEVELS for image in images))
        invented, total = invented + sums[0], total + sums[1]
    return float(invented / total)


def fixed_edge_recall(pair: FusedPair) -> float:
    """``edge_recall`` of the fixed image: of a CT, its bone edges."""
    return edge_recall(pair, "fixed")


def moved_edge_recall(pair: FusedPair) -> float:
    """``edge_recall`` of the moved image: of an MR, its strong tissue edges."""
    return edge_recall(pair, "moved")


def edge_recall(
    pair: FusedPair, source: Literal["fixed", "moved"], *, strong: float = 1 / 3
) -> float:
    """Fraction of a source's strong edges that the fused image shows, 0 to 1; higher is better.

    An edge voxel lies in the foreground, its gradient exceeds 1/255 a voxel, and is at least that
    of the points one step before and behind it along the gradient (interpolated linearly). It is
    strong if it exceeds ``strong`` times the 99th percentile of all edge voxels: larger keeps
    fewer. It is found if there, or at a face neighbor (so within 1 pixel), the fused image's
    gradient projected on the source's is at least half as large. As in Q^AB/F the sign of a
    gradient is ignored: where bone is bright in CT and dark in MR, one edge shows both, so a copy
    of the other source also has a recall above 0; compare with it.
    """
    strengths, shown = [], []
    for part in pair.slabs(halo=3):
        strength, rise = _edges(part, getattr(part, source))
        strengths.append(strength)
        shown.append(rise)
    strength, rise = (np.concatenate(parts) for parts in (strengths, shown))
    if strength.size == 0:
        raise UndefinedScore(f"the {source} image has no edge in the foreground")
    chosen = strength >= strong * np.percentile(strength, 99)
    # Exactly half, as in a mean with a flat image, must not depend on rounding.
    return float(np.mean(rise[chosen] >= (0.5 - 1e-4) * strength[chosen]))


def gradient(image: np.ndarray, pair: FusedPair) -> np.ndarray:
    """At the foreground voxels, shape (D, N), float64, in units of the image a voxel."""
    return _sobel(image, pair.steps)[:, pair.inside]


def agreement(source: np.ndarray, fused: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength and alignment, both 0 to 1, of gradients (D, N). Without a gradient both are 0."""
    first, second = _norm(source), _norm(fused)
    weaker, stronger = np.minimum(first, second), np.maximum(first, second)
    strength = np.divide(weaker, stronger, out=np.zeros_like(first), where=stronger > 0)
    product = first * second
    cosine = np.abs((source * fused).sum(0))
    cosine = np.divide(cosine, product, out=np.zeros_like(product), where=product > 0)
    return strength, 1 - np.arccos(np.minimum(cosine, 1)) / (np.pi / 2)


def artifact_sums(
    fused: np.ndarray, fixed: np.ndarray, moved: np.ndarray, *, least: float = 0.001
) -> tuple[float, float]:
    """Sums of weighted loss where the fused gradient is strongest, and of all weights (Kumar 2013).

    Gradients (D, N) in gray levels a voxel. least: weight of gradients below 2.
    """
    strongest = _norm(fused) > np.maximum(_norm(fixed), _norm(moved))
    invented = total = 0.0
    for source in (fixed, moved):
        strength, alignment = agreement(source, fused)
        preserved = np.sqrt(KUMAR_STRENGTH(strength) * KUMAR_ORIENTATION(alignment))
        norm = _norm(source)
        weight = np.where(norm >= 2, norm**1.5, least)
        invented += ((1 - preserved) * weight)[strongest].sum()
        total += weight.sum()
    return float(invented), float(total)


def _edges(pair: FusedPair, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of each edge voxel, and the maximum slope of the fused image along it nearby."""
    slope = _sobel(source, pair.steps)
    strength = _norm(slope)
    places = np.stack(np.nonzero(pair.inside & (strength > _NO_EDGE / _GRAY_LEVELS)))
    here = (slice(None), *places)
    steepest = strength[here[1:]]
    along = slope[here] / steepest
    ahead = along / np.array(pair.steps)[:, None]  # one finest voxel, in indices
    crest = np.ones(places.shape[1], dtype=bool)
    for sign in (-1, 1):
        beside = ndimage.map_coordinates(strength, places + sign * ahead, order=1, mode="nearest")
        crest &= steepest >= beside * (1 - 1e-6)
    places, along, steepest = places[:, crest], along[:, crest], steepest[crest]
    fused = _sobel(pair.fused, pair.steps)
    limits = np.array(source.shape)[:, None] - 1
    rise = np.zeros(len(steepest))
    for offset in _cross(source.ndim):
        near = np.clip(places + offset[:, None], 0, limits)
        rise = np.maximum(rise, np.abs((fused[(slice(None), *near)] * along).sum(0)))
    return steepest, rise


def _cross(dimension: int) -> np.ndarray:
    """Offsets to a voxel itself and to its face neighbors, shape (2 D + 1, D)."""
    return np.argwhere(ndimage.generate_binary_structure(dimension, 1)) - 1


def _sobel(image: np.ndarray, steps: tuple[float, ...]) -> np.ndarray:
    """Shape (D, *shape), float64."""
    image = image.astype(np.float64)
    slopes = []
    for axis, step in enumerate(steps):
        slope = ndimage.correlate1d(image, np.array([-0.5, 0, 0.5]) / step, axis, mode="nearest")
        for other in set(range(image.ndim)) - {axis}:
            slope = ndimage.correlate1d(slope, [0.25, 0.5, 0.25], other, mode="nearest")
        slopes.append(slope)
    return np.stack(slopes)


def _norm(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt((vectors**2).sum(0))
