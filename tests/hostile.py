"""Pairs of images with what can be wrong about them, and what must then come of each.

Files are written by SimpleITK, nibabel and by hand, so that hybridreg's own writers are no witness.
Every hostility has a name and says what must come of it (``Says``).
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk


class Warned(str):
    """Goes on, with a warning that says this."""


# What a refusal must say, as a regular expression; None where it is harmless, so that the
# registration must succeed, EITHER where both may come of it.
Says = str | Warned | None
EITHER = ""


@dataclass(frozen=True)
class Picture:
    """An image to be written: values (z, y, x), components last, and their place in LPS mm."""

    values: np.ndarray = field(repr=False)
    spacing: tuple[float, ...]
    origin: np.ndarray
    axes: np.ndarray

    @property
    def dimension(self) -> int:
        return len(self.spacing)

    @property
    def voxel_to_physical(self) -> np.ndarray:
        matrix = np.eye(self.dimension + 1)
        matrix[:-1, :-1] = self.axes * self.spacing
        matrix[:-1, -1] = self.origin
        return matrix


@dataclass(frozen=True)
class Side:
    """How a sound image is made; everything else follows from the seed."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    ending: str = ".nii.gz"
    name: str = "image"
    left_handed: bool = False
    linked: bool = False
    seed: int = 0


DTYPES = ("uint8", "int16", "uint16", "int32", "int64", "float32", "float64", "bool")
ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd", ".png")
NAMES = (
    "image", "with a space", "ünïcødé 脳 🧠", "quote'\"$;&", "-dash", "%d%s", ".hidden", "two\nlines",
    "dots.in.it", "not\udcffutf8", "n" * 200,
)  # fmt: skip


def sound_picture(side: Side, center: np.ndarray, *, flat: bool) -> Picture:
    """A blob with some texture about a center in LPS mm, in 16 to 24 mm along every axis.

    flat: at the place that a PNG has, which knows no other.
    """
    random, dimension = np.random.default_rng(side.seed), len(side.shape)
    size = np.array(side.shape[::-1])
    if flat:
        spacing, origin, axes = np.ones(dimension), np.zeros(dimension), np.eye(dimension)
        center = (size - 1) / 2
    else:
        spacing = random.uniform(16, 24, dimension) / size
        axes = np.linalg.qr(np.eye(dimension) + random.normal(0, 0.3, (dimension, dimension)))[0]
        axes *= np.sign(np.diag(axes))  # nearest to L, P, S
        if (np.linalg.det(axes) < 0) != side.left_handed:
            axes[:, 0] *= -1
        middle = center + random.uniform(-1.5, 1.5, dimension)
        origin = middle - axes @ ((size - 1) / 2 * spacing)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in side.shape], indexing="ij")[::-1], -1)
    distance = (index * spacing) @ axes.T + origin - center
    reach = 0.3 * (size * spacing).mean()
    values = np.exp(-((distance / reach) ** 2).sum(-1) / 2) + 0.2 * random.random(side.shape)
    return Picture(_as_type(values / values.max(), side.dtype), tuple(spacing), origin, axes)


def _as_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values from 0 to 1 spread over what is usual for a number type."""
    if dtype == "bool":
        return (values > np.median(values)).astype(np.uint8)
    low, high = {"uint8": (0, 255), "uint16": (0, 60_000), "float32": (0, 1)}.get(
        dtype, (-1000, 3000)
    )
    scaled = low + (high - low) * values
    return (scaled if dtype.startswith("float") else np.rint(scaled)).astype(dtype)


def write(path: Path, picture: Picture):
    several = picture.values.ndim > picture.dimension
    image = sitk.GetImageFromArray(picture.values, isVector=several)
    if not path.name.lower().endswith(".png"):
        image.SetSpacing([float(s) for s in picture.spacing])
        image.SetOrigin(picture.origin.tolist())
        image.SetDirection(picture.axes.ravel().tolist())
    plain = path.with_name("written" + ending_of(path))  # SimpleITK takes no odd names
    sitk.WriteImage(image, str(plain))
    plain.replace(path)


def ending_of(path: Path) -> str:
    return next(end for end in ENDINGS if path.name.lower().endswith(end))


# What can be wrong with an image before it is written

Change = Callable[[Picture, np.random.Generator], Picture]


def _with_one(value: float) -> Change:
    def change(picture: Picture, random: np.random.Generator) -> Picture:
        values = picture.values.astype(np.float64 if abs(value) > 1e38 else np.float32)
        values[tuple(random.integers(0, n) for n in values.shape)] = value
        return replace(picture, values=values)

    return change


def _values(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda picture, _: replace(picture, values=change(picture.values))


def _placed(**changes: Callable) -> Change:
    return lambda picture, _: replace(
        picture, **{name: change(getattr(picture, name)) for name, change in changes.items()}
    )


def _thin(picture: Picture, random: np.random.Generator) -> Picture:
    axis, count = random.integers(0, picture.dimension), random.integers(1, 4)
    return replace(picture, values=np.take(picture.values, range(count), axis))


def _other_dimension(picture: Picture, _) -> Picture:
    if picture.dimension == 2:
        values, spacing = np.stack([picture.values] * 5), (*picture.spacing, 4.0)
        return Picture(values, spacing, np.append(picture.origin, 0.0), np.eye(3))
    return Picture(picture.values[0], picture.spacing[:2], picture.origin[:2], np.eye(2))


def _left_and_right(values: np.ndarray) -> np.ndarray:
    return (np.arange(values.shape[-1]) % 2 + 0 * values).astype(np.uint8)


PICTURES: Mapping[str, tuple[Says, Change]] = {
    "one NaN": ("NaN", _with_one(np.nan)),
    "one infinity": ("infinite", _with_one(np.inf)),
    "beyond float32": ("infinite", _with_one(1e300)),
    "all NaN": ("NaN", _values(lambda v: np.full(v.shape, np.nan, np.float32))),
    "constant": ("constant", _values(lambda v: np.full_like(v, 7))),
    "zero": ("constant", _values(np.zeros_like)),
    "two values": (None, _values(_left_and_right)),
    "no contrast in float32": (
        EITHER,
        _values(lambda v: (2**30 + (v > v.mean())).astype(np.int32)),
    ),
    "huge values": ("too large", _values(lambda v: v.astype(np.float32) * np.float32(1e30))),
    "tiny values": (EITHER, _values(lambda v: v.astype(np.float32) * np.float32(1e-40))),
    "thin": ("at least 4", _thin),
    "in micrometers": ("mm", _placed(spacing=lambda s: tuple(1000 * n for n in s))),
    "in meters": ("mm", _placed(spacing=lambda s: tuple(n / 1000 for n in s))),
    "header noise": (
        None,
        _placed(spacing=lambda s: tuple(n + 1e-8 for n in s), origin=lambda o: o + 1e-8),
    ),
}
# These only mean something beside the other image.
MOVING_PICTURES: Mapping[str, tuple[Says, Change]] = {
    "ten times larger": ("another unit", _placed(spacing=lambda s: tuple(10 * n for n in s))),
    "far away": (Warned("overlap by only 0 %"), _placed(origin=lambda o: o + 500)),
    "three channels": ("channels", _values(lambda v: np.stack([v, v, v], -1))),
    "other dimension": ("2D|3D", _other_dimension),
}

# What can be wrong with a NIfTI header: fields to overwrite

_QFORM_ONLY = {"sform_code": 0, "qform_code": 1}
_SFORM_ONLY = {"sform_code": 1, "qform_code": 0}
NIFTI_HEADERS: Mapping[str, tuple[Says, Mapping[str, object]]] = {
    "singular sform": ("singular", {**_SFORM_ONLY, "srow_x": [0, 0, 0, 0]}),
    "singular sform beside a qform": (
        Warned("sform is singular.*qform was taken"),
        {"srow_x": [0, 0, 0, 0], "qform_code": 1},
    ),
    "sheared sform": ("sheared", {**_SFORM_ONLY, "srow_x": [3, 9, 0, 0], "srow_y": [0, 3, 0, 0]}),
    "qform without a voxel size": (
        "no voxel size",
        {**_QFORM_ONLY, "pixdim": [1, 0, 1, 1] + [0] * 4},
    ),
    "NaN voxel size": ("no voxel size", {**_QFORM_ONLY, "pixdim": [1, 1, np.nan, 1] + [0] * 4}),
    "negative voxel size": ("no voxel size", {**_QFORM_ONLY, "pixdim": [1, -2, 2, 2] + [0] * 4}),
    "NaN position": ("position", {**_QFORM_ONLY, "qoffset_x": np.nan}),
    "no rotation": ("rotation", {**_QFORM_ONLY, "quatern_b": 7.0}),
    "neither form": (
        Warned("orientation and position are unknown"),
        {"sform_code": 0, "qform_code": 0},
    ),
    "in meters": ("mm", {"xyzt_units": 1}),
    "in microns": ("mm", {"xyzt_units": 3}),
    "larger than the file": ("too early", {"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}),
    "negative size": ("damaged", {"dim": [3, 5, -5, 5, 1, 1, 1, 1]}),
    "nine axes": ("damaged", {"dim": [9, 2, 2, 2, 2, 2, 2, 2]}),
    "no axes": ("damaged", {"dim": [0] * 8}),
    "complex numbers": ("complex|too early", {"datatype": 32, "bitpix": 64}),
    "RGB": ("RGB|too early", {"datatype": 128, "bitpix": 24}),
    "unknown numbers": ("number type 999", {"datatype": 999}),
    "voxels beyond the end": ("too early", {"vox_offset": 1e6}),
    "voxels nowhere": ("at byte", {"vox_offset": np.nan}),
    "slope NaN": (None, {"scl_slope": np.nan, "scl_inter": np.nan}),
    "slope zero": (None, {"scl_slope": 0.0, "scl_inter": 5.0}),
    "slope negative": (None, {"scl_slope": -2.0, "scl_inter": 5.0}),
    "slope too large": ("too large|infinite", {"scl_slope": 3e38, "scl_inter": 0.0}),
    "another magic": ("Analyze", {"magic": b"\0\0\0\0"}),
    "magic of a pair": ("pair", {"magic": b"ni1\0"}),
}

# What can be wrong with a text header: the line that is replaced, and by what

_HERE = r"voxels|early|damaged|cannot be read|unknown"
META_HEADERS: Mapping[str, tuple[Says, tuple[str, str]]] = {
    "singular": ("span the space|damaged", ("TransformMatrix", "0 0 0 0 0 0 0 0 0")),
    "no spacing": ("spacing|" + _HERE, ("ElementSpacing", "0 0 0")),
    "NaN spacing": ("spacing|" + _HERE, ("ElementSpacing", "nan nan nan")),
    "NaN position": ("origin|" + _HERE, ("Offset", "nan nan nan")),
    "negative size": (_HERE, ("DimSize", "-4 4 4")),
    "huge size": ("too early|damaged", ("DimSize", "99999 99999 99999")),
    "size in words": (_HERE, ("DimSize", "four four four")),
    "unknown numbers": (_HERE, ("ElementType", "MET_FOO")),
    "99 axes": (_HERE, ("NDims", "99")),
    "voxels of another folder": ("same folder", ("ElementDataFile", "/etc/passwd")),
    "voxels missing": ("missing", ("ElementDataFile", "none.raw")),
}
NRRD_HEADERS: Mapping[str, tuple[Says, tuple[str, str]]] = {
    "negative size": (_HERE, ("sizes", "-4 4 4")),
    "huge size": (_HERE, ("sizes", "99999 99999 99999")),
    "unknown numbers": (_HERE, ("type", "foo")),
    "unknown packing": (_HERE, ("encoding", "foo")),
    "99 axes": (_HERE, ("dimension", "99")),
    "NaN position": ("origin|" + _HERE, ("space origin", "(nan,nan,nan)")),
    "singular": ("span the space|" + _HERE, ("space directions", "(0,0,0) (0,0,0) (0,0,0)")),
    "voxels of another folder": ("same folder", ("data file", "/etc/passwd")),
}


def spoil_nifti(path: Path, fields: Mapping[str, object]):
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw, nibabel.Nifti1Header.template_dtype, 1)
    for name, value in fields.items():
        header[name][0] = value
    path.write_bytes(raw)


def spoil_text_header(path: Path, line: tuple[str, str]):
    raw, (key, value) = path.read_bytes(), line
    pattern = rf"(?m)^{key}( ?[=:] ?).*$".encode()
    changed, count = re.subn(pattern, rf"{key}\g<1>{value}".encode(), raw, count=1)
    if not count:  # NRRD names no data file as long as it holds the voxels itself
        changed = raw.replace(b"\n\n", f"\n{key}: {value}\n\n".encode(), 1)
    path.write_bytes(changed)


# What can be wrong with a file, whatever was in it; gives the path that is to be read

Spoil = Callable[[Path, np.random.Generator], Path]


def _rewritten(change: Callable[[bytes, np.random.Generator], bytes]) -> Spoil:
    def spoil(path: Path, random: np.random.Generator) -> Path:
        path.write_bytes(change(path.read_bytes(), random))
        return path

    return spoil


def _flipped(raw: bytes, random: np.random.Generator) -> bytes:
    data = bytearray(raw)
    # Half of them in the header, where they do the most.
    for _ in range(random.integers(1, 4)):
        where = random.integers(0, min(len(data), 400) if random.random() < 0.5 else len(data))
        data[where] ^= 1 << random.integers(0, 8)
    return bytes(data)


def _renamed(ending: str, source: str) -> Spoil:
    """What has one format inside and the ending of another."""

    def spoil(path: Path, random: np.random.Generator) -> Path:
        image = sitk.GetImageFromArray(random.integers(0, 255, (6, 7), dtype=np.uint8))
        plain = path.with_name("plain" + source)
        sitk.WriteImage(image, str(plain))
        path.unlink()
        return plain.rename(path.with_name(path.name + ending))

    return spoil


def _as_nifti(ending: str, change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(path: Path, _) -> Path:
        plain = path.rename(path.with_name("plain" + ending_of(path)))
        image = sitk.ReadImage(str(plain))
        plain.unlink()
        path = path.with_name(f"plain{zlib.crc32(os.fsencode(path.name))}{ending}")
        sitk.WriteImage(image, str(path))
        path.write_bytes(change(path.read_bytes()))
        return path

    return spoil


def _color(path: Path, random: np.random.Generator, *, gray: bool = False) -> Path:
    colors = random.integers(0, 255, (8, 9, 3), dtype=np.uint8)
    colors = colors[..., :1].repeat(3, -1) if gray else colors
    path.unlink()
    path = path.with_name("color.png")
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), str(path))
    return path


def _frames(count: int) -> Spoil:
    def spoil(path: Path, random: np.random.Generator) -> Path:
        path.unlink()
        path = path.with_name("frames.nii.gz")
        values = random.random((6, 6, 6, count)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-3.0, -3.0, 3.0, 1.0])), path)
        return path

    return spoil


def _instead(make: Callable[[Path], object]) -> Spoil:
    """Something else in the place of the file."""

    def spoil(path: Path, _) -> Path:
        path.unlink()
        make(path)
        return path

    return spoil


def _link_to_folder(path: Path):
    (path.parent / "folder").mkdir()
    path.symlink_to(path.parent / "folder")


_CUT = "early|cut short|damaged|renamed|ends before|cannot be read"
FILES: Mapping[str, tuple[Says, Spoil]] = {
    "missing": ("no such file", _instead(lambda path: None)),
    "zero bytes": ("empty", _rewritten(lambda raw, _: b"")),
    "cut off": (_CUT, _rewritten(lambda raw, r: raw[: r.integers(1, len(raw) - 1)])),
    "last byte missing": (EITHER, _rewritten(lambda raw, _: raw[:-1])),
    "flipped bits": (EITHER, _rewritten(_flipped)),
    "noise": ("renamed|damaged|not", _rewritten(lambda raw, r: r.bytes(5000))),
    "text": ("renamed|damaged|not", _rewritten(lambda raw, _: b"hello, world\n" * 50)),
    "zeros": ("renamed|damaged|not", _rewritten(lambda raw, _: bytes(5000))),
    "PNG named .nii": ("renamed", _renamed(".nii", ".png")),
    "PNG named .mha": ("renamed", _renamed(".mha", ".png")),
    "MetaImage named .nrrd": ("renamed", _renamed(".nrrd", ".mha")),
    "NIfTI named .png": ("renamed", _renamed(".png", ".nii")),
    "unknown ending": ("does not end like", _renamed(".xyz", ".mha")),
    ".nii.gz that is not gzip": (None, _as_nifti(".nii.gz", gzip.decompress)),
    ".nii that is gzip": (None, _as_nifti(".nii", gzip.compress)),
    "color picture": ("color", _color),
    "folder": ("folder|DICOM", _instead(Path.mkdir)),
    "link to nowhere": ("no such file", _instead(lambda p: p.symlink_to(p.parent / "nowhere"))),
    "link to itself": ("symbolic links", _instead(lambda p: p.symlink_to(p))),
    "link to a folder": ("folder|DICOM", _instead(_link_to_folder)),
    "link to /dev/full": ("empty", _instead(lambda p: p.symlink_to("/dev/full"))),
    "pipe": ("empty", _instead(os.mkfifo)),
    "four frames": ("frames", _frames(4)),
}
