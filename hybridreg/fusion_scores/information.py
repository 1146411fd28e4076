"""Scores of information: entropy, mutual information, and mutual information of small windows.

Histograms have 256 bins over the data range, bin i holding values that round to i / 255, of all
foreground voxels of an image or volume together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hybridreg.fusion_scores.fused_pairs import FusedPair, UndefinedScore

_LEVELS = 256
_WINDOWS_AT_ONCE = 512  # 0.2 MB a working array: several of them within the cache
_SAME = 1e-6  # of probabilities in float32


def entropy(pair: FusedPair) -> float:
    """EN: -sum p log2 p of the fused image, 0 to 8 bits.

    It uses no source: noise raises it, so it cannot distinguish a good fusion from a noisy one.
    """
    return bits(np.bincount(_levels(pair.fused, pair.inside)))


def mutual_information(pair: FusedPair) -> float:
    """MI: I(fused; fixed) + I(fused; moved), 0 to 16 bits; higher is better (Qu 2002).

    A copy of one source scores higher than most fusions.
    """
    return sum(shared for shared, _ in _information(pair))


def normalized_mutual_information(pair: FusedPair) -> float:
    """NMI: 2 [I(F; fixed) / (H(F) + H(fixed)) + I(F; moved) / (H(F) + H(moved))], 0 to 2; higher is
    better (Hossny 2008). Both terms have equal weight, whatever the entropies of the sources."""
    pairs = list(_information(pair))
    for name, (_, entropies) in zip(("fixed", "moved"), pairs, strict=True):
        if entropies == 0:
            raise UndefinedScore(
                f"the fused and the {name} image are both constant: no information"
            )
    return 2 * sum(shared / entropies for shared, entropies in pairs)


def pixel_feature_information(pair: FusedPair) -> float:
    """FMI_pixel: ``feature_information`` of the gray values themselves."""
    return feature_information(pair, lambda image: image)


def gradient_feature_information(pair: FusedPair) -> float:
    """FMI_gradient: ``feature_information`` of the magnitude of the in-plane gradient.

    Central differences. (The public code takes the derivative along rows alone.)
    """
    return feature_information(pair, lambda image: np.hypot(*np.gradient(image)))


def feature_information(pair: FusedPair, feature) -> float:
    """FMI: mean over 3x3 windows and both sources of 2 I / (H + H), 0 to 1; higher is better.

    Haghighat 2011, in the fast form of Haghighat and Razian 2014; of volumes over the windows of
    all slices. feature: image -> image of the same shape. A mixing weight above 1, which would make
    probabilities negative, is 1 here; identical windows, flat ones too, score 1.
    """
    total, count = 0.0, 0
    for fused, fixed, moved, inside in pair.slices():
        centers = inside[1:-1, 1:-1]
        images = (feature(image) for image in (fused, fixed, moved))
        ours, *theirs = (window_masses(window_values(image, centers)) for image in images)
        count += 2 * ours.shape[1]
        for masses in theirs:
            other = (np.abs(ours - masses) >= _SAME).any(0)
            total += other.size - np.count_nonzero(other)
            first, second = ours[:, other], masses[:, other]
            for part in window_parts(first.shape[1]):
                shared = window_information(first[:, part], second[:, part])
                total += np.clip(shared, 0, 1).sum(dtype=np.float64)
    if count == 0:
        raise UndefinedScore("no foreground voxel has a 3x3 window within the image")
    return float(total / count)


def window_information(masses: np.ndarray, others: np.ndarray, *, limit: float = 1.0) -> np.ndarray:
    """2 I / (H + H) of each two windows, whose values are read as probabilities p and q of 9
    places.

    masses, others: shape (9, N). Their joint probability mixes independence with the coupling of
    the most concordant order (of the most discordant, where p and q correlate negatively), min(P,
    Q) of the cumulated P and Q, with the weight that gives it the correlation of p and q (Nelsen
    1987).

    limit: largest weight of the coupling.
    """
    correlation = _column_correlation(masses, others)
    others = np.where(correlation < 0, others[::-1], others)  # reversed: discordant to concordant
    joint = _coupling(masses, others)  # (9, 9, N)
    reachable = _covariance(joint, masses, others)
    wanted = np.abs(correlation) * _spread(masses) * _spread(others)
    weight = np.divide(wanted, reachable, out=np.zeros_like(wanted), where=reachable > _SAME)
    weight = np.minimum(weight, limit)
    joint *= weight
    joint += ((1 - weight) * masses)[:, None] * others
    entropies = _column_bits(masses) + _column_bits(others)
    shared = entropies - _column_bits(joint.reshape(-1, len(correlation)))
    return np.divide(2 * shared, entropies, out=np.zeros_like(shared), where=entropies > _SAME)


def window_values(feature: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The 3x3 windows, column by column as published (the order matters), shape (9, N).

    centers: bool, 2 smaller than the feature along both axes.
    """
    windows = sliding_window_view(feature, (3, 3))[centers]  # (N, rows, columns)
    return windows.transpose(2, 1, 0).reshape(9, -1)


def window_masses(values: np.ndarray) -> np.ndarray:
    """Windows (9, N) from their minimum to their maximum, with sum 1; a flat one is uniform."""
    low = values.min(0)
    span = values.max(0) - low
    # Differences due to float32 rounding are not structure.
    scaled = np.divide(values - low, span, out=np.ones_like(values), where=span > _SAME)
    return (scaled / scaled.sum(0)).astype(np.float32)


def window_parts(count: int) -> Iterator[slice]:
    """Slices over so many windows, each small enough for the cache."""
    for start in range(0, count, _WINDOWS_AT_ONCE):
        yield slice(start, start + _WINDOWS_AT_ONCE)


def bits(counts: np.ndarray) -> float:
    """Entropy of a histogram."""
    fraction = counts[counts > 0] / counts.sum()
    return float(-(fraction * np.log2(fraction)).sum()) + 0.0  # no negative zero


def shared_bits(levels: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Mutual information and the sum of both entropies, of two lists of gray levels 0 to 255."""
    joint = np.bincount(levels * _LEVELS + others, minlength=_LEVELS**2)
    table = joint.reshape(_LEVELS, _LEVELS)
    entropies = bits(table.sum(0)) + bits(table.sum(1))
    return max(entropies - bits(joint), 0.0), entropies


def _information(pair: FusedPair) -> Iterator[tuple[float, float]]:
    fused = _levels(pair.fused, pair.inside)
    for source in (pair.fixed, pair.moved):
        yield shared_bits(fused, _levels(source, pair.inside))


def _levels(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return np.rint(image[inside] * (_LEVELS - 1)).astype(np.int32)


def _column_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first - first.mean(0), second - second.mean(0)
    norm = np.sqrt((first**2).sum(0) * (second**2).sum(0))
    product = (first * second).sum(0)
    return np.divide(product, norm, out=np.zeros_like(norm), where=norm > _SAME**2)


def _coupling(masses: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The most concordant joint distribution, (9, 9, N), whose cumulated one is min(P, Q)."""
    P, Q = np.cumsum(masses, axis=0), np.cumsum(others, axis=0)
    P[-1] = Q[-1] = 1
    # The overlap of the steps of P and Q that end in (P, Q), within 0 to 1.
    joint = np.minimum(P[:, None], Q)
    joint -= np.maximum((P - masses)[:, None], Q - others)
    return np.maximum(joint, 0, out=joint)


def _covariance(joint: np.ndarray, masses: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Covariance of the two places, 1 to 9, under a joint distribution."""
    place = np.arange(1, len(masses) + 1, dtype=masses.dtype)
    product = place @ np.tensordot(place, joint, axes=1)
    return product - (place @ masses) * (place @ others)


def _spread(masses: np.ndarray) -> np.ndarray:
    """Standard deviation of the place, 1 to 9, under each distribution."""
    place = np.arange(1, len(masses) + 1, dtype=masses.dtype)
    return np.sqrt(np.maximum(place**2 @ masses - (place @ masses) ** 2, 0))


def _column_bits(masses: np.ndarray) -> np.ndarray:
    """Entropy of each column; a negative mass counts as -|p| log2 |p|, as published."""
    # The natural logarithm is vectorized in numpy where the binary one is not.
    logarithm = np.log(np.abs(masses) + np.finfo(masses.dtype).tiny)
    return (masses * logarithm).sum(0) / -np.log(masses.dtype.type(2))
