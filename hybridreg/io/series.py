"""Time series: NIfTI files of several frames with their timing."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from hybridreg.images import Image, LabelMap
from hybridreg.io.files import errors_of, naming, whole_file
from hybridreg.io.nifti import Contents, nifti_bytes, read_nifti
from hybridreg.io.objects import image_of, labels_of

log = logging.getLogger(__name__)

_READ = (".nii", ".nii.gz", ".hdr", ".img")
_WRITTEN = (".nii", ".nii.gz")
_TIME_UNITS = 0x38  # the bits of xyzt_units for the unit of time: seconds, ms, us, Hz ...


@dataclass(frozen=True)
class Timing:
    """The timing of the frames of a series, from its NIfTI header.

    spacing and start are in the unit of time whose NIfTI code is ``unit``: 8 s, 16 ms, 24 us.
    """

    count: int
    spacing: float
    start: float = 0.0
    unit: int = 8


def timing_of(path: str | os.PathLike) -> Timing | None:
    """The timing of a NIfTI file with several frames; None for every other file."""
    if not str(path).lower().endswith(_READ):
        return None
    try:
        header = nibabel.load(path).header
    except (ImageFileError, OSError, ValueError, EOFError):
        return None  # its reader will raise the error
    dims = [int(n) for n in header["dim"]]
    if dims[0] < 4 or dims[4] < 2:
        return None
    spacing, start = float(header["pixdim"][4]), float(header["toffset"])
    return Timing(dims[4], spacing, start, int(header["xyzt_units"]) & _TIME_UNITS)


def read_series(path: str | os.PathLike, *, labels: bool = False) -> list[Image] | list[LabelMap]:
    """All frames of a NIfTI file as images, or as label maps."""
    with naming(path):
        contents = read_nifti(Path(path))
        for note in contents.notes:
            log.warning("%s: %s", path, note)
        make = labels_of if labels else image_of
        return [make(_measured(contents, values), contents.grid) for values in contents.values]


def _measured(contents: Contents, values: np.ndarray) -> np.ndarray:
    if (contents.slope, contents.intercept) == (1, 0):
        return values
    return values * contents.slope + contents.intercept


def check_series_path(path: Path):
    """Raises ValueError for a file ending that a time series cannot be written with."""
    if not path.name.lower().endswith(_WRITTEN):
        raise ValueError(f"{path}: a time series is written as {' or '.join(_WRITTEN)}")


def write_series(path: Path, frames: Sequence[Image] | Sequence[LabelMap], timing: Timing):
    """Writes images of one channel on one grid as one 4D NIfTI file, complete or not at all.

    Images are rounded and clamped to the number type of the first, labels have 32 bits.
    """
    check_series_path(path)
    with errors_of(path):
        content = _bytes(frames, timing)
        if path.name.lower().endswith(".gz"):
            content = gzip.compress(content, 1, mtime=0)
        with whole_file(path) as partial:
            partial.write_bytes(content)


def _bytes(frames: Sequence[Image] | Sequence[LabelMap], timing: Timing) -> bytes:
    stored = [_stored(frame, frames[0]) for frame in frames]
    grid = frames[0].grid
    if grid.dimension != 3:
        raise ValueError(f"a time series holds volumes, not {grid.dimension}D images")
    alone = nifti_bytes(stored[0][None], grid)
    header = nibabel.Nifti1Header(alone[:348])
    header.set_data_shape((*grid.size, len(frames)))
    header["pixdim"][4], header["toffset"] = timing.spacing, timing.start
    header["xyzt_units"] = (int(header["xyzt_units"]) & ~_TIME_UNITS) | timing.unit
    return header.binaryblock + bytes(4) + b"".join(values.tobytes() for values in stored)


def _stored(frame: Image | LabelMap, first: Image | LabelMap) -> np.ndarray:
    """The values (*grid.shape) in the number type to write."""
    values = frame.data.numpy(force=True)
    if isinstance(frame, LabelMap):
        return values
    if frame.channels != 1:
        raise ValueError(f"a time series has one channel a frame, not {frame.channels}")
    if first.dtype == "float32":
        return values[0]
    if np.isnan(values).any():
        raise ValueError(f"the image has NaN, which {first.dtype} cannot hold")
    limits = np.iinfo(first.dtype)
    return np.clip(np.rint(values[0].astype(float)), limits.min, limits.max).astype(first.dtype)
