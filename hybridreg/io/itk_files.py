"""ITK's transform files, checked before ITK reads them.

Its readers take truncated text for a shorter transform, wrong counts of numbers can end the process,
and of several transforms only the first is taken.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class _Entry(NamedTuple):
    """One transform of a file: ITK's name of its type, and its numbers."""

    type: str
    parameters: np.ndarray = np.zeros(0)
    fixed: np.ndarray = np.zeros(0)


KNOWN = "convert it to an affine, a B-spline or a displacement field with the tool that wrote it"
SEVERAL = (
    "it holds several transforms that are not tied into one composite, so that their order is "
    "not known: give each in a file of its own"
)
_DAMAGED = "the file is damaged: copy or download it again"
_COUNTS = {  # numbers of parameters of ITK's linear transforms in 2D and 3D
    "TranslationTransform": (2, 3),
    "Euler2DTransform": (3, 0),
    "Euler3DTransform": (0, 6),
    "VersorTransform": (0, 3),
    "VersorRigid3DTransform": (0, 6),
    "Similarity2DTransform": (4, 0),
    "Similarity3DTransform": (0, 7),
    "ScaleTransform": (2, 3),
    "ScaleVersor3DTransform": (0, 9),
    "ScaleSkewVersor3DTransform": (0, 15),
    "AffineTransform": (6, 12),
    "MatrixOffsetTransformBase": (6, 12),
}
_TAGS = {"Parameters": "parameters", "FixedParameters": "fixed"}
_ON_GRIDS = ("BSplineTransform", "DisplacementFieldTransform")


def check_entries(entries: Sequence[_Entry]):
    composite = entries[0].type.startswith("CompositeTransform")
    if len(entries) > 1 and not composite:
        raise ValueError(SEVERAL)
    if composite and len(entries) == 1:
        raise ValueError("it is a composite without parts: the file is truncated")
    if len({_checked_dimension(entry) for entry in entries}) > 1:
        raise ValueError("it mixes 2D and 3D transforms")


def _checked_dimension(entry: _Entry) -> int:
    """The dimension of a transform whose numbers fit its type."""
    match = re.fullmatch(r"(\w+?)_(?:double|float)_([23])_\2(?:_\d)?", entry.type)
    name, dimension = (match[1], int(match[2])) if match else (entry.type, 0)
    fixed = len(entry.fixed)
    if name == "CompositeTransform":
        wanted, fits = 0, fixed == 0
    elif name in _ON_GRIDS:
        wanted = dimension * math.prod(int(n) for n in entry.fixed[:dimension])
        fits = fixed == dimension * (dimension + 3)
    elif name in _COUNTS:
        wanted = _COUNTS[name][dimension - 2]
        # Fixed is the centre; Euler3D also tells its order of angles.
        fits = wanted > 0 and fixed in (0, dimension, 4)
    else:
        raise ValueError(f"transforms of the type {name} cannot be read; {KNOWN}")
    if len(entry.parameters) != wanted or not fits:
        raise ValueError(
            f"the numbers of {name} are not complete: the file is truncated or damaged"
        )
    if not (np.isfinite(entry.parameters).all() and np.isfinite(entry.fixed).all()):
        raise ValueError(f"{name} has numbers that are not finite")
    return dimension


def is_itk_text(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(22) == b"#Insight Transform Fil"


def text_entries(path: Path) -> list[_Entry]:
    if not is_itk_text(path):
        raise ValueError("it does not begin with '#Insight Transform File': no ITK transform")
    entries: list[_Entry] = []
    for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), 1):
        tag, _, value = line.partition(":")
        if tag == "Transform":
            entries.append(_Entry(value.strip()))
        elif tag in _TAGS and entries:
            try:
                numbers = np.array(value.split(), dtype=np.float64)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            entries[-1] = entries[-1]._replace(**{_TAGS[tag]: numbers})
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"line {number}: what is {line[:40]!r}?")
    if not entries:
        raise ValueError("there is no transform in it")
    return entries


def matlab_entries(path: Path) -> list[_Entry]:
    """ANTs' affine: two MATLAB 4 matrices, one named after its type and one "fixed"."""
    raw, start = path.read_bytes(), 0
    matrices: list[tuple[str, np.ndarray]] = []
    try:
        while start < len(raw):
            kind, rows, columns, _, length = struct.unpack_from("<5i", raw, start)
            name = raw[start + 20 : start + 20 + length].rstrip(b"\0").decode("ascii")
            dtype = {0: np.dtype("<f8"), 10: np.dtype("<f4")}[kind]
            values = np.frombuffer(raw, dtype, rows * columns, start + 20 + length)
            start += 20 + length + values.nbytes
            matrices.append((name, values))
        (name, parameters), (last, fixed) = matrices
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError(
            "it is not one affine as ANTs and ITK write it (a FSL .mat depends on both images: "
            "convert it with c3d_affine_tool first)"
        ) from error
    if last != "fixed":
        raise ValueError(f"the centre of the transform (fixed) is missing; found {last!r}")
    return [_Entry(name, parameters, fixed)]


def check_hdf5(path: Path):
    """Refuses what HDF5 would answer with pages on the error stream: other and cut-off files."""
    with path.open("rb") as file:
        head = file.read(52)
    if not head.startswith(b"\x89HDF\r\n\x1a\n"):
        raise ValueError("it is no HDF5 file, though its name says so")
    end = {0: 40, 1: 44}.get(head[8], 28)  # where each version of the format notes its length
    if path.stat().st_size < int.from_bytes(head[end : end + 8], "little"):
        raise ValueError("the file is truncated: copy or download it again")
    _check_texts(path.read_bytes())


def _check_texts(raw: bytes):
    """Refuses damage in the heaps of texts, on which HDF5 (1.12) waits forever or crashes.

    A heap is a list of numbered texts with their lengths; what uses one notes its length, the
    heap's address, and its number.
    """
    for heap in re.finditer(rb"GCOL\x01\0\0\0", raw):
        start = heap.start()
        lengths = _heap_lengths(raw, start)
        for use in re.finditer(re.escape(struct.pack("<Q", start)), raw):
            before, after = raw[use.start() - 4 : use.start()], raw[use.end() : use.end() + 4]
            if before in (bytes(4), b"\2\1\1\1"):
                continue  # the same number, but part of a size or of a count of parameters
            if lengths.get(int.from_bytes(after, "little")) != int.from_bytes(before, "little"):
                raise ValueError(_DAMAGED)


def _heap_lengths(raw: bytes, start: int) -> dict[int, int]:
    """The length of each numbered text; what is left, free, has the number 0."""
    lengths: dict[int, int] = {}
    where, end = start + 16, start + int.from_bytes(raw[start + 8 : start + 16], "little")
    while where + 16 <= min(end, len(raw)):
        number, length = struct.unpack_from("<H6xQ", raw, where)
        where += length if number == 0 else 16 + (length + 7) // 8 * 8
        if number == 0:
            break
        lengths[number] = length
    if where != end:
        raise ValueError(_DAMAGED)
    return lengths
