"""Integrity checks of MetaImage, NRRD and picture files before SimpleITK reads them.

SimpleITK silently reads some damaged files (MetaImage with broken compression, truncated JPEG, BMP
and multi-page TIFF) and follows any path in a header. Here a header may only name a file in
its own folder. Every error is a ValueError that says what to do.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

_META_BYTES = {
    **dict.fromkeys(("CHAR", "UCHAR"), 1),
    **dict.fromkeys(("SHORT", "USHORT"), 2),
    **dict.fromkeys(("INT", "UINT", "LONG", "ULONG", "FLOAT"), 4),
    **dict.fromkeys(("LONG_LONG", "ULONG_LONG", "DOUBLE"), 8),
}
_META_PLACES = {  # fields with a number for each axis (1), or for each two of them (2)
    **dict.fromkeys(("Offset", "Position", "Origin", "ElementSpacing", "ElementSize"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
_TOO_SHORT = "it ends too early: copy or download it again"


def check_metaimage(path: Path):
    """.mha, or .mhd with its .raw or .zraw beside it."""
    with path.open("rb") as file:
        fields = _metaimage_fields(file)
        start = file.tell()
    voxels = path
    if fields["ElementDataFile"].upper() != "LOCAL":
        voxels, start = _beside(path, fields["ElementDataFile"]), 0
    size = _metaimage_size(fields)
    if fields.get("BinaryData", "True").lower() == "false":
        return  # values as text: SimpleITK counts them
    try:
        expected = math.prod(size) * max(1, int(fields.get("ElementNumberOfChannels", 1)))
        expected *= _META_BYTES[fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")]
        start += max(0, int(fields.get("HeaderSize", 0)))
    except (KeyError, ValueError) as error:
        raise ValueError(f"its header is damaged or of a kind unknown here ({error})") from None
    found = voxels.stat().st_size - start
    if fields.get("CompressedData", "False").lower() == "true":
        found = len(_unpacked(voxels, start))
    if found < expected:
        raise ValueError(f"({max(found, 0)} of {expected} bytes of voxels) {_TOO_SHORT}")


def _metaimage_size(fields: dict[str, str]) -> list[int]:
    """The size in voxels, with checked geometry fields: MetaIO overruns its own arrays
    beyond ten axes (SimpleITK 2.5), and reads invalid numbers as 0."""
    axes, size = fields.get("NDims", ""), fields.get("DimSize", "").split()
    if not (axes.isdecimal() and 1 <= int(axes) <= 9 and len(size) == int(axes)):
        raise ValueError(f"its header is damaged: {axes or 'no'} axes of size {' x '.join(size)}")
    if not all(n.isdecimal() and int(n) for n in size):
        raise ValueError(f"its header is damaged: it gives the size {' x '.join(size)}")
    for name, count in _META_PLACES.items():
        numbers = fields.get(name, "0 " * len(size) ** count).split()
        if len(numbers) != len(size) ** count or not all(map(_is_finite, numbers)):
            raise ValueError(f"its header is damaged: {name} is {' '.join(numbers)}")
    return [int(n) for n in size]


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _metaimage_fields(file: BinaryIO) -> dict[str, str]:
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = file.readline(1 << 16)
        key, *value = re.split("[=:]", line.decode("latin-1"), maxsplit=1)
        if not value and line.strip() or not line:
            raise ValueError("this is not a MetaImage header, or it is cut short: was it renamed?")
        fields[key.strip()] = "".join(value).strip()
    return fields


def check_nrrd(path: Path):
    """.nrrd, or .nhdr with its voxels beside it; SimpleITK itself counts what is not compressed."""
    with path.open("rb") as file:
        fields = _nrrd_fields(file)
        start = file.tell()
    units = set(re.findall(r'"(.*?)"', fields.get("space units", ""))) - {"", "mm", "millimeter"}
    if units:
        raise ValueError(f"its lengths are in {', '.join(sorted(units))}: give them in mm")
    for name in ("space origin", "space directions"):  # SimpleITK reads invalid numbers as 0
        if "nan" in fields.get(name, "").lower():
            raise ValueError(f"its header is damaged: the {name} is {fields[name]}")
    name = fields.get("data file") or fields.get("datafile")
    voxels, start = (_beside(path, name), 0) if name else (path, start)
    if fields.get("encoding") in ("gzip", "gz") and "line skip" not in fields:
        _unpacked(voxels, start)


def _nrrd_fields(file: BinaryIO) -> dict[str, str]:
    if file.read(4) != b"NRRD":
        raise ValueError("this is not an NRRD file, whatever its name: was it renamed?")
    fields: dict[str, str] = {}
    file.readline(1 << 16)
    while line := file.readline(1 << 16).strip():
        key, _, value = line.decode("latin-1").partition(":")
        fields[key.strip().lower()] = value.strip()
    return fields


def _beside(path: Path, name: str) -> Path:
    """The voxel file named by a header, which must be in the same folder."""
    if name.upper().split()[:1] == ["LIST"] or "%" in name:
        raise ValueError("its voxels are spread over many files: convert it to a single one")
    plain = PureWindowsPath(name).name  # handles both kinds of slash
    if not plain or str(PureWindowsPath(name)) != plain:
        raise ValueError(
            f"its header looks for the voxels in {name!r}; only a file in the same folder is read: "
            "move it there and write its plain name into the header"
        )
    voxels = path.with_name(plain)
    if not voxels.is_file():
        raise ValueError(f"its file of voxels {name!r} is missing: keep both files together")
    return voxels


def _unpacked(path: Path, start: int) -> bytes:
    """The bytes from ``start`` on, decompressed from zlib or gzip with their checksum verified."""
    packed = path.read_bytes()[start:]
    try:
        if packed[:2] == b"\x1f\x8b":
            return gzip.decompress(packed)
        return zlib.decompress(packed)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"its compressed voxels are cut short or damaged ({error}): copy or download it again"
        ) from None


def check_png(path: Path):
    """Raises ValueError unless it is a PNG; libpng verifies the checksums of all its parts."""
    _check_start(path.read_bytes(), "PNG", b"\x89PNG\r\n\x1a\n")


def check_jpeg(path: Path):
    """Raises ValueError unless the JPEG file is whole."""
    raw = path.read_bytes()
    _check_start(raw, "JPEG", b"\xff\xd8\xff")
    # The end mark must follow the last scan; one before it belongs to a thumbnail.
    if raw.rfind(b"\xff\xd9") < raw.rfind(b"\xff\xda") or b"\xff\xda" not in raw:
        raise ValueError(_TOO_SHORT)


def check_bmp(path: Path):
    """Raises ValueError unless the BMP file is whole."""
    raw = path.read_bytes()
    _check_start(raw, "BMP", b"BM")
    if len(raw) < 34:
        raise ValueError(_TOO_SHORT)
    start, header, width, height, _, bits, packed = struct.unpack_from("<IIiiHHI", raw, 10)
    row = (width * bits + 31) // 32 * 4
    if header >= 40 and not packed and len(raw) < start + row * abs(height):
        raise ValueError(_TOO_SHORT)


def check_tiff(path: Path):
    """Raises ValueError if pages are missing: libtiff would silently read only those before."""
    raw = path.read_bytes()
    _check_start(raw, "TIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    order, big = "<>"[raw[0] == ord("M")], b"+" in raw[2:4]
    count, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    where, seen = 8 if big else 4, set()
    try:
        while (page := struct.unpack_from(order + pointer, raw, where)[0]) and page not in seen:
            seen.add(page)
            entries = struct.unpack_from(order + count, raw, page)[0]
            where = page + struct.calcsize("=" + count) + entry * entries
    except struct.error:
        raise ValueError(_TOO_SHORT) from None


def _check_start(raw: bytes, kind: str, *starts: bytes):
    if not raw.startswith(starts):
        raise ValueError(f"this is not a {kind} file, whatever its name: was it renamed?")
