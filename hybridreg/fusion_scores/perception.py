"""Scores made from models of human vision: visual information fidelity and preserved contrast.

Both are 2D: of volumes the sums, or means, over the foreground of all slices.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

from hybridreg.fusion_scores.fused_pairs import FusedPair, UndefinedScore

_GRAY_LEVELS = 255  # the noise of the visual system is given for 8-bit images
_NOISE_VARIANCE = 2.0
_SCALES = (17, 9, 5, 3)  # Gaussian windows, sigma a fifth of their width
_FEWEST = 41  # pixels along an axis for one window at the last scale
_EPSILON = 1e-10
_NO_INFORMATION = 1e-6  # above float64 rounding, below one gray level at one pixel

# Contrast sensitivity exp(-(r / f0)^2) - a exp(-(r / f1)^2), r in cycles a degree.
_F0, _F1, _A = 15.3870, 1.3456, 0.7622
# Cycles a degree: 256 pixels span 15 degrees, as in the public code for images of 256x256.
_NYQUIST = 256 / 30
_MARGIN = 32  # pixels repeated around the image, beyond all filters
_SATURATION = 1e-4  # Z


def visual_information_fidelity(pair: FusedPair) -> float:
    """VIF: VIFp of the fused image for the fixed one plus that for the moved one; 0 upward (2 for
    F = fixed = moved, more after contrast enhancement), higher is better.

    Sheikh and Bovik 2006, pixel domain, four scales, noise variance 2 on a scale of 0 to 255; sums
    over windows centered on foreground pixels. Most tables call this VIF or VIFF; Han's VIFF
    of 2013 is another measure.
    """
    if min(pair.slice_shape) < _FEWEST:
        raise UndefinedScore(f"four scales need slices of {_FEWEST} x {_FEWEST} pixels or more")
    sums = np.zeros((2, 2))
    for fused, fixed, moved, inside in pair.slices():
        for row, source in enumerate((fixed, moved)):
            sums[row] += fidelity_sums(source * _GRAY_LEVELS, fused * _GRAY_LEVELS, inside)
    for name, held in zip(("fixed", "moved"), sums[:, 1], strict=True):
        if held < _NO_INFORMATION:
            raise UndefinedScore(f"the {name} image is constant in the foreground: no information")
    return float((sums[:, 0] / sums[:, 1]).sum())


def preserved_contrast(pair: FusedPair) -> float:
    """Q_CB: fraction of the sources' visible contrast kept, by saliency, 0 to 1; higher is better
    (Chen and Blum 2009).

    Images pass the contrast sensitivity function; contrast is C = (G2 * I) / (G4 * I) - 1
    with Gaussians of sigma 2 and 4 pixels, masked to |C|^3 / (C^2 + 0.0001). The fraction kept of a
    source is the smaller over the larger contrast, 1 where both have none; sources are weighted by
    squared contrast.

    Viewing distance is 17 pixels a degree at any image size, images are not rescaled, and the
    denominator is at least one gray level. Public code has 15 degrees per image, rescales each
    image separately and divides 0 by 0 where the background is flat.
    """
    total = 0.0
    for fused, fixed, moved, inside in pair.slices():
        contrasts = (_contrast(image) for image in (fused, fixed, moved))
        total += contrast_map(*contrasts)[inside].sum()
    return float(total / pair.inside.sum())


def fidelity_sums(
    source: np.ndarray, fused: np.ndarray, inside: np.ndarray | None = None
) -> tuple[float, float]:
    """Visual information of the source contained in the fused image, and in the source itself.

    Images of 0 to 255. Their ratio is VIFp (Sheikh and Bovik 2006).
    """
    inside = np.ones(source.shape, dtype=bool) if inside is None else inside
    seen = held = 0.0
    for scale, width in enumerate(_SCALES):
        if scale:
            source, fused = (_blurred(image, width)[::2, ::2] for image in (source, fused))
            inside = _cropped(inside, width)[::2, ::2]
        gain, rest, variance = _channel(source, fused, width)
        within = _cropped(inside, width)
        log_seen = np.log10(1 + gain**2 * variance / (rest + _NOISE_VARIANCE))
        seen += log_seen[within].sum()
        held += np.log10(1 + variance / _NOISE_VARIANCE)[within].sum()
    return float(seen), float(held)


def contrast_map(fused: np.ndarray, fixed: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Fraction of contrast kept at each pixel, from masked contrasts (Chen and Blum 2009)."""
    kept = []
    for source in (fixed, moved):
        larger = np.maximum(source, fused)
        one = np.ones_like(larger)
        kept.append(np.divide(np.minimum(source, fused), larger, out=one, where=larger > 0))
    salient = fixed**2 + moved**2
    weight = np.full_like(salient, 0.5)
    np.divide(fixed**2, salient, out=weight, where=salient > 0)
    return weight * kept[0] + (1 - weight) * kept[1]


def masked_contrast(contrast: np.ndarray) -> np.ndarray:
    """|C|^3 / (C^2 + Z): perceived contrast, with small values suppressed."""
    size = np.abs(contrast)
    return size**3 / (size**2 + _SATURATION)


def sensitivity(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The contrast sensitivity at frequencies in cycles a degree."""
    squared = rows[:, None] ** 2 + columns**2
    return np.exp(-squared / _F0**2) - _A * np.exp(-squared / _F1**2)


def _contrast(image: np.ndarray) -> np.ndarray:
    """Masked local contrast; borders repeat."""
    shape = tuple(fft.next_fast_len(size + 2 * _MARGIN, real=True) for size in image.shape)
    margins = [(_MARGIN, n - size - _MARGIN) for n, size in zip(shape, image.shape, strict=True)]
    spectrum = fft.rfft2(np.pad(image, margins, mode="edge"))
    here = tuple(slice(_MARGIN, _MARGIN + size) for size in image.shape)
    fine, coarse = (fft.irfft2(spectrum * passed, shape)[here] for passed in _filters(shape))
    floor = (1 - _A) / _GRAY_LEVELS  # one gray level, as a flat image passes the filter
    contrast = fine / np.maximum(coarse, floor) - 1
    contrast[(coarse < floor) & (fine < floor)] = 0  # air, instead of a contrast of -1
    return masked_contrast(contrast)


@lru_cache(maxsize=4)
def _filters(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Contrast sensitivity and a Gaussian of 2 and of 4 pixels, for a real FFT."""
    rows, columns = fft.fftfreq(shape[0]), fft.rfftfreq(shape[1])  # cycles a pixel
    eye = sensitivity(2 * _NYQUIST * rows, 2 * _NYQUIST * columns)
    squared = rows[:, None] ** 2 + columns**2
    return tuple(eye * np.exp(-2 * (np.pi * sigma) ** 2 * squared) for sigma in (2, 4))


def _channel(source: np.ndarray, fused: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """Of the model fused = gain * source + rest: gain, variance of rest, variance of the source."""
    mean, mean_fused = _blurred(source, width), _blurred(fused, width)
    variance = np.maximum(_blurred(source**2, width) - mean**2, 0)
    variance_fused = np.maximum(_blurred(fused**2, width) - mean_fused**2, 0)
    covariance = _blurred(source * fused, width) - mean * mean_fused
    gain = covariance / (variance + _EPSILON)
    rest = variance_fused - gain * covariance
    flat, flat_fused = variance < _EPSILON, variance_fused < _EPSILON
    gain[flat | flat_fused] = 0
    rest[flat] = variance_fused[flat]
    rest[flat_fused] = 0
    variance[flat] = 0
    rest[gain < 0] = variance_fused[gain < 0]
    return np.maximum(gain, 0), np.maximum(rest, _EPSILON), variance


def _blurred(image: np.ndarray, width: int) -> np.ndarray:
    """The image filtered by a Gaussian of ``width`` pixels, where it lies within the image."""
    place = np.arange(width) - width // 2
    kernel = np.exp(-(place**2) / (2 * (width / 5) ** 2))
    kernel /= kernel.sum()
    for axis in range(2):
        image = ndimage.correlate1d(image, kernel, axis)
    return _cropped(image, width)


def _cropped(image: np.ndarray, width: int) -> np.ndarray:
    edge = width // 2
    return image[edge:-edge, edge:-edge]
