"""DICOM series from folders, and enhanced multi-frame files, as images in LPS mm.

Numbers are those of the modality (HU in CT). Pixels that the header marks as padding, such as the
ring outside of a CT scan, become the smallest measured value (or 0, where all others are larger):
an edge where the scanner stopped is not anatomy, and would attract a registration. What cannot be
read soundly is refused in one ValueError that begins with the path as it was given.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hybridreg.images import Image
from hybridreg.io.dicom_files import (
    LOSSY,
    files_in,
    frames_in,
    quiet_pydicom,
    starts_like_dicom,
    stored_pixels,
)
from hybridreg.io.dicom_frames import Frame, Slice, placed
from hybridreg.io.dicom_geometry import resampled
from hybridreg.io.dicom_series import Series, chosen, grouped, volume
from hybridreg.io.files import naming

log = logging.getLogger(__name__)

__all__ = ["Series", "is_dicom", "list_series", "read_dicom"]

_INTEGERS = ("int16", "uint16", "int32")
_EXACT = 1 << 24  # the largest whole number up to which float32 knows all


def read_dicom(
    path: str | os.PathLike,
    *,
    series: str | None = None,
    frame: int | None = None,
    resample: bool = False,
) -> Image:
    """The volume of a DICOM series in a folder (with its subfolders) or an enhanced DICOM file.

    series: which one, where there are several: its number, its short id or the start of its UID.
    frame: which volume to take of a series that holds several at the same place (echoes, time
        points), from 0, in rising order of what they differ in.
    resample: interpolate a sheared or unevenly spaced stack onto a right-angled grid; without it
        such a stack is refused.
    """
    with naming(path), quiet_pydicom():
        found = _series_in(Path(path))
        taken = chosen(found, series)
        if len(found) > 1:
            log.info("%s: of %d series, %s was taken", path, len(found), taken)
        image, notes = _image(taken, frame, resample=resample)
    for note in notes:
        log.warning("%s: %s", path, note)
    return image


def list_series(path: str | os.PathLike) -> list[Series]:
    """The series of a folder or file, each with its size or why it cannot be read as it is."""
    with naming(path), quiet_pydicom():
        return [_examined(one) for one in _series_in(Path(path), parts=True)]


def is_dicom(path: str | os.PathLike) -> bool:
    """True for a DICOM file, and for a folder that holds one; only the first bytes are read."""
    path = Path(path)
    files = files_in(path) if path.is_dir() else [path] if path.is_file() else []
    return any(starts_like_dicom(file) for file in files)


def _series_in(path: Path, *, parts: bool = False) -> list[Series]:
    """The series of a folder or file. parts: also of a file that is one slice of a series."""
    if path.is_dir():
        return grouped(_frames_in_folder(path))
    if not starts_like_dicom(path):
        raise ValueError("it is not a DICOM file: give the folder of a DICOM series")
    frames = frames_in(path, name="")
    if not frames:
        raise ValueError(
            "it is DICOM without an image, such as a table of contents (DICOMDIR): "
            "give the folder of a series"
        )
    if frames[0].index is None and not parts:
        placed(frames[0])  # where it is no slice at all, that is the better thing to say
        raise ValueError("it is a single slice: give the folder that holds its whole series")
    return grouped(frames)


def _frames_in_folder(folder: Path) -> list[Frame]:
    frames, damaged = [], []
    for file in filter(starts_like_dicom, files_in(folder)):
        name = file.relative_to(folder).as_posix()
        try:
            frames += frames_in(file, name)
        except ValueError:
            damaged.append(name)
    if damaged:
        shown = ", ".join(damaged[:3]) + (", ..." if damaged[3:] else "")
        log.warning("%s: left out as damaged: %d DICOM file(s), %s", folder, len(damaged), shown)
    if not frames:
        raise ValueError("the folder holds no DICOM images: give the one with the series")
    return frames


def _examined(series: Series) -> Series:
    try:
        slices, stack, _ = volume(series, None, _same_pixels)
    except ValueError as error:
        return replace(series, problem=str(error))
    return replace(
        series,
        size=(*stack.size, len(slices)),
        spacing=(*stack.spacing, float(np.median(stack.gaps))),
        problem=stack.problem(),
    )


def _image(series: Series, frame: int | None, *, resample: bool) -> tuple[Image, list[str]]:
    """The volume of a series, and what to know about it, in words."""
    slices, stack, notes = volume(series, frame, _same_pixels)
    problem = stack.problem()
    if problem and not resample:
        raise ValueError(
            f"{problem}; `hybridreg dicom --resample` (resample=True) interpolates it onto a "
            "right-angled grid"
        )
    values, more = _measured(slices)
    dtype = _number_type(values, [one.frame for one in slices])
    if not problem:
        return Image(torch.from_numpy(values), stack.grid(), dtype), notes + more
    values, grid = resampled(stack, values, outside=min(0.0, float(values.min())))
    told = f"{problem}; it was interpolated onto a right-angled grid"
    return Image(torch.from_numpy(values), grid, dtype), [*notes, *more, told]


def _same_pixels(one: Slice, other: Slice) -> bool:
    values, _ = _measured([one, other])
    return np.array_equal(values[0], values[1])


def _measured(slices: Sequence[Slice]) -> tuple[np.ndarray, list[str]]:
    """What was measured, float32 of shape (n, y, x), and what to know about it, in words."""
    values = np.empty((len(slices), *slices[0].size[::-1]), dtype=np.float32)
    for k, stored in stored_pixels([one.frame for one in slices]):
        if stored.shape != values.shape[1:]:
            raise ValueError(f"{slices[k].frame.where}its pixels are not of the size it says")
        values[k] = _rescaled(slices[k].frame, stored)
    padded = np.isnan(values)
    if padded.any():
        fill = float(min(0.0, values[~padded].min(initial=np.inf)))
        values[padded] = fill
        log.info(
            "%.1f %% of the pixels are padding; they were set to %g", 100 * padded.mean(), fill
        )
    frames = [one.frame for one in slices]
    notes = []
    if any(frame.syntax in LOSSY for frame in frames):
        notes.append("its pixels were compressed with losses: fine detail may be gone")
    units = sorted({frame.text("RescaleType") for frame in frames} - {"", "HU"})
    if units and frames[0].text("Modality") == "CT":
        notes.append(f"its numbers are {', '.join(units)}, not HU, by its header")
    return values, notes


def _rescaled(frame: Frame, stored: np.ndarray) -> np.ndarray:
    """Stored pixels in units of the modality; NaN where they are padding."""
    values = stored * frame.slope + frame.intercept
    if "PixelPaddingValue" in frame.fields:
        first = _as_stored(frame.whole("PixelPaddingValue"), stored.dtype)
        last = _as_stored(frame.whole("PixelPaddingRangeLimit", first), stored.dtype)
        low, high = sorted((first, last))
        values[(stored >= low) & (stored <= high)] = np.nan
    return values


def _as_stored(value: int, dtype: np.dtype) -> int:
    """Some headers give a negative padding value as the unsigned number of the same bits."""
    return int(np.array(value % (1 << 8 * dtype.itemsize), np.uint64).astype(dtype))


def _number_type(values: np.ndarray, frames: Sequence[Frame]) -> str:
    whole = all(frame.slope == 1 and frame.intercept.is_integer() for frame in frames)
    low, high = float(values.min()), float(values.max())
    if whole and max(-low, high) <= _EXACT:
        for name in _INTEGERS:
            if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
                return name
    return "float32"
