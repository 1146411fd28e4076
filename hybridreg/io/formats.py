"""The formats of image files: their endings, and what a file of each can contain.

Endings are case-insensitive.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

NUMBER_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")


class Format(NamedTuple):
    """One format of image files.

    endings, written: of all files that are read, and of those that are written.
    reader: the name of SimpleITK's reader; None if the bytes are read here.
    types: the number types that are written. channels: the possible numbers; None: any number.
    is_picture: it has 2 axes (and pages), and no position in the patient.
    """

    name: str
    endings: tuple[str, ...]
    written: tuple[str, ...] = ()
    reader: str | None = None
    types: tuple[str, ...] = NUMBER_TYPES
    channels: tuple[int, ...] | None = None
    is_picture: bool = False


def _picture(name: str, *endings: str, **more) -> Format:
    return Format(name, endings, reader=f"{name}ImageIO", is_picture=True, **more)


_PAIR = (".hdr", ".hdr.gz", ".img", ".img.gz")
_TIFF = (".tif", ".tiff")

FORMATS = (
    Format("NIfTI", (".nii.gz", ".nii", *_PAIR), written=(".nii.gz", ".nii")),
    Format("MetaImage", (".mha", ".mhd"), written=(".mha",), reader="MetaImageIO"),
    Format("NRRD", (".nrrd", ".nhdr"), written=(".nrrd",), reader="NrrdImageIO"),
    Format("FreeSurfer", (".mgz", ".mgh", ".mgh.gz")),
    _picture("PNG", ".png", written=(".png",), types=("uint8", "uint16"), channels=(1, 3)),
    _picture("TIFF", *_TIFF, written=_TIFF, types=("uint8", "uint16", "float32"), channels=(1,)),
    _picture("JPEG", ".jpg", ".jpeg"),
    _picture("BMP", ".bmp"),
)
VOXEL_FILES = (".raw", ".zraw", ".raw.gz")  # may belong to a header beside them
WRITTEN_VOLUMES = tuple(e for format in FORMATS if not format.is_picture for e in format.written)
WRITTEN_COLORS = tuple(e for f in FORMATS if not f.channels or 3 in f.channels for e in f.written)
PICTURES = {e: format.name for format in FORMATS if format.is_picture for e in format.endings}
_BY_ENDING = {ending: format for format in FORMATS for ending in format.endings}


def ending_of(path: str | os.PathLike) -> str:
    """The ending of an image file's name in lower case, such as ".nii.gz"; empty for others."""
    name = os.fspath(path).lower()
    return max((ending for ending in _BY_ENDING if name.endswith(ending)), key=len, default="")


def beside(path: str | os.PathLike, ending: str) -> Path:
    """The name of another file that belongs to an image file: drr.toml to drr.nii.gz."""
    path = Path(path)
    return path.with_name(path.name[: len(path.name) - len(ending_of(path))] + ending)


def format_of(path: str | os.PathLike) -> Format:
    """The format of a file by its name (ValueError for an unknown one)."""
    if not (ending := ending_of(path)):
        raise ValueError(
            f"its name does not end like an image read here ({' '.join(_BY_ENDING)}) and it is no "
            "DICOM; other formats must be converted first"
        )
    return _BY_ENDING[ending]


def is_dicom_file(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM, by its first bytes or its name."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM" or os.fspath(path).lower().endswith(".dcm")
