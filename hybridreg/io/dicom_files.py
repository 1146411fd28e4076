"""DICOM files: listing, header fields, and stored pixels.

Patient identifiers are neither read nor repeated: only the required fields are read,
and pydicom's messages, which may quote the header, are suppressed. JPEG, JPEG-LS and JPEG 2000 are
decoded by ``dicom_unpacker``: GDCM supports more kinds than pydicom with its plugins (such as
lossless JPEG, which is common in clinical archives) and refuses truncated pixels.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import subprocess
import tempfile
import warnings
import zlib
from collections import ChainMap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.pixels import iter_pixels
from pydicom.tag import BaseTag, Tag

from hybridreg.io.dicom_frames import FIELDS, Frame
from hybridreg.io.limited_script import run_limited

_UNPACKER = Path(__file__).with_name("dicom_unpacker.py")
_STARTING_S = 60.0  # to start the unpacker on a busy machine; then a second a frame
_BATCH = 256  # frames that lie unpacked on disk at a time
_MAX_FILES = 100_000
_DEFLATED_BYTES = 1 << 22  # of a deflated file, which may unpack to a thousand times as much
_PIXEL_FIELDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "NumberOfFrames",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # the tags of pixels of any kind of number
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".tar.gz", ".tar.bz2", ".tar.xz")
_BY_PYDICOM = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
)
_BY_GDCM = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
)
LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000)
_ENCODINGS = {  # (is implicit, is little endian) -> what a file without meta information is in
    (True, True): uid.ImplicitVRLittleEndian,
    (False, True): uid.ExplicitVRLittleEndian,
    (False, False): uid.ExplicitVRBigEndian,
}

# pydicom checks little before it parses, so a damaged file may fail anywhere.
_STUMBLES = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError,
    RuntimeError, TypeError, ValueError, struct.error, zlib.error, BytesLengthException,
    InvalidDicomError,
)  # fmt: skip


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Suppresses pydicom's warnings: they quote values, which may identify the patient."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def files_in(folder: Path) -> Iterator[Path]:
    """Regular files in a folder and its subfolders, each once; no links out of the folder."""
    root, seen = folder.resolve(), set()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for file in (Path(parent, name) for name in sorted(names)):
            target = file.resolve()
            if target in seen or not target.is_relative_to(root) or not target.is_file():
                continue
            seen.add(target)
            if len(seen) > _MAX_FILES:
                raise ValueError(f"it holds over {_MAX_FILES} files: give the folder of a series")
            yield file


def is_packed_dicom(path: Path) -> bool:
    """Whether its name is that of a compressed DICOM file, such as a.dcm.gz."""
    return ".dcm" in path.suffixes[:-1]


def is_archive(path: Path) -> bool:
    """Whether its name is that of an archive, which may contain DICOM files."""
    return is_packed_dicom(path) or path.name.lower().endswith(_ARCHIVES)


def starts_like_dicom(path: Path) -> bool:
    """Whether it has the DICOM prefix, or starts with an element of group 2 or 8."""
    with path.open("rb") as file:
        start = file.read(132)
    groups = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
    return start[128:] == b"DICM" or (len(start) == 132 and start[:2] in groups)


def frames_in(path: Path, name: str) -> list[Frame]:
    """The frames of one file; none if it belongs to no series (DICOMDIR). ValueError if damaged.

    name: what the file is called in messages; "" where it needs no name.
    """
    where = f"{name}: " if name else ""
    header, has_pixels = _header(path, where)
    with _damaged(where):
        top = _fields(header)
        shared = _group_fields((header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0])
        own = [_group_fields(item) for item in header.get("PerFrameFunctionalGroupsSequence") or ()]
    if not {"SOPClassUID", "Modality", "Rows"} & set(top):
        return []
    frame = Frame(path, name, top, None, _syntax(header), path.stat().st_size, has_pixels)
    if not own or str(len(own)) != (frame.text("NumberOfFrames") or "1"):
        return [frame]
    return [
        replace(frame, index=index, fields=ChainMap(fields, shared, top))
        for index, fields in enumerate(own)
    ]


def stored_pixels(frames: Sequence[Frame]) -> Iterator[tuple[int, np.ndarray]]:
    """Each frame's number in the sequence and its stored pixels, whole numbers of shape (y, x)."""
    order = sorted(range(len(frames)), key=lambda k: frames[k].path)
    packed: list[tuple[int, Dataset]] = []
    for _, group in groupby(order, key=lambda k: frames[k].path):
        numbers = list(group)
        dataset = _pixel_dataset(frames[numbers[0]])
        by_gdcm = dataset.file_meta.TransferSyntaxUID in _BY_GDCM
        for k in numbers:
            index = frames[k].index or 0
            with _damaged(frames[k].where):
                if by_gdcm:
                    packed.append((k, _bare_image(dataset, index)))
                else:
                    pixels = next(iter_pixels(dataset, indices=[index]))
            if not by_gdcm:
                yield k, pixels
            if len(packed) == _BATCH:
                yield from _unpacked(packed, frames)
                packed = []
    if packed:
        yield from _unpacked(packed, frames)


def _pixel_dataset(frame: Frame) -> Dataset:
    """The pixels with the fields that describe them, checked for completeness before decoding."""
    syntax, where = uid.UID(frame.syntax), frame.where
    if syntax not in (*_BY_PYDICOM, *_BY_GDCM):
        raise ValueError(
            f"{where}its pixels are packed as {syntax.name or 'unknown'}, which is not "
            "unpacked here: convert it to an uncompressed file first (gdcmconv --raw, dcmdjpeg)"
        )
    dataset = _dataset(frame.path, where, _PIXEL_FIELDS)
    dataset.file_meta.TransferSyntaxUID = syntax
    if "PixelData" not in dataset:
        raise ValueError(f"{where}it holds no pixels that are whole numbers")
    with _damaged(where):
        packed, found = dataset["PixelData"].is_undefined_length, len(dataset.PixelData)
    if packed != syntax.is_encapsulated:
        raise ValueError(f"{where}it does not say how its pixels are packed: export it again")
    pixels = frame.whole("Rows") * frame.whole("Columns") * frame.whole("NumberOfFrames", 1)
    expected = pixels * frame.whole("BitsAllocated") // 8
    if not syntax.is_encapsulated and found < expected:
        raise ValueError(
            f"{where}it ends too early ({found} of {expected} bytes of pixels): "
            "copy or download it again"
        )
    return dataset


def _bare_image(dataset: Dataset, index: int) -> Dataset:
    """One compressed frame as a separate image, without rescaling, which GDCM would apply."""
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    count = int(dataset.get("NumberOfFrames") or 1)
    packed = get_frame(dataset.PixelData, index, number_of_frames=count, extended_offsets=offsets)
    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.SOPClassUID = uid.SecondaryCaptureImageStorage
    bare.SOPInstanceUID = uid.generate_uid()
    bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        setattr(bare, keyword, dataset[keyword].value)
    bare.PixelRepresentation = dataset.PixelRepresentation
    bare.PixelData = encapsulate([packed])
    return bare


def _unpacked(
    packed: Sequence[tuple[int, Dataset]], frames: Sequence[Frame]
) -> Iterator[tuple[int, np.ndarray]]:
    """Compressed frames by number and their pixels, from a child process that may fail."""
    with tempfile.TemporaryDirectory() as folder:
        for place, (k, bare) in enumerate(packed):
            with _damaged(frames[k].where):
                bare.save_as(Path(folder, f"{place:06}.dcm"), enforce_file_format=True)
        with suppress(subprocess.TimeoutExpired):
            run_limited(_UNPACKER, folder, wait_s=_STARTING_S + len(packed))
        for place, (k, bare) in enumerate(packed):
            path = Path(folder, f"{place:06}.npy")
            if not path.is_file():
                raise ValueError(f"{frames[k].where}its packed pixels are damaged: copy it again")
            sign = "i" if bare.PixelRepresentation else "u"
            pixels = np.load(path, allow_pickle=False)
            yield k, pixels.astype(f"{sign}{bare.BitsAllocated // 8}")


def _header(path: Path, where: str) -> tuple[Dataset, bool]:
    """The fields that are used, and whether pixels follow them."""
    found: list[BaseTag] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            found.append(tag)
        return bool(found)

    _refuse_large_deflated(path, where)
    with path.open("rb") as file, _damaged(where):
        tags = [Tag(keyword) for keyword in FIELDS]
        return read_partial(file, at_pixels, force=True, specific_tags=tags), bool(found)


def _dataset(path: Path, where: str, keywords: Sequence[str]) -> Dataset:
    _refuse_large_deflated(path, where)
    with _damaged(where):
        return pydicom.dcmread(path, force=True, specific_tags=list(keywords))


def _refuse_large_deflated(path: Path, where: str):
    """Deflated files are unpacked as a whole before the first field can be read."""
    with path.open("rb") as file:
        deflated = uid.DeflatedExplicitVRLittleEndian.encode() + b"\0" in file.read(2048)
    if deflated and path.stat().st_size > _DEFLATED_BYTES:
        raise ValueError(f"{where}it is a large deflated file: unpack it with dcmconv first")


@contextmanager
def _damaged(where: str) -> Iterator[None]:
    """Replaces pydicom's errors by our messages: its own may quote the header."""
    try:
        yield
    except _STUMBLES as error:
        raise ValueError(
            f"{where}the file is damaged ({type(error).__name__}): copy or export it again"
        ) from None


def _syntax(dataset: Dataset) -> str:
    known = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    return str(known or _ENCODINGS.get(dataset.original_encoding, ""))


def _fields(dataset: Dataset) -> dict[str, Any]:
    """Keyword -> value of the used fields that are not empty."""
    fields = {}
    for tag in dataset.keys():  # noqa: SIM118 - iterating over the dataset would convert them all
        keyword = keyword_for_tag(tag)
        if keyword not in FIELDS or keyword.endswith("FunctionalGroupsSequence"):
            continue
        try:
            value = dataset[tag].value
        except _STUMBLES:
            value = _raw_numbers(dataset.get_item(tag).value)
        value = _raw_numbers(value) if isinstance(value, bytes) else value
        value = list(value) if isinstance(value, MultiValue) else value
        if value not in (None, "", []):
            fields[keyword] = value
    return fields


def _raw_numbers(value: Any) -> str:
    """The bytes of a numeric field that pydicom cannot convert, as text."""
    text = value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""
    return text if re.fullmatch(r"[-+0-9.,eE\\ ]+", text) else "not readable"


def _group_fields(item: Dataset) -> dict[str, Any]:
    """The fields of one frame: each of its functional groups is a sequence of one item."""
    found: dict[str, Any] = {}
    for element in item:
        if element.VR == "SQ" and len(element.value) == 1:
            found |= _fields(element.value[0])
    return found
