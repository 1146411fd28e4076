"""The images in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from hybridreg.io.formats import VOXEL_FILES, ending_of, is_dicom_file

log = logging.getLogger(__name__)

_LISTED = 8


def images_of(folder: Path) -> dict[str, Path]:
    """The image files of a folder by name without ending; other files are listed in a warning.

    A header with its voxels in another file is one image. ValueError if a file is empty, a
    link is broken, or two names differ by their ending or by capitals only.
    """
    if not folder.is_dir():
        raise ValueError("there is no such folder")
    paths = sorted(folder.iterdir())
    left_out = dict(_left_out(paths))
    if left_out:
        more = f" and {len(left_out) - _LISTED} more" if len(left_out) > _LISTED else ""
        listed = ", ".join(f"{path.name} ({why})" for path, why in list(left_out.items())[:_LISTED])
        log.warning("%s: left out are %s%s", folder, listed, more)
    images: dict[str, Path] = {}
    for path in paths:
        if path not in left_out and ending_of(path):
            _check_whole(path)
            first = images.setdefault(_name(path).casefold(), path)
            if first != path and not _is_pair(first, path):
                raise ValueError(f"{first.name} and {path.name} have one name: move one")
    if len(images) < 2 and any(is_dicom_file(path) for path in left_out):
        raise ValueError(
            "these are DICOM files: a folder of slices is one image; convert each series to one "
            "file (`hybridreg dicom FOLDER -o ct.nii.gz`), or write a table of cases "
            "that names the "
            "folders"
        )
    return {_name(path): path for path in images.values()}


def _left_out(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    headers = {_name(path).casefold() for path in paths if ending_of(path)}
    for path in paths:
        name = path.name.casefold()
        is_voxels = any(name.endswith(e) and name.removesuffix(e) in headers for e in VOXEL_FILES)
        if path.name.startswith("."):
            yield path, "hidden"
        elif path.is_dir():
            yield path, "a folder"
        elif not ending_of(path) and not is_voxels:
            yield path, "no image by its name"


def _name(path: Path) -> str:
    return path.name[: -len(ending_of(path)) or None]


def _is_pair(first: Path, second: Path) -> bool:
    return [ending_of(p).removesuffix(".gz") for p in (first, second)] == [".hdr", ".img"]


def _check_whole(path: Path):
    if not path.exists():
        raise ValueError(f"{path.name} is a link to {os.readlink(path)}, which is not there")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes): copy it again, or move it out")
