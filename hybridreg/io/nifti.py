"""NIfTI and FreeSurfer volumes: their voxels and their geometry.

A NIfTI header may give the geometry twice, by qform and by sform. The choice follows ITK, so
that transforms written here fit in ITK's tools (elastix, ANTs, Slicer): the sform if its code is
1 (scanner), if it equals the qform up to rounding, or if no qform is coded; otherwise the
qform. If one of them is invalid (sheared, singular, another voxel size than pixdim), the other
is used. Irregularities become notes. nibabel reads the header
fields; the bytes are counted here, since neither nibabel nor ITK detects every damaged file.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import SpatialImage

from hybridreg.geometry import Grid
from hybridreg.io.formats import ending_of

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNIT_IN_MM = {1: 1000.0, 3: 0.001}  # meter, micron; 2 is mm, and 0 (unknown) is taken as mm
_MGH_START = 284  # bytes of header before the voxels
_ROUNDING = 1e-4  # of cosines and mm, as ITK: beyond it an sform is sheared, or not its qform
_SAME_SIZE = 1e-3  # relative: headers round voxel sizes to three digits
# Near half turns a quaternion in float32 is up to 3e-4 rad off, 0.07 voxel at the corner of 256^3.
_SAME_PLACE_VOXELS = 0.1


@dataclass(frozen=True, eq=False)
class Contents:
    """The contents of an image file, before it is read as intensities or as labels.

    values: the stored values, shape (frames, C, *grid.shape); the rescaled values are
        slope * value + intercept.
    placed: False if the file does not define the position in the patient.
    notes: irregularities and how they were resolved.
    """

    values: np.ndarray
    grid: Grid
    slope: float = 1.0
    intercept: float = 0.0
    placed: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        check_number_type(self.values.dtype)


def check_number_type(dtype: np.dtype):
    """Raises ValueError for voxels that are not real numbers of at most 64 bits."""
    if dtype.kind == "c":
        raise ValueError(
            "its voxels are complex numbers: give the magnitude (or the phase) as an "
            "image of its own"
        )
    if dtype.kind not in "biuf" or not 1 <= dtype.itemsize <= 8:
        what = "RGB colors" if dtype.names else f"of a type that cannot be used here ({dtype})"
        raise ValueError(f"its voxels are {what}: convert it to one number per voxel")


def read_nifti(path: Path) -> Contents:
    """A NIfTI-1 or NIfTI-2 file (plain or gzip), or a pair .hdr/.img given by either name.

    5D files of one time point hold channels along their fifth axis, as ITK writes vector images.
    """
    stem, ending = path.name[: -len(ending_of(path))], ending_of(path)
    paired = ending.startswith((".hdr", ".img"))
    raw = _bytes(_half(path, stem, ".hdr") if paired else path)
    header = _nifti_header(raw, paired)
    shape, channels, frames = _nifti_shape(header)
    if len(shape) == 2:
        _complete_third_axis(header)
    dtype = _nifti_dtype(header)
    start = 0.0 if paired else 352.0
    offset = float(header["vox_offset"])
    if not 0 <= offset <= 1 << 40:
        raise ValueError(f"its header puts the voxels at byte {offset:g}: the header is damaged")
    voxels = _bytes(_half(path, stem, ".img")) if paired else raw
    values = _voxels(voxels, dtype, (channels, frames, *shape), int(max(start, offset)))
    grid, placed, notes = _nifti_grid(header, shape)
    slope, intercept = _nifti_scaling(header)
    return Contents(values.swapaxes(0, 1), grid, slope, intercept, placed, notes)


def nibabel_contents(image: SpatialImage) -> Contents:
    """The contents of a nibabel image, with its header read like that of a file."""
    if isinstance(image, nibabel.Nifti1Pair):
        copy = type(image)(image.dataobj, image.affine, image.header)
    elif isinstance(image, nibabel.MGHImage):
        copy = nibabel.Nifti1Image(image.dataobj, image.affine, dtype=image.get_data_dtype())
    else:
        raise ValueError(
            f"nibabel's {type(image).__name__} is not taken: make it a nibabel.Nifti1Image, with "
            "an affine that is known to be right"
        )
    copy.update_header()
    shape, channels, frames = _nifti_shape(copy.header)
    if len(shape) == 2:
        _complete_third_axis(copy.header)
    values = np.asanyarray(image.dataobj).T.reshape(channels, frames, *shape)
    grid, placed, notes = _nifti_grid(copy.header, shape)
    return Contents(values.swapaxes(0, 1), grid, placed=placed, notes=notes)


def nifti_bytes(values: np.ndarray, grid: Grid) -> bytes:
    """A NIfTI-1 file of values (C, *grid.shape), in their own number type.

    qform and sform are equal, with code 1. Channels are along the fifth axis, as in ITK.
    """
    size = grid.size if len(values) == 1 else (*grid.size, 1, 1)[:3] + (1, len(values))
    if max(size) > 32767:
        raise ValueError(
            f"NIfTI-1 holds up to 32767 voxels along an axis, not {max(size)}: use .mha"
        )
    axes = list(range(grid.dimension))
    affine = np.eye(4)
    matrix = grid.voxel_to_physical().numpy()
    affine[np.ix_(axes, axes)] = matrix[:-1, :-1]
    affine[axes, 3] = matrix[:-1, -1]
    header = nibabel.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(size)
    header.set_qform(_RAS_TO_LPS @ affine, 1)
    header.set_sform(_RAS_TO_LPS @ affine, 1)
    header.set_xyzt_units("mm")
    if len(values) > 1:
        header.set_intent("vector")
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4) + values.tobytes()


def read_mgh(path: Path) -> Contents:
    """A FreeSurfer .mgh or .mgz volume; its RAS becomes LPS here."""
    raw = _bytes(path)
    if len(raw) < _MGH_START or int.from_bytes(raw[:4], "big") != 1:
        raise ValueError("this is not a FreeSurfer volume, whatever its name: was it renamed?")
    header = MGHHeader(raw[: MGHHeader.template_dtype.itemsize], check=False)
    *size, frames = (int(n) for n in header["dims"])
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        raise ValueError(f"its number type {int(header['type'])} is unknown: convert it") from None
    values = _voxels(raw, dtype, (frames, 1, *size[::-1]), _MGH_START)
    affine = _RAS_TO_LPS @ header.get_affine()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(spacing).all() and spacing.all()):
        raise ValueError(f"its header gives voxels of {_by(spacing)} mm: the header is damaged")
    grid = _grid(tuple(size[::-1]), spacing, affine[:3, 3], affine[:3, :3])
    placed = int.from_bytes(raw[28:30], "big", signed=True) > 0  # goodRASFlag
    notes = () if placed else ("orientation and position unknown; FreeSurfer's default taken",)
    return Contents(values, grid, placed=placed, notes=notes)


def _half(path: Path, stem: str, ending: str) -> Path:
    """The header (.hdr) or the voxels (.img) of a pair, compressed or not, in any case."""
    if ending_of(path).startswith(ending):
        return path
    for other in (ending, f"{ending}.gz"):
        for name in (stem + other, stem + other.upper()):
            if path.with_name(name).is_file():
                return path.with_name(name)
    raise ValueError(f"its other half {stem}{ending} is missing: keep both files together")


def _bytes(path: Path) -> bytes:
    """The whole file, decompressed if its content (not its name) is gzip."""
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError:
        raise ValueError("it ends too early: copy or download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"its gzip data are damaged ({error}): copy it again") from None


def _voxels(raw: bytes, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
    """The numbers from ``offset`` on; array order, so the file's fastest axis is the last."""
    check_number_type(dtype)
    if min(shape) < 1:
        raise ValueError(f"its header gives an axis of {min(shape)} voxels: the header is damaged")
    count = math.prod(shape)
    found, expected = len(raw) - offset, count * dtype.itemsize
    if found < expected:
        raise ValueError(
            f"it ends too early ({max(found, 0)} of {expected} bytes of voxels): "
            "copy or download it again"
        )
    return np.frombuffer(raw, dtype, count, offset).reshape(shape)


def _nifti_header(raw: bytes, paired: bool) -> nibabel.Nifti1Header:
    """The header as stored in the file: nibabel's own checks would silently repair it."""
    for kind, length in ((nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540)):
        for order, sign in (("little", "<"), ("big", ">")):
            if int.from_bytes(raw[:4], order) == length and len(raw) >= length:
                header = kind(raw[:length], endianness=sign, check=False)
                _check_magic(header["magic"].item(), paired)
                return header
    raise ValueError("this is not a NIfTI file, whatever its name: was it renamed or cut short?")


def _check_magic(magic: bytes, paired: bool):
    if magic[:2] not in (b"n+", b"ni"):
        raise ValueError(
            "this is an Analyze 7.5 file, which does not tell left from right: "
            "convert it to NIfTI with the tool that wrote it"
        )
    if paired != (magic[:2] == b"ni"):
        wanted = "one .nii file" if paired else "a pair .hdr and .img"
        raise ValueError(f"its header says that it is {wanted}: give it its right name")


def _nifti_shape(header: nibabel.Nifti1Header) -> tuple[tuple[int, ...], int, int]:
    """Shape in array order, number of channels, number of frames."""
    count, *size = (int(n) for n in header["dim"])
    if not 1 <= count <= 7 or min(size[:count]) < 1:
        raise ValueError(f"its header gives the size {size}: the header is damaged")
    size = [*size[:count], *[1] * (7 - count)]
    frames, channels, *rest = size[3:]
    if max(rest) > 1 or (channels > 1 and frames > 1):
        raise ValueError(
            f"it has {count} axes ({'x'.join(map(str, size[:count]))}): "
            "give an image of 2 or 3 axes, with time or channels as the only further one"
        )
    # ITK writes the channels of a 2D image as x, y, 1, 1, channels.
    flat = count <= 2 or (channels > 1 and size[2] == 1)
    return tuple(size[: 2 if flat else 3])[::-1], channels, frames


def _nifti_dtype(header: nibabel.Nifti1Header) -> np.dtype:
    try:
        return header.get_data_dtype()
    except KeyError:
        code = int(header["datatype"])
        raise ValueError(f"its number type {code} is unknown: the header is damaged") from None


def _nifti_scaling(header: nibabel.Nifti1Header) -> tuple[float, float]:
    """slope and intercept; a slope of 0 or NaN means no rescaling."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    return slope, intercept if math.isfinite(intercept) else 0.0


def _complete_third_axis(header: nibabel.Nifti1Header):
    """Sets the unused third axis of a 2D image to 1 mm at a right angle."""
    rows = [header[f"srow_{row}"] for row in "xyz"]
    third = np.cross([row[0] for row in rows], [row[1] for row in rows])
    for row, value in zip(rows, third / (np.linalg.norm(third) or 1), strict=True):
        row[2] = value
    header["pixdim"][[0, 3]] = 1  # 0: the handedness that is in the qform


def _nifti_grid(header, shape: tuple[int, ...]) -> tuple[Grid, bool, tuple[str, ...]]:
    """The grid in mm, whether the header defines its position in the patient, and notes."""
    notes: list[str] = []
    space = (1, *shape)[-3:]
    spacing = np.asarray(header["pixdim"][1:4], dtype=float)
    placed = header["qform_code"] > 0 or header["sform_code"] > 0
    if placed:
        grid = _resolved(header, space, spacing, notes)
    else:
        _check_spacing(spacing)
        grid = Grid(space, tuple(spacing))
        notes.append(
            "neither qform nor sform is coded, so orientation and position are unknown; "
            "the axes were taken as L, P, S from the origin 0, as ITK does"
        )
    factor = _UNIT_IN_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    if factor != 1:
        unit = "meters" if factor > 1 else "micrometers"
        notes.append(f"its lengths are in {unit} and were converted to mm")
        lengths = {n: tuple(factor * v for v in getattr(grid, n)) for n in ("spacing", "origin")}
        grid = replace(grid, **lengths)
    return grid if len(shape) == 3 else _in_plane(grid, notes), bool(placed), tuple(notes)


def _resolved(header, shape: tuple[int, ...], spacing: np.ndarray, notes: list[str]) -> Grid:
    """The geometry that is used, of the one or two that are coded."""
    forms, problems = {}, []
    for name, read in (("sform", _sform_grid), ("qform", _qform_grid)):
        if header[f"{name}_code"] > 0:
            try:
                forms[name] = read(header, shape, spacing, notes)
            except ValueError as error:
                problems.append(f"the {name} {error}")
    if not forms:
        raise ValueError("; ".join(problems))
    if problems:
        notes.append(f"{problems[0]}; the {next(iter(forms))} was taken instead")
    if len(forms) == 1:
        return next(iter(forms.values()))
    equal = all(
        np.allclose(getattr(forms["sform"], name), getattr(forms["qform"], name), 0, _ROUNDING)
        for name in ("direction", "origin")
    )
    taken = "sform" if equal or header["sform_code"] == 1 else "qform"
    notes.extend(_disagreement(header, forms, taken))
    return forms[taken]


def _disagreement(header, forms: dict[str, Grid], taken: str) -> list[str]:
    """One note, or none if both forms agree."""
    apart = (forms["sform"].corners() - forms["qform"].corners()).norm(dim=-1).max().item()
    apart /= min(forms["qform"].spacing)
    if apart <= _SAME_PLACE_VOXELS:
        return []
    said = ", ".join(
        f"{name} (code {int(header[f'{name}_code'])}) {grid.axis_letters()} from "
        f"{np.round(grid.origin, 1).tolist()}"
        for name, grid in forms.items()
    )
    disagree = f"sform and qform disagree by up to {apart:.3g} voxels"
    return [f"{disagree}: {said} (LPS); the {taken} was taken, as ITK does"]


def _qform_grid(header, shape: tuple[int, ...], spacing: np.ndarray, notes: list[str]) -> Grid:
    _check_spacing(spacing)
    b, c, d = (float(header[f"quatern_{letter}"]) for letter in "bcd")
    origin = [float(header[f"qoffset_{letter}"]) for letter in "xyz"]
    rest = 1 - (b * b + c * c + d * d)
    if not rest > -1e-3 or not np.isfinite(origin).all():
        raise ValueError("is not a rotation and a position: correct the header")
    # As in niftilib: near a half turn the real part is dominated by rounding errors of the others.
    real = math.sqrt(rest) if rest >= 1e-7 else 0.0
    axes = nibabel.quaternions.quat2mat([real, b, c, d])
    axes[:, 2] *= -1 if header["pixdim"][0] < 0 else 1
    return _grid(shape, spacing, _RAS_TO_LPS[:3, :3] @ origin, _RAS_TO_LPS[:3, :3] @ axes)


def _sform_grid(header, shape: tuple[int, ...], spacing: np.ndarray, notes: list[str]) -> Grid:
    affine = np.stack([np.asarray(header[f"srow_{row}"], dtype=float) for row in "xyz"])
    axes, origin = _RAS_TO_LPS[:3, :3] @ affine[:, :3], _RAS_TO_LPS[:3, :3] @ affine[:, 3]
    sizes = np.linalg.norm(axes, axis=0)
    if (
        not np.isfinite(affine).all()
        or abs(np.linalg.det(axes)) < 1e-6 * sizes.prod()
        or not all(sizes)
    ):
        raise ValueError("is singular (its axes do not span the space): correct the header")
    deviation = np.abs((axes / sizes).T @ (axes / sizes) - np.eye(3)).max()
    # Without a qform to fall back on, the tolerance is that of every grid.
    if deviation > (_ROUNDING if header["qform_code"] > 0 else 1e-3):
        raise ValueError(
            f"is sheared (its axes are up to {math.degrees(math.asin(deviation)):.2g} degrees off "
            "the right angle, as after gantry tilt or an affine registration): resample the image "
            "to a right-angled grid first"
        )
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        notes.append(
            f"pixdim holds no voxel size ({spacing.tolist()}); that of the sform was taken"
        )
        spacing = sizes
    elif (np.abs(sizes - spacing) > _SAME_SIZE * spacing).any():
        raise ValueError(
            f"has voxels of {_by(sizes)} mm and pixdim of {_by(spacing)} mm: "
            "correct the header so that both agree"
        )
    return _grid(shape, spacing, origin, axes)


def _check_spacing(spacing: np.ndarray):
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(
            f"has no voxel size: pixdim is {_by(spacing)} and must be positive mm; "
            "correct the header"
        )


def _in_plane(grid: Grid, notes: list[str]) -> Grid:
    """The 2D grid of a 2D image: its x and y geometry, if it lies in an axial plane."""
    flat = {"shape": grid.shape[1:], "spacing": grid.spacing[:2]}
    axes = np.asarray(grid.direction)[:2, :2]
    if np.abs(axes.T @ axes - np.eye(2)).max() > 1e-3:
        notes.append(
            "a 2D image that does not lie in an axial plane; its spacing was kept, "
            "its position and orientation were not"
        )
        return Grid(**flat)
    return Grid(**flat, origin=grid.origin[:2], direction=axes)


def _grid(shape: tuple[int, ...], spacing, origin, axes) -> Grid:
    """axes: columns along the voxel axes, of any length."""
    return Grid(shape, tuple(spacing), tuple(origin), axes / np.linalg.norm(axes, axis=0))


def _by(values: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
