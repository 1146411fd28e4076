"""Handling of 2D pictures missing in SimpleITK (2.5): orientation, white stored as 0, gray+alpha.

It ignores the orientation (EXIF) of JPEG and PNG; of TIFF it mirrors axes but does not
exchange them, and reduces 16 bits to 8. White stored as 0 (TIFF) is inverted below 8
bits only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from hybridreg.io.working_folder import working_folder

# Tags of TIFF, which EXIF has too.
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 258, 262, 274, 277
_LAB = (8, 9, 10)
_MIRRORED = (None, (), (-1,), (-2, -1), (-2,))  # the axes of (..., y, x) by orientation 1 to 4


@contextmanager
def without_orientation(path: Path, format: str) -> Iterator[Path]:
    """A file that SimpleITK reads without reorientation: a copy of a TIFF with an orientation."""
    raw = bytearray(path.read_bytes()) if format == "TIFF" else bytearray()
    turned = [tag for tag in _all_tags(bytes(raw)) if tag.name == _ORIENTATION and tag.value != 1]
    if not turned:
        yield path
        return
    for tag in turned:
        raw[tag.where : tag.where + 2] = struct.pack(_order(raw) + "H", 1)
    with working_folder("hybridreg-tiff-") as folder:
        copy = folder / "upright.tif"
        copy.write_bytes(raw)
        yield copy


def as_shown(path: Path, format: str, values: np.ndarray, notes: list[str]) -> np.ndarray:
    """The pixels (..., y, x) as displayed by viewers; changes are added to the notes.

    values: as they are stored.
    """
    raw = path.read_bytes()
    exif = {"JPEG": _jpeg_exif, "PNG": _png_exif, "TIFF": bytes}.get(format, lambda _: b"")(raw)
    tags = {tag.name: tag.value for tag in reversed(list(_all_tags(exif)))}  # the first page's
    if format == "TIFF":
        _check_tiff(tags)
    if format == "TIFF" and tags.get(_PHOTOMETRIC) == 0 and tags.get(_BITS, 1) >= 8:
        values = _white_as_maximum(values, notes)
    orientation = tags.get(_ORIENTATION, 1)
    if not 1 < orientation <= 8:
        return values
    notes.append(f"it was turned according to its orientation ({orientation}, EXIF)")
    turned = values.swapaxes(-2, -1) if orientation > 4 else values
    return np.ascontiguousarray(np.flip(turned, _MIRRORED[(orientation - 1) % 4 + 1]))


def read_gray_alpha(path: Path) -> np.ndarray | None:
    """Gray and alpha (2, y, x) of a PNG of 8 bits, which SimpleITK cannot read; None of others."""
    head = path.read_bytes()
    bits, color = head[24:26] if len(head) > 26 else (0, 0)
    if color != 4 and not (color == 0 and b"tRNS" in head[: head.find(b"IDAT")]):
        return None
    if bits > 8:
        raise ValueError("it is gray with transparency in 16 bits: save it without transparency")
    try:
        with PngImageFile(path) as picture:
            return np.moveaxis(np.array(picture.convert("LA")), -1, 0)
    except (SyntaxError, OSError, ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"it is damaged ({error}): copy or download it again") from error


def _check_tiff(tags: Mapping[int, int]):
    """Raises ValueError for files that SimpleITK silently reads as other values."""
    if tags.get(_SAMPLES) == 2:
        raise ValueError("it has two values a pixel, gray and transparency: save it as gray only")
    if tags.get(_PHOTOMETRIC, 0) in _LAB:
        raise ValueError("its colors are L*a*b*: convert it to gray, or to RGB")


def _white_as_maximum(values: np.ndarray, notes: list[str]) -> np.ndarray:
    if values.dtype.kind != "u":
        notes.append(f"its header says that 0 is white, which has no meaning for {values.dtype}")
        return values
    notes.append("white is stored as 0 in it; it was inverted")
    return np.iinfo(values.dtype).max - values


class _Tag(NamedTuple):
    name: int
    value: int
    where: int  # of the value, in bytes


def _order(tiff: bytes) -> str:
    return "<" if tiff[:2] == b"II" else ">"


def _all_tags(tiff: bytes) -> Iterator[_Tag]:
    """The single short numbers in the pages of a TIFF file, or of EXIF data; damage ends them."""
    order, big = _order(tiff), b"+" in tiff[2:4]
    count, entry, pointer = ("Q", "HHQH", "Q") if big else ("H", "HHIH", "I")
    step, before = (20, 12) if big else (12, 8)
    where, seen = 8 if big else 4, set()
    try:
        while (page := struct.unpack_from(order + pointer, tiff, where)[0]) and page not in seen:
            seen.add(page)
            where = page + struct.calcsize("=" + count)
            for _ in range(struct.unpack_from(order + count, tiff, page)[0]):
                name, kind, number, value = struct.unpack_from(order + entry, tiff, where)
                if kind == 3 and number == 1:
                    yield _Tag(name, value, where + before)
                where += step
    except struct.error:
        return


def _jpeg_exif(raw: bytes) -> bytes:
    """The EXIF data among the segments before the pixels."""
    where = 2
    while raw[where : where + 1] == b"\xff" and raw[where + 1 : where + 2] != b"\xda":
        length = int.from_bytes(raw[where + 2 : where + 4], "big")
        segment = raw[where + 4 : where + 2 + length]
        if raw[where + 1] == 0xE1 and segment.startswith(b"Exif\0\0"):
            return segment[6:]
        where += 2 + max(length, 2)
    return b""


def _png_exif(raw: bytes) -> bytes:
    where = 8
    while where + 12 <= len(raw):
        length = int.from_bytes(raw[where : where + 4], "big")
        if raw[where + 4 : where + 8] == b"eXIf":
            return raw[where + 8 : where + 8 + length]
        where += 12 + length
    return b""
