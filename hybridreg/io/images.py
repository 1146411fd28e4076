"""Images and label maps from files and to files; SimpleITK images in and out.

Read: NIfTI, MetaImage, NRRD, FreeSurfer MGH, and 2D pictures (PNG, JPEG, TIFF, BMP), which have no
place in the patient: 1 mm per pixel, whatever resolution they claim. Written: NIfTI, MetaImage and
NRRD as single files, and 2D as PNG or TIFF. Every refusal begins with the path as it was given.
"""

from __future__ import annotations

import errno
import gzip
import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io import intact
from hybridreg.io.files import errors_of, name_for_itk, naming, reserve, whole_file
from hybridreg.io.nifti import Contents, axis_letters, nifti_bytes, read_mgh, read_nifti

log = logging.getLogger(__name__)

_IMAGE_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
_LABEL_TYPES = ("uint8", "int16", "int32")
_PICTURE_TYPES = {"PNG": ("uint8", "uint16"), "TIFF": ("uint8", "uint16", "float32")}
_COMPRESSION = 1  # of 9: a brain scan then takes 0.1 s and is 4 % larger than at 6


def read_image(path: str | os.PathLike, *, frame: int | None = None, color: bool = False) -> Image:
    """The image in a file, in LPS mm; ``image.dtype`` is its number type in the file.

    Numbers of 64 bits, and numbers that the header rescales, become float32. frame: which one to
    take of a file that holds several (a time series, a TIFF of many pages), from 0. color: keep the
    red, green and blue of a color picture as channels; by default such a picture is refused. One
    whose three colors are equal is grey either way. A DICOM file, or a folder that holds one DICOM
    series, is read by ``read_dicom``.
    """
    if os.path.isdir(path) or _may_be_dicom(path):
        from hybridreg.io.dicom import read_dicom  # only who has DICOM pays for its libraries

        return read_dicom(path, frame=frame)
    with naming(path):
        contents = _contents(Path(path), color=color)
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            values = np.array(_frame(contents, frame), dtype=np.float32, order="C")
        rescaled = (contents.slope, contents.intercept) != (1, 0)
        dtype = "float32" if rescaled else _image_type(contents.values.dtype)
        return Image(torch.from_numpy(values), contents.grid, dtype)


def read_labels(path: str | os.PathLike, *, frame: int | None = None) -> LabelMap:
    """The label map in a file: whole numbers, of whatever type they are stored in."""
    with naming(path):
        contents = _contents(Path(path))
        values = _frame(contents, frame)
        if len(values) != 1:
            raise ValueError(f"it has {len(values)} channels; a label map has one")
        if not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
            raise ValueError("labels must be whole numbers; found others: is this an image?")
        low, high = int(values.min()), int(values.max())
        limits = np.iinfo(np.int32)
        if low < limits.min or high > limits.max:
            raise ValueError(f"its labels go from {low} to {high}: renumber them within 32 bits")
        return LabelMap(torch.from_numpy(values[0].astype(np.int32, order="C")), contents.grid)


def write_image(path: str | os.PathLike, image: Image | LabelMap):
    """Writes the format that the name's ending tells; the file is whole or absent.

    An image is rounded and clamped to ``image.dtype``; a label map takes the smallest number type
    that holds it. Several channels become a vector image; in PNG, three are red, green and blue.
    PNG and TIFF do not keep the grid.
    OSError where the disk does not take it.
    """
    path = Path(path)
    with errors_of(path):
        format = _format(path)
        if not format.is_written:
            raise ValueError(f"such files are only read; write one of {_endings(written=True)}")
        values = _stored(image, format.name)
        with whole_file(path) as partial:
            _write(partial, values, image.grid)


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """What a file holds, ready for JSON.

    size, spacing_mm, origin_mm are in (x, y, z) order and LPS; direction has one row for each of
    L, P, S. axes_point_to: where each voxel axis points to, such as "LPS"; None where the file
    does not say, and in 2D. range: the least and the greatest finite value, of all frames.
    """
    with naming(path):
        contents = _contents(Path(path))
    values, grid = contents.values, contents.grid
    finite = values if values.dtype.kind != "f" else values[np.isfinite(values)]
    ends = (finite.min(), finite.max()) if finite.size else ()
    meant = sorted(float(end) * contents.slope + contents.intercept for end in ends)
    return {
        "format": _format(Path(path)).name,
        "size": list(grid.size),
        "spacing_mm": list(grid.spacing),
        "origin_mm": list(grid.origin),
        "direction": [list(row) for row in grid.direction],
        "axes_point_to": axis_letters(grid) if contents.placed and grid.dimension == 3 else None,
        "dtype": values.dtype.name,
        "channels": values.shape[1],
        "frames": values.shape[0],
        "range": meant or None,
        "not_finite": int(values.size - finite.size),
        "notes": list(contents.notes),
    }


def from_sitk(image: sitk.Image) -> Image:
    """A scalar or vector SimpleITK image of 2 or 3 axes; components become channels."""
    if image.GetDimension() > 3:
        raise ValueError(f"an image has 2 or 3 axes, found size {image.GetSize()}: extract a part")
    values = _channels_first(image)
    dtype = _image_type(values.dtype)
    return Image(torch.from_numpy(values.astype(np.float32)), _grid(image, values.ndim - 1), dtype)


def to_sitk(image: Image | LabelMap) -> sitk.Image:
    """The same numbers on the same grid: float32, or int32 for labels; channels as components."""
    data = image.data if isinstance(image, Image) else image.data[None]
    return _sitk_image(data.detach().cpu().numpy(), image.grid)


def _sitk_image(values: np.ndarray, grid: Grid) -> sitk.Image:
    several = len(values) > 1
    array = np.moveaxis(values, 0, -1) if several else values[0]
    image = sitk.GetImageFromArray(array, isVector=several)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.ravel(grid.direction).tolist())
    return image


def _channels_first(image: sitk.Image) -> np.ndarray:
    values = sitk.GetArrayFromImage(image)
    several = image.GetNumberOfComponentsPerPixel() > 1
    return np.ascontiguousarray(np.moveaxis(values, -1, 0)) if several else values[None]


def _grid(image: sitk.Image, dimension: int) -> Grid:
    """The grid of the first two or three axes."""
    axes = np.reshape(image.GetDirection(), (image.GetDimension(), -1))[:dimension, :dimension]
    shape = image.GetSize()[:dimension][::-1]
    return Grid(shape, image.GetSpacing()[:dimension], image.GetOrigin()[:dimension], axes)


def _contents(path: Path, *, color: bool = False) -> Contents:
    if path.is_dir():
        raise ValueError("this is a folder: choose a file in it")
    if path.stat().st_size == 0:
        raise ValueError("the file is empty: copy or download it again")
    format = _format(path)
    contents = format.read(path)
    if format.is_picture and contents.values.shape[1] > 1 and not color:
        raise ValueError("this is a color picture: convert it to grey, or save one of its channels")
    for note in contents.notes:
        log.log(logging.INFO if format.is_picture else logging.WARNING, "%s: %s", path, note)
    return contents


def _may_be_dicom(path: str | os.PathLike) -> bool:
    """True where a file has none of our names, or says by its first bytes that it is DICOM."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM" or str(path).lower().endswith(".dcm")


def _frame(contents: Contents, frame: int | None) -> np.ndarray:
    """One frame as it is meant: shape (C, *grid.shape)."""
    count = len(contents.values)
    if frame is None and count > 1:
        raise ValueError(
            f"it holds {count} frames: choose one, frame=0 to frame={count - 1} (of the images: "
            "`hybridreg register --fixed-frame`, `hybridreg register --moving-frame`)"
        )
    if not 0 <= (frame or 0) < count:
        raise ValueError(f"there is no frame {frame}: it holds {count}, counted from 0")
    values = contents.values[frame or 0]
    if (contents.slope, contents.intercept) == (1, 0):
        return values
    return values * contents.slope + contents.intercept


def _read_volume(path: Path, *, check: Callable[[Path], None], reader: str) -> Contents:
    check(path)
    image = _sitk_file(path, reader)
    if image.GetDimension() > 4:
        raise ValueError(f"it has {image.GetDimension()} axes: give an image of 2 or 3")
    values = _channels_first(image)
    values = values.swapaxes(0, 1) if image.GetDimension() == 4 else values[None]
    return Contents(values, _grid(image, min(image.GetDimension(), 3)))


def _read_picture(path: Path, *, check: Callable[[Path], None], reader: str) -> Contents:
    check(path)
    image = _sitk_file(path, reader)
    values = _colors(_channels_first(image))
    pages = values.swapaxes(0, 1) if image.GetDimension() == 3 else values[None]
    notes = ("a picture has no size in mm; 1 mm per pixel was taken",)
    return Contents(pages, Grid(pages.shape[2:]), placed=False, notes=notes)


def _colors(values: np.ndarray) -> np.ndarray:
    """The colors of a picture (C, ...), one where they are equal, without a constant alpha."""
    colors, alpha = np.split(values, [len(values) - 1 + len(values) % 2])
    if alpha.size and alpha.min() != alpha.max():
        raise ValueError("parts of this picture are transparent: save it without transparency")
    return colors if (colors != colors[0]).any() else colors[:1]


def _sitk_file(path: Path, reader: str) -> sitk.Image:
    try:
        return sitk.ReadImage(name_for_itk(path), imageIO=reader)
    except RuntimeError as error:
        raise ValueError(
            f"it is damaged or of a kind that cannot be read ({_cause(error)}): "
            "copy it again, or convert it"
        ) from error


def _cause(error: Exception) -> str:
    """The last line of SimpleITK's report, without where in its source it happened."""
    if "determinant is 0" in str(error):
        return "its axes do not span the space"
    line = [line for line in str(error).splitlines() if line.strip()][-1]
    line = re.sub(r"^.*?ERROR:\s*(\w+\(0x\w+\):\s*)?", "", line)
    return re.sub(r"^\[nrrd\] \w+:\s*", "", line).strip()[:160]


def _stored(image: Image | LabelMap, format: str) -> np.ndarray:
    """The values (C, *shape) in the number type to write."""
    labels = isinstance(image, LabelMap)
    types = _PICTURE_TYPES.get(format, _LABEL_TYPES if labels else _IMAGE_TYPES)
    data = (image.data[None] if labels else image.data).detach().cpu().numpy()
    channels = (1, 3) if format == "PNG" else (1,)
    if format in _PICTURE_TYPES and (image.grid.dimension != 2 or len(data) not in channels):
        raise ValueError(
            f"{format} holds 2D pictures of {' or '.join(map(str, channels))} channels, not "
            f"{image.grid.dimension}D images of {len(data)}: write .nii.gz or .mha"
        )
    if labels:
        return _fitted(data, types, format)
    if image.dtype not in types:
        raise ValueError(
            f"{format} holds {', '.join(types)}, not {image.dtype}: write .nii.gz or .mha, "
            "or give the image another dtype"
        )
    return data if image.dtype == "float32" else _clamped(data, image.dtype)


def _fitted(labels: np.ndarray, types: tuple[str, ...], format: str) -> np.ndarray:
    """Labels in the first, smallest type that holds them."""
    low, high = labels.min(), labels.max()
    for name in types:
        if name != "float32" and np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return labels.astype(name)
    raise ValueError(f"{format} cannot hold labels from {low} to {high}: write .nii.gz or .mha")


def _clamped(values: np.ndarray, dtype: str) -> np.ndarray:
    if np.isnan(values).any():
        raise ValueError(f"the image has NaN, which {dtype} cannot hold: give it dtype float32")
    limits = np.iinfo(dtype)
    wide = values.astype(np.float64)  # float32 cannot tell the greatest int32 from the next number
    return np.clip(np.rint(wide), limits.min, limits.max).astype(dtype)


def _write(path: Path, values: np.ndarray, grid: Grid):
    """NIfTI by our own hand and the rest read again: on a full disk SimpleITK (2.5) leaves NIfTI
    and TIFF cut short without a word."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        content = nifti_bytes(values, grid)
        if name.endswith(".gz"):
            content = gzip.compress(content, _COMPRESSION, mtime=0)
        path.write_bytes(content)
        return
    itk_name = name_for_itk(path)
    try:
        sitk.WriteImage(_sitk_image(values, grid), itk_name, True, _COMPRESSION)
        _format(path).read(path)
    except (RuntimeError, ValueError) as error:
        reserve(path, values.nbytes)  # says what is wrong with the disk, where that is the reason
        raise OSError(errno.EIO, f"it could not be written whole ({_cause(error)})") from error


def _image_type(dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return "uint8"
    return dtype.name if dtype.name in _IMAGE_TYPES else "float32"


class _Format(NamedTuple):
    name: str
    read: Callable[[Path], Contents]
    is_written: bool = False
    is_picture: bool = False


_META = partial(_read_volume, check=intact.check_metaimage, reader="MetaImageIO")
_NRRD = partial(_read_volume, check=intact.check_nrrd, reader="NrrdImageIO")
_PNG = partial(_read_picture, check=intact.check_png, reader="PNGImageIO")
_JPEG = partial(_read_picture, check=intact.check_jpeg, reader="JPEGImageIO")
_TIFF = partial(_read_picture, check=intact.check_tiff, reader="TIFFImageIO")
_BMP = partial(_read_picture, check=intact.check_bmp, reader="BMPImageIO")

_FORMATS = {
    ".nii.gz": _Format("NIfTI", read_nifti, is_written=True),
    ".nii": _Format("NIfTI", read_nifti, is_written=True),
    ".hdr": _Format("NIfTI", read_nifti),
    ".img": _Format("NIfTI", read_nifti),
    ".mha": _Format("MetaImage", _META, is_written=True),
    ".mhd": _Format("MetaImage", _META),
    ".nrrd": _Format("NRRD", _NRRD, is_written=True),
    ".nhdr": _Format("NRRD", _NRRD),
    ".mgz": _Format("FreeSurfer", read_mgh),
    ".mgh": _Format("FreeSurfer", read_mgh),
    ".png": _Format("PNG", _PNG, is_written=True, is_picture=True),
    ".tif": _Format("TIFF", _TIFF, is_written=True, is_picture=True),
    ".tiff": _Format("TIFF", _TIFF, is_written=True, is_picture=True),
    ".jpg": _Format("JPEG", _JPEG, is_picture=True),
    ".jpeg": _Format("JPEG", _JPEG, is_picture=True),
    ".bmp": _Format("BMP", _BMP, is_picture=True),
}


def _format(path: Path) -> _Format:
    for ending, format in _FORMATS.items():
        if path.name.lower().endswith(ending):
            return format
    raise ValueError(
        f"its name does not end like an image read here ({_endings()}) and it is no DICOM; "
        "other formats must be converted first"
    )


def _endings(*, written: bool = False) -> str:
    return " ".join(end for end, format in _FORMATS.items() if format.is_written or not written)
