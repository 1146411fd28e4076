"""Reading and writing of images and label maps; conversion from and to SimpleITK.

Read: NIfTI, MetaImage, NRRD, FreeSurfer MGH, and 2D pictures (PNG, JPEG, TIFF, BMP), which have no
position in the patient and 1 mm per pixel, whatever resolution they claim. Written: NIfTI,
MetaImage and NRRD as single files, and 2D as PNG or TIFF (``formats`` has the table). Error
messages start with the path as it was given.
"""

from __future__ import annotations

import errno
import gzip
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io import intact
from hybridreg.io.decimal_point import decimal_point
from hybridreg.io.files import errors_of, name_for_itk, naming, reserve, whole_file
from hybridreg.io.formats import FORMATS, NUMBER_TYPES, Format, ending_of, format_of, is_dicom_file
from hybridreg.io.nifti import Contents, nifti_bytes, read_mgh, read_nifti
from hybridreg.io.pictures import as_shown, read_gray_alpha, without_orientation

log = logging.getLogger(__name__)

_LABEL_TYPES = ("uint8", "int16", "int32")  # of volumes
_LABEL_ROUNDING = 1e-3  # tolerance for whole numbers after rescaling by the header
_NO_SIZE = "a picture has no size in mm; 1 mm per pixel was taken"
_COMPRESSION = 1  # of 9: a brain scan then takes 0.1 s and is 4 % larger than at 6


def read_image(path: str | os.PathLike, *, frame: int | None = None, color: bool = False) -> Image:
    """The image in a file, in LPS mm; ``image.dtype`` is its number type in the file.

    Values of 64 bits, and values rescaled by the header, become float32. frame: which frame of a
    file with several (a time series, a multi-page TIFF), from 0. color: keep the red, green and
    blue of a color picture as channels; by default such a picture is refused. One whose three
    colors are equal is gray in either case. A DICOM file, or a folder with one DICOM series, is
    read by ``read_dicom``.
    """
    if os.path.isdir(path) or is_dicom_file(path):
        _check_folder(Path(path))
        from hybridreg.io.dicom import read_dicom  # its libraries are slow to import

        return read_dicom(path, frame=frame)
    with naming(path):
        contents = _contents(Path(path), color=color)
        with np.errstate(over="ignore"):  # overflow is refused later as infinite
            values = np.array(_frame(contents, frame), dtype=np.float32, order="C")
        rescaled = (contents.slope, contents.intercept) != (1, 0)
        dtype = "float32" if rescaled else _image_type(contents.values.dtype)
        return Image(torch.from_numpy(values), contents.grid, dtype)


def read_labels(path: str | os.PathLike, *, frame: int | None = None) -> LabelMap:
    """The label map in a file: whole numbers of any stored type.

    Values within 0.001 of a whole number are rounded, with a warning.
    """
    with naming(path):
        contents, values = _one_channel(Path(path), frame, "a label map")
        if not np.isfinite(values).all():
            raise ValueError(f"its labels have {_not_finite(values)}: replace them by 0, say")
        if (odd := _beside_whole(values)) is not None:
            raise ValueError(
                f"labels must be whole numbers; found {odd:.6g}: is this an image? Labels are "
                "resampled by nearest neighbor and saved as integers" + _rescaled(contents)
            )
        return _label_map(path, values, contents)


def read_mask(path: str | os.PathLike, *, frame: int | None = None) -> LabelMap:
    """The mask in a file: 0 is outside, any other whole number (1, 255, a label) is inside."""
    with naming(path):
        contents, values = _one_channel(Path(path), frame, "a mask")
        if not np.isfinite(values).all():
            raise ValueError(f"this mask has {_not_finite(values)}: replace them by 0 (outside)")
        if _beside_whole(values) is not None or values.min() < 0:
            raise ValueError(
                f"a mask is 0 outside and 1 inside; found values from {values.min():.4g} to "
                f"{values.max():.4g}: threshold it, and save it as integers"
            )
        mask = _label_map(path, values, contents)
    inside = torch.unique(mask.data[mask.data != 0])
    if len(inside) > 1:
        log.warning(
            "%s: this mask has %d values from %d to %d besides 0; all of them are inside",
            *(path, len(inside), inside.min(), inside.max()),
        )
    return mask


def write_image(path: str | os.PathLike, image: Image | LabelMap):
    """Writes an image in the format of the file ending; the file is complete or absent.

    An image is rounded and clamped to ``image.dtype``; a label map gets the smallest sufficient
    number type. Several channels become a vector image; in PNG, three are red, green and blue. PNG
    and TIFF do not store the grid.

    OSError if it cannot be written.
    """
    path = Path(path)
    with errors_of(path):
        format = format_of(path)
        ending = ending_of(path)
        if ending not in format.written:
            written = " ".join(e for format in FORMATS for e in format.written)
            raise ValueError(f"such files are only read; write one of {written}")
        values = _stored(image, format)
        with whole_file(path) as partial:
            # Under an ending in capitals MetaIO (SimpleITK 2.5) writes another file.
            plain = partial.with_name(partial.name[: -len(ending)] + ending)
            _write(plain, values, image.grid)
            plain.rename(partial)


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """A description of an image file, ready for JSON.

    size, spacing_mm, origin_mm are in (x, y, z) order and LPS; direction has one row for each of
    L, P, S. axes_point_to: the direction of each voxel axis, such as "LPS"; None if unknown,
    and in 2D. range: the smallest and the largest finite value, of all frames.
    """
    with naming(path):
        contents = _contents(Path(path))
    values, grid = contents.values, contents.grid
    finite = values if values.dtype.kind != "f" else values[np.isfinite(values)]
    ends = (finite.min(), finite.max()) if finite.size else ()
    meant = sorted(float(end) * contents.slope + contents.intercept for end in ends)
    return {
        "format": format_of(path).name,
        "size": list(grid.size),
        "spacing_mm": list(grid.spacing),
        "origin_mm": list(grid.origin),
        "direction": [list(row) for row in grid.direction],
        "axes_point_to": grid.axis_letters() if contents.placed and grid.dimension == 3 else None,
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
    """The same values on the same grid: float32, or int32 for labels; channels as components."""
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
    format = format_of(path)
    contents = _read(path, format)
    if format.is_picture and contents.values.shape[1] > 1 and not color:
        raise ValueError("this is a color picture: convert it to gray, or save one of its channels")
    for note in contents.notes:
        log.log(logging.INFO if note == _NO_SIZE else logging.WARNING, "%s: %s", path, note)
    return contents


def _check_folder(path: Path):
    """Refuses a folder with an image file name, into which some tools unpack a.nii.gz."""
    if path.is_dir() and ending_of(path) and any(ending_of(f) for f in os.listdir(path)):
        raise ValueError(f"{path}: this is a folder: choose a file in it")


def _one_channel(path: Path, frame: int | None, what: str) -> tuple[Contents, np.ndarray]:
    """The contents of a file, and the values (*grid.shape) of one frame."""
    contents = _contents(path)
    values = _frame(contents, frame)
    if len(values) != 1:
        raise ValueError(f"it has {len(values)} channels; {what} has one")
    return contents, values[0]


def _not_finite(values: np.ndarray) -> str:
    return f"{int((~np.isfinite(values)).sum())} voxels that are NaN or infinite"


def _beside_whole(values: np.ndarray) -> float | None:
    """The value furthest from a whole number, if it is outside the rounding tolerance."""
    apart = np.abs(values - np.rint(values)) if values.dtype.kind == "f" else np.zeros(1)
    return float(values.flat[apart.argmax()]) if apart.max() > _LABEL_ROUNDING else None


def _rescaled(contents: Contents) -> str:
    if (contents.slope, contents.intercept) == (1, 0):
        return ""
    return f" (the header rescales them by {contents.slope:.6g}, which may have moved them)"


def _label_map(path: str | os.PathLike, values: np.ndarray, contents: Contents) -> LabelMap:
    whole = np.rint(values)
    low, high = int(whole.min()), int(whole.max())
    limits = np.iinfo(np.int32)
    if low < limits.min or high > limits.max:
        raise ValueError(f"its labels go from {low} to {high}: renumber them within 32 bits")
    if not np.array_equal(whole, values):
        apart = np.abs(whole - values).max()
        log.warning("%s: values up to %.1g from whole numbers were rounded", path, apart)
    return LabelMap(torch.from_numpy(whole.astype(np.int32, order="C")), contents.grid)


def _frame(contents: Contents, frame: int | None) -> np.ndarray:
    """One frame in rescaled values: shape (C, *grid.shape)."""
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


def _read(path: Path, format: Format) -> Contents:
    if format.reader is None:
        return {"NIfTI": read_nifti, "FreeSurfer": read_mgh}[format.name](path)
    _CHECKS[format.name](path)
    return (_read_picture if format.is_picture else _read_volume)(path, format)


def _read_volume(path: Path, format: Format) -> Contents:
    image = _sitk_file(path, format.reader)
    if image.GetDimension() > 4:
        raise ValueError(f"it has {image.GetDimension()} axes: give an image of 2 or 3")
    values = _channels_first(image)
    values = values.swapaxes(0, 1) if image.GetDimension() == 4 else values[None]
    return Contents(values, _grid(image, min(image.GetDimension(), 3)))


def _read_picture(path: Path, format: Format) -> Contents:
    notes = [_NO_SIZE]
    values = read_gray_alpha(path) if format.name == "PNG" else None
    if values is None:
        with without_orientation(path, format.name) as stored:
            values = _channels_first(_sitk_file(stored, format.reader))
    values = as_shown(path, format.name, _colors(values), notes)
    pages = values.swapaxes(0, 1) if values.ndim == 4 else values[None]
    return Contents(pages, Grid(pages.shape[2:]), placed=False, notes=tuple(notes))


def _colors(values: np.ndarray) -> np.ndarray:
    """The colors of a picture (C, ...), one where they are equal, without a constant alpha."""
    colors, alpha = np.split(values, [len(values) - 1 + len(values) % 2])
    if alpha.size and alpha.min() != alpha.max():
        raise ValueError("parts of this picture are transparent: save it without transparency")
    return colors if (colors != colors[0]).any() else colors[:1]


def _sitk_file(path: Path, reader: str) -> sitk.Image:
    try:
        with decimal_point():
            return sitk.ReadImage(name_for_itk(path), imageIO=reader)
    except RuntimeError as error:
        raise ValueError(
            f"it is damaged or of a kind that cannot be read ({_cause(error)}): "
            "copy it again, or convert it"
        ) from error


def _cause(error: Exception) -> str:
    """The last line of SimpleITK's message, without the source location."""
    if "determinant is 0" in str(error):
        return "its axes do not span the space"
    line = [line for line in str(error).splitlines() if line.strip()][-1]
    line = re.sub(r"^.*?ERROR:\s*(\w+\(0x\w+\):\s*)?", "", line)
    return re.sub(r"^\[nrrd\] \w+:\s*", "", line).strip()[:160]


def _stored(image: Image | LabelMap, format: Format) -> np.ndarray:
    """The values (C, *shape) in the number type to write."""
    name, channels = format.name, format.channels
    data = (image.data[None] if isinstance(image, LabelMap) else image.data).detach().cpu().numpy()
    if channels and (image.grid.dimension != 2 or len(data) not in channels):
        raise ValueError(
            f"{name} holds 2D pictures of {' or '.join(map(str, channels))} channels, not "
            f"{image.grid.dimension}D images of {len(data)}: write .nii.gz or .mha"
        )
    if isinstance(image, LabelMap):
        return _fitted(data, format.types if format.is_picture else _LABEL_TYPES, name)
    if image.dtype not in format.types:
        raise ValueError(
            f"{name} holds {', '.join(format.types)}, not {image.dtype}: write .nii.gz or .mha, "
            "or give the image another dtype"
        )
    return data if image.dtype == "float32" else _clamped(data, image.dtype)


def _fitted(labels: np.ndarray, types: tuple[str, ...], format: str) -> np.ndarray:
    """Labels in the smallest sufficient type."""
    low, high = labels.min(), labels.max()
    for name in types:
        if name != "float32" and np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return labels.astype(name)
    raise ValueError(f"{format} cannot hold labels from {low} to {high}: write .nii.gz or .mha")


def _clamped(values: np.ndarray, dtype: str) -> np.ndarray:
    if np.isnan(values).any():
        raise ValueError(f"the image has NaN, which {dtype} cannot hold: give it dtype float32")
    limits = np.iinfo(dtype)
    # float32 cannot represent the largest int32
    whole = np.rint(values, dtype=np.float32 if limits.bits <= 16 else np.float64)
    return np.clip(whole, limits.min, limits.max, out=whole).astype(dtype)


def _write(path: Path, values: np.ndarray, grid: Grid):
    """Writes NIfTI directly and reads other formats back: on a full disk SimpleITK (2.5) silently
    truncates NIfTI and TIFF."""
    if format_of(path).name == "NIfTI":
        content = nifti_bytes(values, grid)
        if ending_of(path).endswith(".gz"):
            content = gzip.compress(content, _COMPRESSION, mtime=0)
        path.write_bytes(content)
        return
    itk_name = name_for_itk(path)
    try:
        with decimal_point():
            sitk.WriteImage(_sitk_image(values, grid), itk_name, True, _COMPRESSION)
        _read(path, format_of(path))
    except (RuntimeError, ValueError) as error:
        reserve(path, values.nbytes)  # raises the disk's own error, if that is the reason
        raise OSError(errno.EIO, f"it could not be written whole ({_cause(error)})") from error


def _image_type(dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return "uint8"
    return dtype.name if dtype.name in NUMBER_TYPES else "float32"


_CHECKS = {  # by the name of the format, whatever SimpleITK does not notice
    "MetaImage": intact.check_metaimage,
    "NRRD": intact.check_nrrd,
    "PNG": intact.check_png,
    "JPEG": intact.check_jpeg,
    "TIFF": intact.check_tiff,
    "BMP": intact.check_bmp,
}
