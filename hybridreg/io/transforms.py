"""Files of transforms: ITK's own, elastix's, and displacement fields as images."""

from __future__ import annotations

import errno
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
from hybridreg.io.files import errors_of, lower_ending, name_for_itk, reserve, whole_file
from hybridreg.io.formats import WRITTEN_VOLUMES
from hybridreg.io.images import from_sitk, read_image, to_sitk, write_image
from hybridreg.io.itk_files import (
    KNOWN,
    SEVERAL,
    check_entries,
    check_hdf5,
    is_itk_text,
    matlab_entries,
    text_entries,
)
from hybridreg.transforms import (
    AffineTransform,
    BSplineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
    compose,
)

_FIELDS = WRITTEN_VOLUMES
_ITK = (".h5", ".hdf5", ".tfm", ".txt")
_FAR_MM = 1e7
_READABLE = (*_ITK, ".mat", ".toml", *_FIELDS)


def read_transform(path: str | Path) -> Transform:
    """The transform in a file, fixed LPS mm -> moving LPS mm.

    Read are ITK's .h5, .tfm and .txt, ANTs' affine .mat, elastix's TransformParameters (.txt,
    .toml) with all they start from, and displacement fields as .nii[.gz], .mha and .nrrd.
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
    if kind == ".toml" or (kind == ".txt" and not is_itk_text(path)):
        return read_transform_parameters(path)
    with errors_of(path):
        return _read_itk(path, kind)


def write_transform(path: str | Path, transform: Transform):
    """Writes a transform so that ITK, ANTs, elastix and 3D Slicer map points alike.

    .h5 (fast, compact), .tfm and .txt hold affines, B-splines, displacement fields and what is
    composed of them, geodesics as their fields; .nii[.gz], .mha and .nrrd hold one displacement field in LPS mm (NIfTI with
    the vector intent, 1007). The file is whole or absent.
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
            plain = partial.with_suffix(kind)  # ITK (5.4) knows no ending in capitals
            reserve(plain, _most_bytes(total))
            try:
                sitk.WriteTransform(itk, str(plain))
            except RuntimeError as error:
                raise OSError(errno.EIO, "it could not be written whole") from error
            plain.rename(partial)


def _most_bytes(transform: Transform) -> int:
    """What a file of it may take: on a full disk ITK (5.4) cuts text short without a word, and its
    HDF5 crashes, at the latest when the process ends."""
    match transform:
        case CompositeTransform(parts=parts):
            return sum(map(_most_bytes, parts))
        case BSplineTransform(coefficients=values) | DisplacementField(vectors=values):
            count = values.numel()
        case _:
            count = 0
    return 20_000 + 26 * count  # 26: a number as text


def describe(path: str | Path) -> dict[str, Any]:
    """What a transform file holds, ready for JSON; its parts stand in the order they act in."""
    total = read_transform(path)
    parts = total.parts if isinstance(total, CompositeTransform) else (total,)
    described = [_described(part) for part in reversed(parts)]
    dimension = {part.pop("dimension") for part in described}.pop()
    parameters = sum(part["parameters"] for part in described)
    return {"dimension": dimension, "parameters": parameters, "parts": described}


# ITK's transforms


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


def _read_itk(path: Path, kind: str) -> Transform:
    if kind in (".tfm", ".txt"):
        check_entries(text_entries(path))
    elif kind == ".mat":
        check_entries(matlab_entries(path))
    else:
        check_hdf5(path)
    # SimpleITK gives the first of several transforms and tells of the others in a warning only.
    listener = _Warnings()
    before = listener.SetAsGlobalITKLogger()
    try:
        with lower_ending(path) as plain:
            itk = sitk.ReadTransform(name_for_itk(plain))
    except (
        RuntimeError,
        KeyError,
    ) as error:  # KeyError: a type that SimpleITK 2.5 has no class for
        raise ValueError("it is damaged, or holds a type of transform that ITK lacks") from error
    finally:
        before.SetAsGlobalITKLogger()
    if any("more than one transform" in warning for warning in listener.texts):
        raise ValueError(SEVERAL)
    return _from_itk(itk)


class _Warnings(sitk.LoggerBase):
    """Keeps what ITK would print."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def DisplayWarningText(self, text: str):
        self.texts.append(text)

    DisplayText = DisplayErrorText = DisplayDebugText = DisplayWarningText
    DisplayGenericOutputText = DisplayWarningText


def _from_itk(itk: sitk.Transform) -> Transform:
    if itk.IsLinear():
        return _affine_of(itk)
    itk = itk.Downcast()
    match itk:
        case sitk.CompositeTransform():
            parts = [itk.GetNthTransform(i) for i in range(itk.GetNumberOfTransforms())]
            return compose(*map(_from_itk, parts))
        case sitk.BSplineTransform():
            grid = from_sitk(itk.GetCoefficientImages()[0]).grid
            values = torch.tensor(itk.GetParameters(), dtype=torch.float64)
            return BSplineTransform(values.reshape(-1, *grid.shape), grid, itk.GetOrder())
        case sitk.DisplacementFieldTransform():
            field = from_sitk(itk.GetDisplacementField())
            return DisplacementField(field.data, field.grid)
    raise ValueError(f"transforms of the type {itk.GetName()} cannot be read; {KNOWN}")


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
    with errors_of(path):
        intent = 1007
        if ".nii" in _extension(path):
            intent, axes = _nifti_intent(path)
            if axes == 4:  # the components lie where NIfTI has time
                vectors = torch.cat([read_image(path, frame=i).data for i in range(3)])
        elif path.suffix.lower() == ".nrrd":
            _check_space(path)
        if len(vectors) != grid.dimension:
            raise ValueError(
                f"a displacement field has as many components as dimensions; found {len(vectors)} "
                f"component(s) in {grid.dimension}D: is this an image?"
            )
        if intent == 1006:  # on disk in RAS
            vectors = vectors * torch.tensor([-1.0, -1.0, 1.0]).reshape(3, 1, 1, 1)
        return DisplacementField(vectors, grid)


_ABSOLUTE = {  # names under which others keep positions, not displacements, with the intent 1007
    "NREG_TRANS": "NiftyReg's transformation; convert it with reg_transform -disp",
    "Mapping": "SPM's deformation; convert it to a displacement field in mm",
}


def _nifti_intent(path: Path) -> tuple[int, int]:
    """The intent of a NIfTI displacement field and its number of axes; others are refused."""
    try:
        header = nibabel.load(path).header
    except (HeaderDataError, ImageFileError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    name = header["intent_name"].item().decode("latin-1")
    if name in _ABSOLUTE:
        raise ValueError(f"this is {_ABSOLUTE[name]}")
    intent, axes, components = (int(n) for n in (header["intent_code"], *header["dim"][[0, 4]]))
    if (axes == 5 and intent in (1006, 1007)) or (axes == 4 and components == 3 and intent == 1007):
        return intent, axes
    raise ValueError(
        "a displacement field tells itself in its header by the intent 1007 (vector, LPS mm) or "
        f"1006 (displacement, RAS mm) with 5 axes; found intent {intent} with {axes} axes: if it "
        "is one, convert it with the tool that wrote it"
    )


def _check_space(path: Path):
    """Refuses a NRRD file in another space than LPS: which axes its vectors follow is not told."""
    with path.open("rb") as file:
        header = file.read(1 << 16).partition(b"\n\n")[0].decode("latin-1")
    space = re.search(r"^space\s*:\s*(\S+)", header, re.MULTILINE | re.IGNORECASE)
    if space and space[1].lower() not in ("left-posterior-superior", "lps"):
        raise ValueError(f"its space is {space[1]}; fields are read in left-posterior-superior mm")


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
