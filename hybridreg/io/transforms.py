"""Files of transforms: ITK's own, elastix's, and displacement fields as images."""

from __future__ import annotations

import errno
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from hybridreg.decomposition import decompose
from hybridreg.geodesics import as_fields
from hybridreg.images import Image
from hybridreg.io.elastix_files import read_transform_parameters
from hybridreg.io.files import errors_of, name_for_itk, reserve, whole_file
from hybridreg.io.formats import WRITTEN_VOLUMES
from hybridreg.io.images import read_image, to_sitk, write_image
from hybridreg.io.itk_files import is_itk, read_itk
from hybridreg.transforms import (
    AffineTransform,
    BSplineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    parts_of,
)

_FIELDS = WRITTEN_VOLUMES
_ITK = (".h5", ".hdf5", ".tfm", ".txt")
_READABLE = (*_ITK, ".mat", ".toml", *_FIELDS)


def read_transform(path: str | Path) -> Transform:
    """The transform in a file, fixed LPS mm -> moving LPS mm.

    Supported are ITK's .h5, .tfm and .txt, ANTs' affine .mat, elastix's TransformParameters (.txt,
    .toml) with their initial transforms, and displacement fields as .nii[.gz], .mha and .nrrd.
    Fields are float32 and interpolated linearly.
    """
    path = Path(path)
    kind = _extension(path)
    with errors_of(path):
        if kind not in _READABLE:
            raise ValueError(f"transforms are read from {', '.join(_READABLE)} files")
        if not path.is_file():
            raise ValueError("there is no such file")
        if path.stat().st_size == 0:
            raise ValueError("the file is empty")
    if kind in _FIELDS:
        return _read_field(path)
    return read_itk(path)[1] if is_itk(path) else read_transform_parameters(path)


def write_transform(path: str | Path, transform: Transform):
    """Writes a transform for ITK, ANTs, elastix and 3D Slicer.

    .h5 (fast, compact), .tfm and .txt contain affines, B-splines, displacement fields and their
    compositions, and geodesics as fields; .nii[.gz], .mha and .nrrd contain one displacement field
    in LPS mm (NIfTI with the vector intent, 1007). The file is complete or absent.
    """
    path = Path(path)
    kind, total = _extension(path), as_fields(transform)
    if kind in _FIELDS:
        with errors_of(path):
            image = _field_image(total, kind)
        write_image(path, image)
        return
    with errors_of(path):
        if kind not in _ITK:
            raise ValueError(f"transforms are written as {', '.join((*_ITK, *_FIELDS))}")
        itk = _to_itk(total)
        name_for_itk(path)
        with whole_file(path) as partial:
            plain = partial.with_suffix(kind)  # ITK (5.4) supports no endings in capitals
            reserve(plain, _max_bytes(total))
            try:
                sitk.WriteTransform(itk, str(plain))
            except RuntimeError as error:
                raise OSError(errno.EIO, "it could not be written whole") from error
            plain.rename(partial)


def _max_bytes(transform: Transform) -> int:
    """An upper bound of its file size: on a full disk ITK (5.4) silently truncates text, and its
    HDF5 crashes, at the latest when the process ends."""
    match transform:
        case CompositeTransform(parts=parts):
            return sum(map(_max_bytes, parts))
        case BSplineTransform(coefficients=values) | DisplacementField(vectors=values):
            count = values.numel()
        case _:
            count = 0
    return 20_000 + 26 * count  # 26: a number as text


def describe(path: str | Path) -> dict[str, Any]:
    """A description of a transform file, ready for JSON; its parts are in order of application."""
    parts = parts_of(read_transform(path))
    described = [_described(part) for part in reversed(parts)]
    dimension = {part.pop("dimension") for part in described}.pop()
    parameters = sum(part["parameters"] for part in described)
    return {"dimension": dimension, "parameters": parameters, "parts": described}


# As ITK's transforms


def _to_itk(transform: Transform) -> sitk.Transform:
    match transform:
        case AffineTransform():
            affine = sitk.AffineTransform(len(transform.translation))
            affine.SetMatrix(transform.linear.flatten().tolist())
            affine.SetTranslation(transform.translation.tolist())
            return affine
        case BSplineTransform(grid=grid):
            bspline = sitk.BSplineTransform(grid.dimension, transform.order)
            axes = np.ravel(grid.direction).tolist()
            bspline.SetFixedParameters([*grid.size, *grid.origin, *grid.spacing, *axes])
            bspline.SetParameters(transform.coefficients.flatten().tolist())
            return bspline
        case DisplacementField(vectors=vectors, grid=grid):
            image = sitk.Cast(to_sitk(Image(vectors, grid)), sitk.sitkVectorFloat64)
            return sitk.DisplacementFieldTransform(image)
        case CompositeTransform(parts=parts) if parts:
            return sitk.CompositeTransform([_to_itk(part) for part in parts])
        case CompositeTransform():
            raise ValueError(
                "an identity that is composed of nothing has no dimension to write: "
                "write AffineTransform(torch.eye(4)), or torch.eye(3) in 2D"
            )
    raise ValueError(
        f"a {type(transform).__name__} has no place in a file: make a displacement field of it "
        "first (an inverse by hybridreg.warping.invert, others by DisplacementField.sampled)"
    )


# Displacement fields as images


def _field_image(transform: Transform, kind: str) -> Image:
    match transform:
        case DisplacementField(vectors=vectors, grid=grid):
            if kind.startswith(".nii") and grid.dimension == 3 and grid.shape[0] == 1:
                raise ValueError("NIfTI takes a 3D field of one slice for a 2D one: write .mha")
            return Image(vectors, grid)
    raise ValueError(
        f"an image file holds one displacement field, not a {type(transform).__name__}: write "
        ".h5, or make a field of it by DisplacementField.sampled(transform, grid)"
    )


def _read_field(path: Path) -> DisplacementField:
    image = read_image(path, frame=0)
    vectors, grid = image.data, image.grid
    is_ras, axes = False, 0
    with errors_of(path):
        if ".nii" in _extension(path):
            is_ras, axes = _checked_nifti(path)
        else:
            _check_header(_header(path))
        if axes == 4:  # the components lie where NIfTI has time
            vectors = torch.cat([read_image(path, frame=i).data for i in range(3)])
        if len(vectors) != grid.dimension:
            raise ValueError(
                f"a displacement field has as many components as dimensions; found {len(vectors)} "
                f"component(s) in {grid.dimension}D: is this an image?"
            )
        if is_ras:
            vectors = vectors.clone()
            vectors[:2] *= -1
        return DisplacementField(vectors, grid)


_NIFTYREG_DISPLACEMENT = 1  # the field's kind, in intent_p1; in RAS mm


def _checked_nifti(path: Path) -> tuple[bool, int]:
    """Whether the displacements of a NIfTI file are in RAS, and its number of axes."""
    try:
        header = nibabel.load(path).header
    except (HeaderDataError, ImageFileError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    if int(header["xyzt_units"]) & 7 in (1, 3):
        raise ValueError("its lengths are in meters or micrometers: convert grid and vectors to mm")
    intent, axes, components = (int(n) for n in (header["intent_code"], *header["dim"][[0, 4]]))
    is_vector = intent == 1007 and (axes == 5 or (axes, components) == (4, 3))
    name = header["intent_name"].item().decode("latin-1")
    if name == "NREG_TRANS" and not (is_vector and header["intent_p1"] == _NIFTYREG_DISPLACEMENT):
        raise ValueError("this is NiftyReg's transformation; convert it with reg_transform -disp")
    if name == "Mapping":
        raise ValueError("this is SPM's deformation; convert it to a displacement field in mm")
    if is_vector or (axes, intent) == (5, 1006):
        return intent == 1006 or name == "NREG_TRANS", axes
    raise ValueError(
        "a displacement field tells itself in its header by the intent 1007 (vector, LPS mm) or "
        f"1006 (displacement, RAS mm) with 5 axes; found intent {intent} with {axes} axes: if it "
        "is one, convert it with the tool that wrote it"
    )


def _header(path: Path) -> dict[str, str]:
    """The text before the voxels of a NRRD or MetaImage file: keys in lower case -> values."""
    with path.open("rb") as file:
        text = re.split(rb"\n\r?\n|\nElementDataFile", file.read(1 << 16))[0].decode("latin-1")
    lines = [re.split(r"\s*[:=]+\s*", line.strip(), maxsplit=1) for line in text.splitlines()]
    return {line[0].lower(): line[1] for line in lines if len(line) == 2}


_VECTOR_KINDS = {"domain", "space", "vector", "covariant-vector", "2-vector", "3-vector", "list"}
_VECTOR_KINDS |= {"none", "???"}  # the tool that wrote it did not say


def _check_header(fields: dict[str, str]):
    """Refuses what maps the other way, in another frame or unit than LPS mm,
    and what is no field.
    """
    direction = fields.get("displacement field type", "resampling").lower()
    if direction != "resampling":  # 3D Slicer's words; ITK's fields do not name it
        raise ValueError(
            f'its "displacement field type" is {direction}, so it maps moving to fixed points: in '
            "3D Slicer, convert it (Transforms, Convert) to a displacement field on the fixed image"
        )
    space = fields.get("space", "LPS")
    if space.lower() not in ("left-posterior-superior", "lps"):
        raise ValueError(f"its space is {space}; fields are read in left-posterior-superior mm")
    frame = fields.get("measurement frame", "")
    numbers = [float(n) for n in re.findall(r"[-+.\d][-+.\deE]*", frame)]
    if frame and not np.array_equal(numbers, np.eye(math.isqrt(len(numbers))).ravel()):
        raise ValueError(f"its vectors are in a frame of their own, {frame}: turn them to LPS mm")
    if fields.get("distanceunits", "mm").lower() != "mm":
        raise ValueError(f"its lengths are in {fields['distanceunits']}: convert it to mm")
    others = set(fields.get("kinds", "").lower().split()) - _VECTOR_KINDS
    if others:
        raise ValueError(f"its values are of the kind {', '.join(others)}, not displacements")
    if int(fields.get("ndims", 3)) > 3 or int(fields.get("dimension", 4)) > 4:
        raise ValueError("it holds more than one field (or is no field): give one of them")


# In words


def _described(part: Transform) -> dict[str, Any]:
    if isinstance(part, AffineTransform):
        parts = decompose(part)  # about the origin of the patient's space
        rigid = not parts.reflects and max(abs(scale - 1) for scale in parts.scales) < 1e-6
        dimension = len(parts.scales)
        return {
            "kind": "rigid" if rigid else "affine",
            "dimension": dimension,
            "parameters": dimension * (dimension + 1),
            **asdict(parts),
        }
    bspline = isinstance(part, BSplineTransform)
    values = part.coefficients if bspline else part.vectors
    largest = "largest_coefficient_mm" if bspline else "largest_displacement_mm"
    return {
        "kind": f"B-spline of order {part.order}" if bspline else "displacement field",
        "dimension": part.grid.dimension,
        "parameters": values.numel(),
        "size": list(part.grid.size),
        "spacing_mm": list(part.grid.spacing),
        largest: values.norm(dim=0).max().item(),
    }


def _extension(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix
