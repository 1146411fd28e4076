"""DICOM series from folders, and enhanced multi-frame files, as images in LPS mm.

Values are those of the modality (HU in CT). Pixels that the header marks as padding, such as the
ring outside of a CT scan, become the smallest measured value (or 0, if all others are larger):
the edge of the field of view is not anatomy, and would attract a registration. What cannot be
read reliably is refused with a ValueError that starts with the path as it was given.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hybridreg.images import Image
from hybridreg.io.dicom_files import (
    LOSSY,
    files_in,
    frames_in,
    is_archive,
    is_packed_dicom,
    quiet_pydicom,
    starts_like_dicom,
    stored_pixels,
)
from hybridreg.io.dicom_frames import Frame, Slice, placed
from hybridreg.io.dicom_geometry import resampled
from hybridreg.io.dicom_series import Series, chosen, grouped
from hybridreg.io.dicom_volumes import (
    Volume,
    as_file,
    chosen_volume,
    labels,
    several,
    slices_of,
    split,
)
from hybridreg.io.files import naming
from hybridreg.progress import report, within

log = logging.getLogger(__name__)

__all__ = ["Series", "is_dicom", "list_series", "read_dicom"]

_INTEGERS = ("int16", "uint16", "int32")
_EXACT = 1 << 24  # float32 represents all integers up to it


def read_dicom(
    path: str | os.PathLike,
    *,
    series: str | None = None,
    frame: int | None = None,
    resample: bool = False,
) -> Image:
    """The volume of a DICOM series in a folder (with its subfolders) or an enhanced DICOM file.

    series: which one, if there are several: its number, its short id or the start of its UID.
    frame: which volume of a series with several at the same location (echoes, time points), from 0,
        in ascending order of the header fields in which they differ.
    resample: interpolate a sheared or unevenly spaced stack onto a right-angled grid; without it
        such a stack is refused.
    """
    with naming(path), quiet_pydicom():
        with within(0.0, 0.5):
            found = _series_in(Path(path))
        taken = chosen(found, series)
        if len(found) > 1:
            log.info("%s: of %d series, %s was taken", path, len(found), taken)
        slices, left_out = _slices(taken)
        for note in left_out:  # before the rest may be refused
            log.warning("%s: %s", path, note)
        with within(0.5, 0.8):
            volumes, copies = split(slices, _digests)
        with within(0.8, 1.0):
            image, notes = _image(chosen_volume(volumes, frame), resample=resample)
    for note in copies + notes:
        log.warning("%s: %s", path, note)
    return image


def list_series(path: str | os.PathLike) -> list[Series]:
    """The series of a folder or file, each with its size or why it cannot be read as it is."""
    with naming(path), quiet_pydicom():
        with within(0.0, 0.5):
            found = _series_in(Path(path), parts=True)
        examined = []
        for k, one in enumerate(found):
            with within(0.5 + 0.5 * k / len(found), 0.5 + 0.5 * (k + 1) / len(found)):
                examined.append(_examined(one))
        return examined


def is_dicom(path: str | os.PathLike) -> bool:
    """True for a DICOM file, packed or not, and for a folder that holds one, by the first bytes."""
    path = Path(path)
    files = files_in(path) if path.is_dir() else [path] if path.is_file() else []
    return any(is_packed_dicom(file) or starts_like_dicom(file) for file in files)


def _series_in(path: Path, *, parts: bool = False) -> list[Series]:
    """The series of a folder or file. parts: also of a file that is one slice of a series."""
    if path.is_dir():
        return grouped(_frames_in_folder(path))
    if not starts_like_dicom(path):
        if is_archive(path):
            raise ValueError("it is packed: unpack it, and give the folder of the DICOM series")
        raise ValueError("it is not a DICOM file: give the folder of a DICOM series")
    frames = frames_in(path, name="")
    if not frames:
        raise ValueError(
            "it is DICOM without an image, such as a table of contents (DICOMDIR): "
            "give the folder of a series"
        )
    if frames[0].index is None and not parts:
        placed(frames[0])  # raises a more specific error if it is not a slice
        raise ValueError("it is a single slice: give the folder that holds its whole series")
    return grouped(frames)


def _frames_in_folder(folder: Path) -> list[Frame]:
    frames, damaged, others = [], [], []
    files = list(files_in(folder))
    for k, file in enumerate(files):
        report(k / len(files), "reading DICOM headers")
        if not starts_like_dicom(file):
            others.append(file)
            continue
        name = file.relative_to(folder).as_posix()
        try:
            frames += frames_in(file, name)
        except ValueError:
            damaged.append(name)
    packed = [f.name for f in others if (is_packed_dicom if frames else is_archive)(f)]
    if not frames and packed:
        raise ValueError(f"the folder holds only packed files ({_few(packed)}): unpack them first")
    for names, what in ((damaged, "damaged"), (packed, "packed")):
        if names:
            count = len(names)
            log.warning("%s: left out as %s: %d file(s), %s", folder, what, count, _few(names))
    if not frames:
        raise ValueError("the folder holds no DICOM images: give the one with the series")
    return frames


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if names[3:] else "")


def _examined(series: Series) -> Series:
    found = series
    try:
        slices, notes = _slices(series)
        found = replace(found, notes=tuple(notes))
        volumes, copies = split(slices, _digests)
        found = replace(found, notes=(*notes, *copies), volumes=labels(volumes))
        stack = volumes[0].stack()
    except ValueError as error:
        return replace(found, problem=str(error))
    return replace(
        found,
        size=(*stack.size, len(stack.positions)),
        spacing=(*stack.spacing, float(np.median(stack.gaps))),
        problem="; ".join(filter(None, (stack.problem(), several(volumes)))),
    )


def _slices(series: Series) -> tuple[list[Slice], list[str]]:
    if series.is_localizer:
        raise ValueError("it is a localizer: single views to plan the scan on, not a volume")
    return slices_of(series.frames)


def _image(volume: Volume, *, resample: bool) -> tuple[Image, list[str]]:
    """A volume as an image, and notes about it."""
    stack = volume.stack()
    problem = stack.problem()
    if problem and not resample:
        raise ValueError(
            f"{problem}; {as_file('--resample')}, interpolated onto a right-angled grid "
            "(resample=True)"
        )
    values, notes = _measured(volume.slices)
    dtype = _number_type(values, [one.frame for one in volume.slices])
    if not problem:
        return Image(torch.from_numpy(values), stack.grid(), dtype), notes
    values, grid = resampled(stack, values, outside=min(0.0, float(values.min())))
    note = f"{problem}; it was interpolated onto a right-angled grid"
    return Image(torch.from_numpy(values), grid, dtype), [*notes, note]


def _digests(slices: Sequence[Slice]) -> list[bytes]:
    """Digests of slices, equal if all their values are."""
    found = [b""] * len(slices)
    for k, values in _numbers(slices, "comparing slices"):
        found[k] = hashlib.sha256(values.tobytes()).digest()
    return found


def _measured(slices: Sequence[Slice]) -> tuple[np.ndarray, list[str]]:
    """The measured values, float32 of shape (n, y, x), and notes about them."""
    values = np.empty((len(slices), *slices[0].size[::-1]), dtype=np.float32)
    for k, numbers in _numbers(slices, "reading slices"):
        values[k] = numbers
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


def _numbers(slices: Sequence[Slice], doing: str) -> Iterator[tuple[int, np.ndarray]]:
    """Each slice's number in the sequence and its measured values, float32 of shape (y, x)."""
    frames = [one.frame for one in slices]
    for done, (k, stored) in enumerate(stored_pixels(frames)):
        report(done / len(frames), doing)
        if stored.shape != slices[k].size[::-1]:
            raise ValueError(f"{frames[k].where}its pixels are not of the size it says")
        yield k, _rescaled(frames[k], stored).astype(np.float32)


def _rescaled(frame: Frame, stored: np.ndarray) -> np.ndarray:
    """Stored pixels in units of the modality; NaN where they are padding."""
    values = stored * frame.slope + frame.intercept + 0.0  # no negative zero
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
