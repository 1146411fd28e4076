"""A fused image with its two sources, checked once before any fusion score."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from torch import Tensor

from hybridreg.images import Image, LabelMap

# Foreground is where a source exceeds this fraction of the data range. A fixed level, not one from
# a histogram, so that scores depend neither on the amount of air around the head nor on the fused
# image.
_BACKGROUND = 0.05
_TOLERANCE = 1e-3  # of the data range: errors of resampling and float32
_SLAB_VOXELS = 1 << 20
_FEWEST = 3  # voxels along an axis


class UndefinedScore(ValueError):
    """A score is undefined for these images; the text says why."""


@dataclass(frozen=True, eq=False)
class FusedPair:
    """A fused image, its two sources, and the mask in which they are compared.

    fused, fixed, moved: shape (y, x) or (z, y, x), float32, in [0, 1].
    inside: bool, the voxels that are scored.
    steps: voxel spacing along each array axis over the finest; differences are divided by it.
    """

    fused: np.ndarray
    fixed: np.ndarray
    moved: np.ndarray
    inside: np.ndarray
    steps: tuple[float, ...]

    def slabs(self, halo: int) -> Iterator[FusedPair]:
        """The pair in slabs along the first axis, so that memory does not grow with the volume.

        Each has ``halo`` more rows of its neighbors on both sides, which are not scored there.
        """
        rows = max(1, _SLAB_VOXELS // math.prod(self.inside.shape[1:]))
        for start in range(0, len(self.inside), rows):
            low, high = max(start - halo, 0), start + rows + halo
            inside = self.inside[low:high].copy()
            inside[: start - low] = False
            inside[start - low + rows :] = False
            if inside.any():
                cut = (image[low:high] for image in (self.fused, self.fixed, self.moved))
                yield FusedPair(*cut, inside, self.steps)

    def slices(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """(fused, fixed, moved) in float64 and inside, of each 2D slice with any voxel inside.

        Slices are perpendicular to the coarsest axis, the first if all are equal.
        """
        images = (self.fused, self.fixed, self.moved, self.inside)
        for *values, inside in zip(*(_as_slices(i, self.steps) for i in images), strict=True):
            if inside.any():
                yield *(value.astype(np.float64) for value in values), inside

    @property
    def slice_shape(self) -> tuple[int, ...]:
        return _as_slices(self.inside, self.steps).shape[1:]


def fused_pair(
    fused: Image | np.ndarray,
    fixed: Image | np.ndarray,
    moved: Image | np.ndarray,
    *,
    mask: LabelMap | np.ndarray | None = None,
    data_range: float = 1.0,
) -> FusedPair:
    """The three images, scaled to [0, 1], with their foreground.

    Gray images on one grid, as ``Image`` or as arrays (y, x) or (z, y, x), all within
    [0, data_range]; voxels of arrays are assumed isotropic. mask: scored where it is not 0. By
    default where either source exceeds 5 % of the data range, with holes filled slice by slice.

    ValueError for images that cannot be compared, UndefinedScore where both sources are empty.
    """
    given = {"fused": fused, "fixed": fixed, "moved": moved}
    _check_grids(given, mask)
    arrays = {name: _scaled(name, image, data_range) for name, image in given.items()}
    shape = arrays["fused"].shape
    _check_shapes(arrays)
    steps = _steps(given, len(shape))
    if mask is None:
        inside = _foreground(arrays["fixed"], arrays["moved"], steps)
    else:
        inside = _given_mask(mask, shape)
    return FusedPair(**arrays, inside=inside, steps=steps)


def _scaled(name: str, image: Image | np.ndarray, data_range: float) -> np.ndarray:
    """Values over the data range, float32, of an image fit to be scored."""
    values = _gray(name, image)
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be a positive number, found {data_range}")
    if values.dtype.kind in "iub" and data_range == 1.0:
        raise ValueError(
            f"the {name} image holds whole numbers ({values.dtype}): set data_range=255 for 8-bit "
            "images, or scale them to [0, 1]"
        )
    if values.ndim not in (2, 3) or min(values.shape) < _FEWEST:
        raise ValueError(
            f"the {name} image has shape {values.shape}; scores need a 2D or 3D image of at least "
            f"{_FEWEST} voxels along every axis (one slice: give it in 2D)"
        )
    values = values.astype(np.float32) / np.float32(data_range)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(
            f"{bad} of {values.size} values of the {name} image are not finite: fill them, for "
            "instance with 0, and leave them out by a mask"
        )
    low, high = float(values.min()), float(values.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(
            f"the {name} image reaches from {low * data_range:g} to {high * data_range:g}, outside "
            f"[0, {data_range:g}]: window CT and scale MR to [0, 1] first, clip the "
            "fused image, or "
            "state data_range"
        )
    return np.clip(values, 0, 1)


def _gray(name: str, image: Image | np.ndarray) -> np.ndarray:
    if isinstance(image, Image):
        if image.channels != 1:
            raise ValueError(
                f"the {name} image has {image.channels} channels, and scores are of gray images: "
                "give the luminance of a color image"
            )
        return image.data[0].numpy(force=True)
    values = image.numpy(force=True) if isinstance(image, Tensor) else np.asarray(image)
    if values.dtype.kind not in "iubf":
        raise ValueError(f"the {name} image holds {values.dtype}, not real numbers")
    if values.ndim in (3, 4) and values.shape[-1] in (3, 4):
        raise ValueError(
            f"the {name} image of shape {values.shape} seems to be a color picture, and scores are "
            "of gray images: give its luminance"
        )
    return values


def _check_grids(given: dict[str, Image | np.ndarray], mask: LabelMap | np.ndarray | None) -> None:
    placed = {name: image.grid for name, image in given.items() if isinstance(image, Image)}
    if isinstance(mask, LabelMap):
        placed["mask"] = mask.grid
    first = next(iter(placed), None)
    for name, grid in placed.items():
        if not grid.matches(placed[first]):
            raise ValueError(
                f"the {name} image (size {grid.size}, spacing {grid.spacing}) does not lie on the "
                f"grid of the {first} one (size {placed[first].size}, spacing "
                f"{placed[first].spacing}): register the images, or resample them onto one grid, "
                "before they are fused and scored"
            )


def _check_shapes(arrays: dict[str, np.ndarray]) -> None:
    shape = arrays["fused"].shape
    for name, array in arrays.items():
        if array.shape != shape:
            raise ValueError(
                f"the {name} image has shape {array.shape} and the fused one {shape}: register the "
                "images, or resample them onto one grid, before they are fused and scored"
            )


def _steps(given: dict[str, Image | np.ndarray], dimension: int) -> tuple[float, ...]:
    for image in given.values():
        if isinstance(image, Image):
            finest = min(image.grid.spacing)
            return tuple(spacing / finest for spacing in image.grid.spacing[::-1])  # array order
    return (1.0,) * dimension


def _given_mask(mask: LabelMap | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = mask.data if isinstance(mask, LabelMap) else mask
    values = values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)
    if values.shape != shape:
        raise ValueError(
            f"the mask has shape {values.shape} and the images {shape}: resample the mask onto them"
        )
    if not (values != 0).any():
        raise ValueError("the mask is empty: give one with voxels inside, or none")
    return values != 0


def _foreground(fixed: np.ndarray, moved: np.ndarray, steps: tuple[float, ...]) -> np.ndarray:
    shown = (fixed > _BACKGROUND) | (moved > _BACKGROUND)
    if not shown.any():
        raise UndefinedScore(
            f"neither source exceeds {_BACKGROUND:.0%} of the data range: there is only background"
        )
    for one in _as_slices(shown, steps):
        one[...] = ndimage.binary_fill_holes(one)
    return shown


def _as_slices(values: np.ndarray, steps: tuple[float, ...]) -> np.ndarray:
    """A view of shape (slices, rows, columns)."""
    return values[None] if values.ndim == 2 else np.moveaxis(values, int(np.argmax(steps)), 0)
