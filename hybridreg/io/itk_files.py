"""ITK's transform files, text (.tfm, .txt), HDF5 (.h5) and MATLAB (.mat), as transforms.

Every encoding gives the same entries, a type and its numbers, and one table specifies what each
type needs. ITK's own readers read truncated text as the identity or as a shorter transform, ignore
surplus numbers, and can end the process if numbers are missing.
"""

from __future__ import annotations

import io
import math
import re
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from hybridreg.geometry import Grid
from hybridreg.io.files import errors_of, lower_ending, name_for_itk
from hybridreg.io.limited_script import MEMORY_BYTES, run_limited
from hybridreg.transforms import (
    AffineTransform,
    BSplineTransform,
    DisplacementField,
    Transform,
    compose,
)


class _Entry(NamedTuple):
    """One transform of a file: ITK's name of its type, and its numbers (None: not in the file)."""

    type: str
    parameters: np.ndarray | None = None
    fixed: np.ndarray | None = None


class _Linear(NamedTuple):
    """How many numbers a linear transform of ITK has (None: there is none in this dimension).

    fixed: how many fixed ones in 2D and 3D, which are the center of rotation and, for Euler3D, may
        have the order of angles besides.
    """

    parameters: tuple[int | None, int | None]
    fixed: tuple[tuple[int, ...], tuple[int, ...]] = ((2,), (3,))


_REMEDY = "convert it to an affine, a B-spline or a displacement field with the tool that wrote it"
_SEVERAL = (
    "it holds several transforms that are not tied into one composite, so that their order is "
    "not known: give each in a file of its own"
)
_DAMAGED = "the file is truncated or damaged: copy or write it again"
_NO_FIXED = ((0,), (0,))
_LINEAR = {
    "IdentityTransform": _Linear((0, 0), _NO_FIXED),
    "TranslationTransform": _Linear((2, 3), _NO_FIXED),
    "Euler2DTransform": _Linear((3, None)),
    "Euler3DTransform": _Linear((None, 6), ((), (3, 4))),
    "VersorTransform": _Linear((None, 3)),
    "VersorRigid3DTransform": _Linear((None, 6)),
    "Similarity2DTransform": _Linear((4, None)),
    "Similarity3DTransform": _Linear((None, 7)),
    "ScaleTransform": _Linear((2, 3)),
    "ScaleVersor3DTransform": _Linear((None, 9)),
    "ScaleSkewVersor3DTransform": _Linear((None, 15)),
    "AffineTransform": _Linear((6, 12)),
    "MatrixOffsetTransformBase": _Linear((6, 12)),  # older ANTs' name of an affine
}
_ON_GRIDS = ("BSplineTransform", "DisplacementFieldTransform")
_COMPOSITE = "CompositeTransform"
_TAGS = {"Parameters": "parameters", "FixedParameters": "fixed"}
_FAR_MM = 1e7
_CHILD = Path(__file__).with_name("hdf5_transforms.py")
_CPU_S = 8  # CPU seconds of the child, plus one for each 8 MB
_WAIT_S = 100


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(22) == b"#Insight Transform Fil"


def is_itk(path: Path) -> bool:
    """Whether it is ITK's, by the ending; a .txt may be elastix's too, with another first line."""
    ending = path.suffix.lower()
    return ending in _ENTRIES and (ending != ".txt" or _is_text(path))


def read_itk(path: Path) -> tuple[int, Transform]:
    """The dimension and the transform in a file of ITK; its ending determines the encoding."""
    with errors_of(path):
        first, *rest = _ENTRIES[path.suffix.lower()](path)
        name, dimension, _ = _typed(first)
        if name != _COMPOSITE:
            if rest:
                raise ValueError(_SEVERAL)
            return dimension, _transform_of(first)
        if not rest:
            raise ValueError("it is a composite without parts: the file is truncated")
        if any(numbers is not None and len(numbers) for numbers in first[1:]):
            raise ValueError(f"its composite has numbers of its own: {_DAMAGED}")
        parts = [_transform_of(entry) for entry in rest]
        if any(_typed(entry)[1] != dimension for entry in rest):
            raise ValueError("it mixes 2D and 3D transforms")
        return dimension, compose(*parts)


def from_itk(itk: sitk.Transform) -> Transform:
    """A SimpleITK transform as a hybridreg transform; both map fixed to moving, in LPS mm."""
    if itk.IsLinear():
        return _affine_of(itk)
    itk = itk.Downcast()
    if isinstance(itk, sitk.CompositeTransform):
        return compose(
            *(from_itk(itk.GetNthTransform(i)) for i in range(itk.GetNumberOfTransforms()))
        )
    dimension = itk.GetDimension()
    order = f"_{itk.GetOrder()}" if isinstance(itk, sitk.BSplineTransform) else ""
    numbers = map(np.array, (itk.GetParameters(), itk.GetFixedParameters()))
    return _transform_of(_Entry(f"{itk.GetName()}_double_{dimension}_{dimension}{order}", *numbers))


# What the numbers of an entry mean


def _typed(entry: _Entry) -> tuple[str, int, int]:
    """Name, dimension and (of a B-spline) order."""
    match = re.fullmatch(r"(\w+?)_(?:double|float)_([23])_\2(?:_(\d))?", entry.type)
    if not match or match[1] not in (_COMPOSITE, *_LINEAR, *_ON_GRIDS):
        name = match[1] if match else entry.type
        raise ValueError(f"transforms of the type {name} cannot be read; {_REMEDY}")
    return match[1], int(match[2]), int(match[3] or 3)


def _transform_of(entry: _Entry) -> Transform:
    name, dimension, order = _typed(entry)
    if name == _COMPOSITE:
        raise ValueError("it holds a composite within a composite, which ITK does not write")
    for tag, field in _TAGS.items():
        numbers = getattr(entry, field)
        if numbers is None:
            raise ValueError(f"the {tag} of {name} are missing: {_DAMAGED}")
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} has numbers that are not finite: {_DAMAGED}")
    if name in _LINEAR:
        return _linear(name, dimension, entry)
    return _on_grid(name, dimension, order, entry)


def _check_count(name: str, what: str, wanted: tuple[int | None, ...], numbers: np.ndarray):
    if len(numbers) not in wanted:
        expected = " or ".join(str(count) for count in wanted if count is not None) or "none there"
        raise ValueError(
            f"the {what} of {name} do not fit it (expected {expected}, found {len(numbers)}): "
            f"{_DAMAGED}"
        )


def _linear(name: str, dimension: int, entry: _Entry) -> AffineTransform:
    counts = _LINEAR[name]
    _check_count(name, "FixedParameters", counts.fixed[dimension - 2], entry.fixed)
    _check_count(name, "Parameters", (counts.parameters[dimension - 2],), entry.parameters)
    if name == "IdentityTransform":
        return AffineTransform(torch.eye(dimension + 1))
    make = getattr(sitk, name, sitk.AffineTransform)
    itk = make() if None in counts.parameters else make(dimension)
    try:
        itk.SetFixedParameters(entry.fixed.tolist())
        itk.SetParameters(entry.parameters.tolist())
    except RuntimeError as error:
        raise ValueError(f"the numbers of {name} cannot be right: {_DAMAGED}") from error
    return _affine_of(itk)


def _affine_of(itk: sitk.Transform) -> AffineTransform:
    """Any linear transform by its values at the origin and one mm along each axis."""
    dimension = itk.GetDimension()
    origin = np.array(itk.TransformPoint([0.0] * dimension))
    if not np.abs(origin).max() < _FAR_MM:
        raise ValueError(f"it moves points by {np.abs(origin).max():.3g} mm: it is damaged")
    axes = [np.array(itk.TransformPoint(unit)) - origin for unit in np.eye(dimension).tolist()]
    if abs(np.linalg.det(axes)) < 1e-12:
        raise ValueError("its matrix is singular: it maps the whole space to a plane or less")
    return AffineTransform.from_parts(np.stack(axes, 1), origin)


def _on_grid(name: str, dimension: int, order: int, entry: _Entry) -> Transform:
    """A B-spline or displacement field; fixed are the grid's size, origin, spacing, direction."""
    _check_count(name, "FixedParameters", (dimension * (dimension + 3),), entry.fixed)
    size, origin, spacing, direction = np.split(entry.fixed, dimension * np.arange(1, 4))
    if (size < 1).any() or (size % 1).any():
        raise ValueError(f"the grid of {name} has the size {size.tolist()}: {_DAMAGED}")
    shape = tuple(int(n) for n in size[::-1])
    _check_count(name, "Parameters", (dimension * math.prod(shape),), entry.parameters)
    grid = Grid(shape, tuple(spacing), tuple(origin), direction.reshape(dimension, dimension))
    if name == "BSplineTransform":
        values = torch.tensor(entry.parameters, dtype=torch.float64)
        return BSplineTransform(values.reshape(dimension, *shape), grid, order)
    vectors = entry.parameters.reshape(*shape, dimension).astype(np.float32)
    return DisplacementField(torch.from_numpy(np.moveaxis(vectors, -1, 0).copy()), grid)


# The encodings


def _text_entries(path: Path) -> list[_Entry]:
    if not _is_text(path):
        raise ValueError("it does not begin with '#Insight Transform File': no ITK transform")
    text = path.read_text(encoding="latin-1")
    if not text.endswith("\n"):
        raise ValueError(
            "the file is truncated, or its last line has no end: copy it again, or where it is "
            "whole add a line break"
        )
    entries: list[_Entry] = []
    for number, line in enumerate(text.split("\n"), 1):
        tag, _, value = (part.strip() for part in line.partition(":"))
        field = _TAGS.get(tag)
        if tag == "Transform":
            entries.append(_Entry(value))
        elif field and entries and getattr(entries[-1], field) is None:
            entries[-1] = entries[-1]._replace(**{field: _numbers(value, number)})
        elif tag and not tag.startswith("#"):
            raise ValueError(f"line {number}: {line.strip()[:40]!r} is not expected here")
    if not entries:
        raise ValueError("there is no transform in it")
    return entries


def _numbers(text: str, line: int) -> np.ndarray:
    if "_" in text:  # which Python takes for a separator of digits
        raise ValueError(f"line {line}: there is a '_' among its numbers")
    try:
        return np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error


def _matlab_entries(path: Path) -> list[_Entry]:
    """ANTs' affine: two MATLAB 4 matrices, one named after its type and one "fixed"."""
    raw, start = path.read_bytes(), 0
    matrices: list[tuple[str, np.ndarray]] = []
    try:
        while start < len(raw):
            kind, rows, columns, _, length = struct.unpack_from("<5i", raw, start)
            if min(rows, columns, length) < 0:
                raise ValueError("a size is negative")
            name = raw[start + 20 : start + 20 + length].rstrip(b"\0").decode("ascii")
            dtype = {0: np.dtype("<f8"), 10: np.dtype("<f4")}[kind]
            values = np.frombuffer(raw, dtype, rows * columns, start + 20 + length)
            start += 20 + length + values.nbytes
            matrices.append((name, values.astype(np.float64)))
        (name, parameters), (last, fixed) = matrices
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError(
            "it is not one affine as ANTs and ITK write it (a FSL .mat depends on both images: "
            "convert it with c3d_affine_tool first)"
        ) from error
    if last != "fixed":
        raise ValueError(f"the center of the transform (fixed) is missing; found {last!r}")
    return [_Entry(name, parameters, fixed)]


def _hdf5_entries(path: Path) -> list[_Entry]:
    with path.open("rb") as file:
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            raise ValueError("it is no HDF5 file, though its name says so")
    size = path.stat().st_size
    cpu_s = _CPU_S + (size >> 23)
    limits = {"wait_s": _WAIT_S + cpu_s, "cpu_s": cpu_s, "memory_bytes": MEMORY_BYTES + 50 * size}
    with lower_ending(path.absolute()) as plain:
        try:
            done = run_limited(_CHILD, name_for_itk(plain), **limits)
        except subprocess.TimeoutExpired:
            raise ValueError(_DAMAGED) from None
    said = done.stderr.decode("utf-8", "replace")
    if "more than one transform" in said:
        raise ValueError(_SEVERAL)
    if unknown := re.search(r'Could not create an instance of "(\w+?)_(?:double|float)', said):
        raise ValueError(f"transforms of the type {unknown[1]} cannot be read; {_REMEDY}")
    if "variable length string" in said:
        raise ValueError(
            "its texts are damaged, or in UTF-8 as h5py writes them, which ITK cannot read: write "
            "them with h5py.string_dtype('ascii')"
        )
    try:
        with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
            return [
                _Entry(str(name), arrays[f"parameters_{i}"], arrays[f"fixed_{i}"])
                for i, name in enumerate(arrays["types"])
            ]
    except (EOFError, ValueError, KeyError, zipfile.BadZipFile):
        raise ValueError(_DAMAGED) from None


_ENTRIES: dict[str, Callable[[Path], list[_Entry]]] = {
    ".tfm": _text_entries,
    ".txt": _text_entries,
    ".mat": _matlab_entries,
    ".h5": _hdf5_entries,
    ".hdf5": _hdf5_entries,
}
