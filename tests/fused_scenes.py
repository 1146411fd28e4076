"""Images that fusion scores are tried on, and one score of them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hybridreg.fusion_scores import SCORES, fused_pair

SWAPPED = {"edge_recall_fixed": "edge_recall_moved", "edge_recall_moved": "edge_recall_fixed"}


def head(seed: int = 0, size: int = 72) -> tuple[np.ndarray, np.ndarray]:
    """A CT-like ring of bone and an MR-like textured brain,
    with air around and gray levels of 1/255.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y / 0.9, x / 0.75) / size
    bone = 0.9 * ((radius > 0.3) & (radius < 0.36)) + 0.3 * (radius <= 0.3)
    texture = ndimage.gaussian_filter(rng.normal(size=(size, size)), 2)
    brain = (0.5 + 2.5 * texture) * (radius < 0.29) + 0.7 * ((radius > 0.36) & (radius < 0.4))
    smooth = [np.clip(ndimage.gaussian_filter(image, 0.7), 0, 1) for image in (bone, brain)]
    return tuple(np.rint(image * 255) / 255 for image in smooth)


def noise(seed: int, shape=(64, 64), *, sigma: float = 1.5) -> np.ndarray:
    """Smooth noise that fills [0, 1], without any background."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return 0.1 + 0.9 * (values - values.min()) / np.ptp(values)


def whole(image: np.ndarray) -> np.ndarray:
    return np.ones(image.shape, dtype=bool)


def stacked(image: np.ndarray, count: int = 5) -> np.ndarray:
    return np.repeat(image[None], count, axis=0)


def value(name: str, fused, fixed, moved, **options) -> float:
    return SCORES[name].function(fused_pair(fused, fixed, moved, **options))
