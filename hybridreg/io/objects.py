"""Images, points and transforms from files, hybridreg values and other libraries.

Images of SimpleITK and nibabel include their geometry. A bare array has none and is
refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nibabel.spatialimages import SpatialImage

from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet, kind_of
from hybridreg.io.images import from_sitk, read_image, read_labels, read_mask
from hybridreg.io.itk_files import from_itk
from hybridreg.io.landmarks import read_landmarks
from hybridreg.io.nifti import check_number_type, nibabel_contents
from hybridreg.io.transforms import read_transform
from hybridreg.transforms import Transform

log = logging.getLogger(__name__)


def as_image(value: Any, *, frame: int | None = None, name: str = "an image") -> Image:
    """An Image from an Image, a file, or a SimpleITK or nibabel image, in LPS mm.

    nibabel's RAS becomes LPS, and its header is read like that of a file. frame: of a
    file with several. name: of the value, for errors.
    ValueError for anything else, also arrays, which have no geometry.
    """
    if isinstance(value, (str, os.PathLike)):
        return read_image(value, frame=frame)
    if frame is not None:
        raise ValueError(f"frame {frame} requested of {name}, which is no file and has only one")
    if isinstance(value, Image):
        return value
    with _named(name):
        return image_of(*_values(value))


def image_of(values: np.ndarray, grid: Grid) -> Image:
    """An image of values of any number type, shape (C, *grid.shape)."""
    whole = values.dtype.kind in "iu" and values.dtype.itemsize <= 4
    dtype = values.dtype.name if whole else "float32"
    with np.errstate(over="ignore"):  # overflow is refused later as infinite
        return Image(torch.from_numpy(np.array(values, dtype=np.float32, order="C")), grid, dtype)


def as_labels(value: Any, *, name: str = "a label map") -> LabelMap:
    """The same for a label map: whole numbers, one channel."""
    if isinstance(value, (str, os.PathLike)):
        return read_labels(value)
    if isinstance(value, LabelMap):
        return value
    with _named(name):
        if isinstance(value, Image):
            return labels_of(value.data.numpy(force=True), value.grid)
        return labels_of(*_values(value))


def as_mask(value: Any, *, name: str = "a mask") -> LabelMap:
    """The same for a mask: 0 is outside, any other whole number inside."""
    if isinstance(value, (str, os.PathLike)):
        return read_mask(value)
    return as_labels(value, name=name)


def labels_of(values: np.ndarray, grid: Grid) -> LabelMap:
    """A label map of whole numbers of any type, shape (1, *grid.shape)."""
    if len(values) != 1:
        raise ValueError(f"it has {len(values)} channels; a label map has one")
    whole = np.isfinite(values).all() and np.array_equal(values, np.rint(values))
    limits = np.iinfo(np.int32)
    if not whole or values.min() < limits.min or values.max() > limits.max:
        raise ValueError("labels must be whole numbers of 32 bits; found others: is this an image?")
    return LabelMap(torch.from_numpy(np.array(values[0], dtype=np.int32, order="C")), grid)


def as_landmarks(value: Any, *, grid: Grid | None = None, name: str = "points") -> LandmarkSet:
    """A LandmarkSet from a LandmarkSet, a file, or an array or list of shape (N, D) in LPS mm.

    grid: of the image, for files of voxel indices.
    """
    if isinstance(value, (str, os.PathLike)):
        return read_landmarks(value, grid=grid)
    if isinstance(value, LandmarkSet):
        return value
    with _named(name):
        try:
            points = value if isinstance(value, torch.Tensor) else np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                "points are a file, a hybridreg.LandmarkSet or an array of shape (N, D) in LPS mm; "
                f"found {kind_of(value)}"
            ) from None
        return LandmarkSet(torch.as_tensor(points))


def as_transform(value: Any, *, name: str = "a transform") -> Transform:
    """A transform from a transform, a file, or a SimpleITK transform, of the same direction."""
    if isinstance(value, (str, os.PathLike)):
        return read_transform(value)
    if isinstance(value, sitk.Transform):
        with _named(name):
            return from_itk(value)
    if callable(value) and hasattr(value, "inverse"):
        return value
    raise ValueError(
        f"{name}: a transform is a file, a transform of hybridreg or of SimpleITK; found "
        f"{kind_of(value)}. For a matrix: hybridreg.AffineTransform(matrix), fixed to "
        "moving in LPS mm"
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Prefixes errors with the name of the value."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _values(value: Any) -> tuple[np.ndarray, Grid]:
    """The values, shape (C, *grid.shape), in their own number type, and their grid."""
    if isinstance(value, sitk.Image):
        array = sitk.GetArrayFromImage(value)
        check_number_type(array.dtype)
        several = value.GetNumberOfComponentsPerPixel() > 1
        return np.moveaxis(array, -1, 0) if several else array[None], from_sitk(value).grid
    if isinstance(value, SpatialImage):
        contents = nibabel_contents(value)
        for note in contents.notes:
            log.warning("a nibabel image: %s", note)
        if len(contents.values) > 1:
            raise ValueError(
                f"it holds {len(contents.values)} frames: give one of them, such as "
                "image.slicer[..., 0]"
            )
        return contents.values[0], contents.grid
    raise ValueError(
        f"found {kind_of(value)}, which does not say where it lies in space. Images are files, "
        "SimpleITK or nibabel images, or hybridreg.Image(array, hybridreg.Grid(array.shape, "
        "(1.0, 1.0, 3.0))): the array in (z, y, x) order, the spacing in mm in (x, y, z) order"
    )
