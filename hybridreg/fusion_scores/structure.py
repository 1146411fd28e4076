"""Scores of similarity: correlation, and structural similarity in small windows.

Windowed scores are 2D: of a volume the map of every slice, averaged over all foreground voxels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity as similarity_map

from hybridreg.fusion_scores.fused_pairs import FusedPair, UndefinedScore

_FLAT = 1e-6  # standard deviation over the data range: float32 rounding only
_WANG_WINDOW = 11
_YANG_WINDOW = 7
# Only affects flat windows (published: 2e-16 for 8-bit images, where rounding decides).
_YANG_CONSTANT = 1e-9
_YANG_ALIKE = 0.75


def correlation(pair: FusedPair) -> float:
    """CC: mean of Pearson's r of the fused image with either source, -1 to 1; higher is better.

    Plain averaging scores highest.
    """
    fused, fixed, moved = _foreground_values(pair)
    against = {"fixed": fixed, "moved": moved}
    return sum(pearson(fused, image, "fused", name) for name, image in against.items()) / 2


def sum_of_correlations_of_differences(pair: FusedPair) -> float:
    """SCD: r(fused - moved, fixed) + r(fused - fixed, moved), -2 to 2; higher is better
    (Aslantas and Bendes 2015).

    Undefined for a copy of one source. (With 8-bit numbers, negative differences saturate and plain
    averaging appears best.)
    """
    fused, fixed, moved = _foreground_values(pair)
    less_moved = pearson(fused - moved, fixed, "difference of the fused and the moved", "fixed")
    less_fixed = pearson(fused - fixed, moved, "difference of the fused and the fixed", "moved")
    return less_moved + less_fixed


def structural_similarity(pair: FusedPair) -> float:
    """SSIM: mean of that of the fused image with either source, -1 to 1; higher is better.

    Wang 2004, eq. 13: Gaussian window of 11x11, sigma 1.5, K1 = 0.01, K2 = 0.03, and L the data
    range, always; borders reflect.
    """
    _check_window(pair, _WANG_WINDOW)
    total = 0.0
    for fused, fixed, moved, inside in pair.slices():
        for source in (fixed, moved):
            _, likeness = similarity_map(
                fused,
                source,
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                full=True,
            )
            total += likeness[inside].sum() / 2
    return float(total / pair.inside.sum())


def yang_similarity(pair: FusedPair) -> float:
    """Q_Y: where the sources agree (their SSIM >= 0.75) the mean of the fused image's SSIM with
    both, weighted by their variances, elsewhere the larger of the two; -1 to 1, higher is better
    (Yang 2008).

    Gaussian window of 7x7, sigma 1.5; the SSIM of two flat windows compares their means alone, and
    their weights are 1/2. A copy of one source scores close to 1.
    """
    _check_window(pair, _YANG_WINDOW)
    total = 0.0
    for fused, fixed, moved, inside in pair.slices():
        moments = [window_moments(image, _yang_mean) for image in (fused, fixed, moved)]
        total += _yang_map(*moments)[inside].sum()
    return float(total / pair.inside.sum())


def window_moments(image: np.ndarray, mean: Callable[[np.ndarray], np.ndarray]) -> tuple:
    """(image, local mean, local variance, the averaging function), for ``local_similarity``."""
    center = mean(image)
    return image, center, np.maximum(mean(image**2) - center**2, 0), mean


def local_similarity(first: tuple, second: tuple, constant: float) -> np.ndarray:
    """SSIM of two ``window_moments`` with one small constant for both of its factors."""
    (a, mean_a, variance_a, mean), (b, mean_b, variance_b, _) = first, second
    covariance = mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + constant) / (mean_a**2 + mean_b**2 + constant)
    return luminance * (2 * covariance + constant) / (variance_a + variance_b + constant)


def pearson(first: np.ndarray, second: np.ndarray, name: str, other: str) -> float:
    """Correlation of two lists of values; UndefinedScore, by name, where one is constant."""
    first, second = first - first.mean(), second - second.mean()
    for values, called in ((first, name), (second, other)):
        if values.std() < _FLAT:
            raise UndefinedScore(f"the {called} image is constant: it correlates with nothing")
    return float((first @ second) / np.sqrt((first @ first) * (second @ second)))


def _yang_map(fused: tuple, fixed: tuple, moved: tuple) -> np.ndarray:
    to_fixed = local_similarity(fused, fixed, _YANG_CONSTANT)
    to_moved = local_similarity(fused, moved, _YANG_CONSTANT)
    alike = local_similarity(fixed, moved, _YANG_CONSTANT) >= _YANG_ALIKE
    variance = fixed[2] + moved[2]
    weight = np.full_like(variance, 0.5)
    np.divide(fixed[2], variance, out=weight, where=variance > _YANG_CONSTANT)
    weighted = weight * to_fixed + (1 - weight) * to_moved
    return np.where(alike, weighted, np.maximum(to_fixed, to_moved))


def _yang_mean(image: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(image, 1.5, radius=_YANG_WINDOW // 2)


def _foreground_values(pair: FusedPair) -> list[np.ndarray]:
    images = (pair.fused, pair.fixed, pair.moved)
    return [image[pair.inside].astype(np.float64) for image in images]


def _check_window(pair: FusedPair, size: int) -> None:
    if min(pair.slice_shape) < size:
        shape = " x ".join(map(str, pair.slice_shape))
        raise UndefinedScore(f"the slices of {shape} pixels are smaller than its window of {size}")
