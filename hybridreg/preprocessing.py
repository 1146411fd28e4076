"""Foreground of an image, removal of outliers, and resampling to coarser grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.images import Image, LabelMap
from hybridreg.kernels.smoothing import antialiasing, smoothed
from hybridreg.transforms import IDENTITY
from hybridreg.warping import lowest, warp

_WORKING_MM = 2.0
# Air is -1000 HU and fat -100: the threshold lies between, and only CT has such low values.
_CT_BODY_HU = -400.0
_CT_AIR_HU = -3072.0, -500.0  # air and what fills unscanned places; no other modality goes so low
_CT_AIR_FRACTION = 1e-3  # of the voxels; a few stray low values make no CT
_VALUES = 1_000_000  # sampled for percentiles

# Ranges beyond the percentiles; real images stay within 3.7 (examples/benchmarks/verdicts.md).
_FAR = 5.0
_ORDINARY: WeakKeyDictionary[Image, tuple[int, Image | None]] = WeakKeyDictionary()
_FEW_LEVELS = 16  # fewer are labels, which may be any numbers


def foreground(image: Image, *, margin_mm: float = 0.0) -> LabelMap:
    """The patient in an image: 1 inside and 0 in the air around, on the grid of the image.

    The largest connected component above the background, without holes, dilated by the
    margin. The threshold is -400 HU for CT and half of Otsu's threshold otherwise, which keeps the
    dark rim of a head. Computed at 2 mm, from the mean of all channels. For skull-stripped brains,
    whole heads, bodies on a couch and 2D slices. ValueError if there is no foreground.
    """
    image = without_outliers(image)
    grid = image.grid.with_spacing([max(_WORKING_MM, s) for s in image.grid.spacing])
    data = warp(image, IDENTITY, onto=grid).data.mean(0).numpy()
    found = _largest(ndimage.binary_opening(data > _threshold(data)))
    if not found.any():
        raise ValueError("no foreground stands out in the image: give a mask instead of 'auto'")
    inside = _without_holes(found)
    if margin_mm:
        distance = ndimage.distance_transform_edt(~inside, sampling=grid.spacing[::-1])
        inside = distance <= margin_mm
    mask = LabelMap(torch.from_numpy(inside.astype(np.int32)), grid)
    return warp(mask, IDENTITY, onto=image.grid)


def clipped(image: Image, low_percent: float, high_percent: float) -> Image:
    """The image with its values clipped at two percentiles, each channel separately.

    A channel whose two percentiles are equal is not changed: it would become constant.
    """
    limits = []
    for channel in image.data:
        some = channel.flatten()[:: max(1, channel.numel() // _VALUES)].numpy(force=True)
        low, high = np.percentile(some, [low_percent, high_percent])
        limits.append((low, high) if low < high else (-np.inf, np.inf))
    low, high = torch.tensor(limits, dtype=torch.float32).T
    across = (-1, *[1] * image.grid.dimension)
    return replace(image, data=image.data.clamp(low.reshape(across), high.reshape(across)))


def without_outliers(image: Image) -> Image:
    """The image with its outliers clipped to the nearest other value, each channel separately.

    Outliers are values further beyond the 1st or 99th percentile than five times the range between
    the two and zero, such as a hot voxel or a padding of -32768. Percentiles are taken without the
    lowest value, which is usually background; values above -3072 are never too low, since CT uses
    them as padding. An image without outliers is returned unchanged. What was found for an image is
    kept as long as the image.
    """
    if image.data.is_inference():  # without a version to tell changes by
        return _clamped(image) or image
    version, found = _ORDINARY.get(image, (None, None))
    if version != image.data._version:  # new, or changed in place
        version, found = image.data._version, _clamped(image)
        _ORDINARY[image] = version, found
    return image if found is None else found


def _clamped(image: Image) -> Image | None:
    """The image within its limits; None if it has no outliers."""
    limits = [_ordinary(channel) for channel in image.data]
    ends = [tuple(end.item() for end in channel.aminmax()) for channel in image.data]
    if limits == ends:
        return None
    low, high = torch.tensor(limits).T
    across = (-1, *[1] * image.grid.dimension)
    return replace(image, data=image.data.clamp(low.reshape(across), high.reshape(across)))


def pair_without_outliers(pair: ImagePair) -> ImagePair:
    """The pair of both images ``without_outliers``."""
    fixed, moving = without_outliers(pair.fixed), without_outliers(pair.moving)
    return replace(pair, fixed=fixed, moving=moving)


def outliers(image: Image) -> str:
    """A description of what ``without_outliers`` would change; empty if nothing."""
    for channel in image.data:
        low, high = _ordinary(channel)
        out = channel[(channel < low) | (channel > high)]
        if len(out):
            worst = out[out.abs().argmax()].item()
            voxels = f"{len(out)} voxels of up to" if len(out) > 1 else "one voxel of"
            return f"{voxels} {worst:g}, while all others lie between {low:g} and {high:g}"
    return ""


def looks_like_ct(values: Tensor) -> bool:
    """True for intensities in HU: some are as low as air, unlike in any other modality."""
    low, high = _CT_AIR_HU
    return ((values >= low) & (values < high)).double().mean().item() > _CT_AIR_FRACTION


def half_of_otsu(values: np.ndarray) -> float:
    """Half of Otsu's threshold above the darkest: the rim of a head is dark and no background."""
    low, high = np.percentile(values, [1, 99])
    return float(low + 0.5 * (threshold_otsu(np.clip(values, low, high).ravel()) - low))


def coarser(image: Image, spacing_mm: float) -> Image:
    """The image at a spacing of at least ``spacing_mm`` along every axis, with antialiasing."""
    grid = image.grid.with_spacing([max(spacing_mm, s) for s in image.grid.spacing])
    if grid.spacing == image.grid.spacing:
        return image
    smooth = smoothed_for(image, spacing_mm)
    return warp(smooth, IDENTITY, onto=grid, default=lowest(image))


def smoothed_for(image: Image, spacing_mm: float) -> Image:
    """The image smoothed for a spacing of ``spacing_mm``, on its own grid."""
    factors = [max(spacing_mm / s, 1.0) for s in image.grid.spacing]
    return image if max(factors) == 1.0 else replace(image, data=antialiased(image.data, factors))


def antialiased(values: Tensor, factors: Sequence[float]) -> Tensor:
    """Values (C, *shape) smoothed for voxels larger by factors along (x, y, z), as by scipy."""
    sigma = antialiasing(factors)
    if not any(sigma):
        return values
    return smoothed(values, sigma, radius=tuple(int(4 * s + 0.5) for s in sigma))


def _ordinary(channel: Tensor) -> tuple[float, float]:
    """The lowest and the highest value that is not an outlier; see ``without_outliers``."""
    ends = tuple(end.item() for end in channel.aminmax())
    some = channel.flatten()[:: max(1, channel.numel() // _VALUES)].numpy(force=True)
    shown = some[some > max(ends[0], _CT_AIR_HU[0])]
    if not len(shown):
        return ends
    low, high = np.percentile(shown, [1, 99])
    low, high = min(low, 0.0), max(high, 0.0)  # zero is the background of stripped images
    far = _FAR * (high - low)
    low, high = min(low - far, _CT_AIR_HU[0]), high + far
    if low <= ends[0] and ends[1] <= high:
        return ends
    within = channel[(channel >= low) & (channel <= high)]
    levels = len(np.unique(shown[(shown >= low) & (shown <= high)]))
    if levels < _FEW_LEVELS and len(torch.unique(within)) < _FEW_LEVELS:
        return ends
    return tuple(end.item() for end in within.aminmax())


def _threshold(data: np.ndarray) -> float:
    if looks_like_ct(torch.from_numpy(data)):
        return _CT_BODY_HU
    return half_of_otsu(data)


def _largest(mask: np.ndarray) -> np.ndarray:
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (pieces == sizes.argmax()) & mask


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """Filled in every slice along every axis: airways open to the border of a 3D image."""
    if mask.ndim == 2:
        return ndimage.binary_fill_holes(mask)
    filled = mask.copy()
    for axis in range(mask.ndim):
        slices = np.moveaxis(mask, axis, 0)
        filled |= np.moveaxis(np.stack([ndimage.binary_fill_holes(s) for s in slices]), 0, axis)
    return filled
