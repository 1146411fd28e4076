"""The volumes of the interactive viewer, packed to travel inside the page."""

from __future__ import annotations

import base64
import gzip
import math
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import ndimage

from hybridreg.report.figures import PLANES, Views

NAMES = ("fixed", "before", "moved")
BUDGET = 3_300_000  # bytes before base64, for a page of 4 to 6.5 MB
_GRAYS = 64  # gray levels, if 256 do not fit
_SAMPLED = 8  # of so many planes one is compressed to estimate the size


def pack(views: Views) -> tuple[dict[str, Any], str]:
    """Settings for viewer.js and its data: gzip of the volumes' differences along x, base64.

    Volumes that would make the page too large lose gray levels, then resolution.
    """
    volumes = np.stack([views[name] for name in NAMES])
    grays, data = 256, _within_budget(volumes)
    if not data:
        grays, volumes = _GRAYS, volumes // (256 // _GRAYS)
        data = _within_budget(volumes)
    if not data:
        factor = (BUDGET / _estimated(volumes)) ** (1 / (volumes.ndim - 1))
        volumes = np.stack([_shrunk(views[name], factor) for name in NAMES]) // (256 // _GRAYS)
        data = _compress(volumes)
    size = volumes.shape[:0:-1]
    shown = np.array(views["fixed"].shape[::-1])
    corner = views["origin_mm"] - views["direction"] @ views["spacing_mm"] / 2
    settings = {
        "names": NAMES,
        "size": size,
        "spacing": (shown * views["spacing_mm"] / size).tolist(),
        "corner": corner.tolist(),
        "direction": views["direction"].tolist(),
        "letters": views["letters"].tolist(),
        "planes": [asdict(plane) for plane in PLANES[volumes.ndim - 1]],
        "grays": grays,
        "shown": shown.tolist(),
    }
    return settings, base64.b64encode(data).decode("ascii")


def _within_budget(volumes: np.ndarray) -> bytes:
    """Compressed; b"" if that is too large, most often without compressing all."""
    if _estimated(volumes) > 1.2 * BUDGET:
        return b""
    data = _compress(volumes)
    return data if len(data) <= BUDGET else b""


def _estimated(volumes: np.ndarray) -> float:
    """Bytes when compressed, from some planes."""
    some = volumes[:, ::_SAMPLED]
    return len(_compress(some)) * volumes.shape[1] / some.shape[1]


def _compress(volumes: np.ndarray) -> bytes:
    """Neighbors differ little, so their differences (modulo 256) pack better than they do."""
    flat = volumes.astype(np.uint8).ravel()
    return gzip.compress(np.diff(flat, prepend=np.uint8(0)).tobytes(), 6, mtime=0)


def _shrunk(volume: np.ndarray, factor: float) -> np.ndarray:
    """The volume on a coarser grid of the same extent; each voxel averages those it covers."""
    shape = [max(1, math.floor(n * factor)) for n in volume.shape]
    sigma = [0.35 * n / m for n, m in zip(volume.shape, shape, strict=True)]
    smooth = ndimage.gaussian_filter(volume, sigma, truncate=3)
    scale = [n / m for n, m in zip(volume.shape, shape, strict=True)]
    offset = [(s - 1) / 2 for s in scale]
    return ndimage.affine_transform(smooth, scale, offset, shape, order=1, mode="nearest")
