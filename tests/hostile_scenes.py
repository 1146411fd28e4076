"""Registrations asked for with hostile input: two images, perhaps masks and a start, and a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import SimpleITK as sitk
from hostile import EITHER, Picture, Says, Side, Warned
from hypothesis import strategies as st


@dataclass(frozen=True)
class Scene:
    """What is asked for, in plain data, so that hypothesis can make it smaller and print it.

    hostilities: (place, name) from ``HOSTILITIES``, at most one a place.
    """

    fixed: Side
    moving: Side
    hostilities: tuple[tuple[str, str], ...] = ()
    method: str = "rigid"
    through_cli: bool = False
    report: bool = False
    seed: int = 0


@dataclass
class Made:
    """A scene on disk. says: what each hostility does, by its place; truth:
    the images whose files were left sound.
    """

    folder: Path
    inputs: dict[str, Any]
    out: Path
    says: dict[str, Says] = field(default_factory=dict)
    truth: dict[str, Picture] = field(default_factory=dict)
    most_bytes: int | None = None  # that a file may take, as on a full disk

    @property
    def refusals(self) -> list[str]:
        """What one of them must be said; EITHER among them where there may be none."""
        return [s for s in self.says.values() if s is not None and not isinstance(s, Warned)]

    @property
    def warnings(self) -> list[str]:
        return [s for s in self.says.values() if isinstance(s, Warned)]


# Masks: of a sound image, in its grid

_ENOUGH = 50  # voxels that a mask needs


def _mask_of(inside: Callable[[np.ndarray], np.ndarray], **moves) -> Callable[[Picture], Picture]:
    def make(picture: Picture) -> Picture:
        values = picture.values
        flat = values[..., 0] if values.ndim > picture.dimension else values
        mask = replace(picture, values=inside(np.nan_to_num(flat)))
        return replace(mask, **{name: move(getattr(mask, name)) for name, move in moves.items()})

    return make


def _ones(values: np.ndarray) -> np.ndarray:
    return np.ones(values.shape, np.uint8)


def _first(count: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: (np.arange(v.size).reshape(v.shape) < count).astype(np.uint8)


MASKS: Mapping[str, tuple[Says, Callable[[Picture], Picture]]] = {
    "full": (None, _mask_of(_ones)),
    "two labels": (None, _mask_of(lambda v: (1 + (v > v.mean())).astype(np.int16))),
    "in float64": (None, _mask_of(lambda v: _ones(v).astype(np.float64))),
    "header noise": (
        None,
        _mask_of(
            _ones,
            origin=lambda o: o + 1e-8,
            spacing=lambda s: tuple(n * (1 + 1e-8) for n in s),
            axes=lambda a: a + 1e-8,
        ),
    ),
    "empty": ("empty", _mask_of(lambda v: 0 * _ones(v))),
    "tiny": ("only 3 voxels", _mask_of(_first(3))),
    "of another size": (Warned("resampled"), _mask_of(lambda v: np.pad(_ones(v), (0, 2)))),
    "shifted": (Warned("resampled"), _mask_of(_ones, origin=lambda o: o + 1.5)),
    "elsewhere": ("another place", _mask_of(_ones, origin=lambda o: o + 150)),
    "fractions": ("threshold it", _mask_of(lambda v: 0.5 * _ones(v))),
    "NaN": ("NaN", _mask_of(lambda v: np.nan * _ones(v))),
}

# Starts

_TFM = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_{d}_{d}\n"


def _affine(scales: Sequence[float], shift: float = 0.0):
    def make(folder: Path, dimension: int) -> Path:
        matrix = np.diag(scales[:dimension])
        numbers = [*matrix.ravel(), *[shift] * dimension]
        text = f"Parameters: {' '.join(map(repr, map(float, numbers)))}\n"
        text += f"FixedParameters: {'0 ' * dimension}\n"
        (folder / "start.tfm").write_text(_TFM.format(d=dimension) + text)
        return folder / "start.tfm"

    return make


def _raw(name: str, content: bytes):
    def make(folder: Path, _) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _hdf5(change: Callable[[bytes], bytes]):
    def make(folder: Path, dimension: int) -> Path:
        path = folder / "start.h5"
        sitk.WriteTransform(sitk.AffineTransform(dimension), str(path))
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


_ONES = (1.0, 1.0, 1.0)
INITIALS: Mapping[str, tuple[Says, Callable[[Path, int], Path | str]]] = {
    "centers": (None, lambda folder, _: "centers"),
    "mass": (None, lambda folder, _: "mass"),
    "identity": (None, _affine(_ONES)),
    "whole .h5": (None, _hdf5(lambda raw: raw)),
    "mirror": (EITHER, _affine((-1.0, 1.0, 1.0))),
    "singular": ("singular", _affine((1.0, 0.0, 1.0))),
    "shrinks to a point": ("singular", _affine((1e-9,) * 3)),
    "enlarges": (EITHER, _affine((1e6,) * 3)),
    "NaN": ("not finite", _affine(_ONES, np.nan)),
    "throws far": ("overlap", _affine(_ONES, 1e4)),
    "throws beyond all": ("1e.300", _affine(_ONES, 1e300)),
    "other dimension": ("2D|3D", lambda folder, d: _affine(_ONES)(folder, 5 - d)),
    "missing": ("no such file", lambda folder, _: folder / "none.h5"),
    "empty": ("empty", _raw("start.h5", b"")),
    "text": ("expected", _raw("start.txt", b"hello\n")),
    "noise in .tfm": ("no ITK transform", _raw("start.tfm", bytes(range(256)))),
    "text in .h5": ("HDF5", _raw("start.h5", b"hello\n" * 30)),
    "cut .tfm": ("truncated", _raw("start.tfm", _TFM.format(d=3).encode() + b"Parameters: 1 0")),
    "cut .h5": ("truncated", _hdf5(lambda raw: raw[:3000])),
    "damaged .h5": (EITHER, _hdf5(lambda raw: raw[:2200] + bytes(200) + raw[2400:])),
}

# Places to write to


def _folder(path: Path, *, with_file: bool = False) -> Path:
    path.mkdir()
    if with_file:
        (path / "holiday.jpg").write_bytes(b"photo")
    return path


def _file(path: Path) -> Path:
    path.write_bytes(b"precious")
    return path


def _link(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


OUTPUTS: Mapping[str, tuple[Says, Callable[[Path], Path]]] = {
    "deep": (None, lambda place: place / "a" / "b" / "out"),
    "odd name": (None, lambda place: place / "ünïcødé 脳 %d 'out'\n"),
    "not UTF-8": ("UTF-8", lambda place: place / "not\udcffutf8"),
    "long name": (None, lambda place: place / ("o" * 250)),
    "empty folder": (None, lambda place: _folder(place / "out")),
    "link to an empty folder": (None, lambda place: _link(place / "out", _folder(place / "real"))),
    "full folder": ("exists already", lambda place: _folder(place / "out", with_file=True)),
    "a file": ("is a file", lambda place: _file(place / "out")),
    "below a file": ("not a folder", lambda place: _file(place / "file") / "out"),
    "below /proc": ("/proc", lambda place: Path("/proc/hybridreg")),
    "below a device": ("not a folder", lambda place: Path("/dev/full/out")),
    "link to a new folder": (None, lambda place: _link(place / "out", place / "new")),
    "link to itself": ("link", lambda place: _link(place / "out", place / "out")),
    "too long a name": ("too long", lambda place: place / ("o" * 300)),
}
DISKS = {  # bytes that a file may take: too few for the first, a later or the last file
    "full": 0,
    "nearly full": 150,
    "full at the transform": 6_000,
    "full at the report": 100_000,
}

_HEADERS = {
    "NIfTI": (hostile.NIFTI_HEADERS, ".nii"),
    "MetaImage": (hostile.META_HEADERS, ".mha"),
    "NRRD": (hostile.NRRD_HEADERS, ".nrrd"),
}
HOSTILITIES: list[tuple[str, str]] = [
    *[
        (place, name)
        for place in ("fixed", "moving")
        for name in [
            *hostile.PICTURES,
            *(f"{kind}: {name}" for kind, (headers, _) in _HEADERS.items() for name in headers),
            *hostile.FILES,
        ]
    ],
    *[("moving", name) for name in hostile.MOVING_PICTURES],
    *[(place, name) for place in ("fixed_mask", "moving_mask") for name in MASKS],
    *[("fixed_mask", name) for name in hostile.FILES if name != "four frames"],
    *[("initial", name) for name in INITIALS],
    *[("out", name) for name in OUTPUTS],
    *[("disk", name) for name in DISKS],
]


def make(scene: Scene, folder: Path) -> Made:
    """The scene as files below a folder: ``in`` with the inputs, ``place`` for the output."""
    (folder / "in").mkdir()
    (folder / "place").mkdir()
    random, hostilities = np.random.default_rng(scene.seed), dict(scene.hostilities)
    made = Made(folder, {}, folder / "place" / "out")
    center = random.uniform(-100, 100, len(scene.fixed.shape))
    flat = ".png" in (scene.fixed.ending, scene.moving.ending)
    pictures = {}
    for side in ("fixed", "moving"):
        picture = hostile.sound_picture(getattr(scene, side), center, flat=flat)
        home = folder / "in" / side
        home.mkdir()
        pictures[side] = _make_image(made, side, scene, picture, home, random)
    for place in ("fixed_mask", "moving_mask"):
        if place in hostilities:
            picture = pictures[place.removesuffix("_mask")]
            _make_mask(made, place, hostilities[place], picture, random)
            if hostilities.get(place.removesuffix("_mask")) in _ELSEWHERE:
                made.says[place] = EITHER  # whether it still lies on its image is chance
    _make_start(made, hostilities, len(center))
    _make_place(made, hostilities)
    return made


def _make_start(made: Made, hostilities: Mapping[str, str], dimension: int):
    if "initial" not in hostilities:
        return
    start, moving = hostilities["initial"], hostilities.get("moving")
    says, make_start = INITIALS[start]
    made.inputs["initial"] = make_start(made.folder / "in", dimension)
    made.says["initial"] = says
    if moving in ("far away", "ten times larger", "NIfTI: neither form"):
        # Who gives a start is taken at his word: it may bring them together, or not.
        still = start in ("identity", "whole .h5") and moving == "far away"
        made.says["moving"] = "do not overlap" if still else EITHER


def _make_place(made: Made, hostilities: Mapping[str, str]):
    if "out" in hostilities:
        says, place = OUTPUTS[hostilities["out"]]
        made.out = place(made.folder / "place")
        made.says["out"] = says
    if "disk" in hostilities:
        made.most_bytes = DISKS[hostilities["disk"]]
        late = made.most_bytes > 1000  # then it depends on the method and the report
        made.says["disk"] = EITHER if late else "too large|space"


_ELSEWHERE = ("NIfTI: neither form", "NIfTI: in meters", "NIfTI: in microns")


def _make_image(
    made: Made, side: str, scene: Scene, picture: Picture, home: Path, random
) -> Picture:
    """Writes one image; gives what a mask of it must fit."""
    spec, name = getattr(scene, side), dict(scene.hostilities).get(side)
    changes = {**hostile.PICTURES, **hostile.MOVING_PICTURES}
    kind, _, header = (name or "").partition(": ")
    headers, ending = _HEADERS[kind] if header else ({}, spec.ending)
    if name in changes:
        picture = changes[name][1](picture, random)
    path = home / (spec.name + _fitting(ending, picture, changed=name in changes))
    hostile.write(path, picture)
    if header:
        spoil = hostile.spoil_nifti if kind == "NIfTI" else hostile.spoil_text_header
        spoil(path, headers[header][1])
    elif name in hostile.FILES:
        path = hostile.FILES[name][1](path, random)
    if name:
        known = headers if header else {**changes, **hostile.FILES}
        made.says[side] = known[header or name][0]
    if spec.linked:
        path = _link(home / ("link" + "".join(path.suffixes[-2:])), path)
    made.inputs[side] = path
    if "\udcff" in path.name and ".nii" not in path.name:
        made.says[f"name of {side}"] = "UTF-8"  # SimpleITK cannot open it
    if not name or name in changes:
        made.truth[side] = picture
    return picture


def _fitting(ending: str, picture: Picture, *, changed: bool) -> str:
    """The ending, or one that holds what a PNG cannot."""
    plain = picture.values.dtype in (np.uint8, np.uint16) and picture.dimension == 2
    return ".mha" if ending == ".png" and (changed or not plain) else ending


def _make_mask(made: Made, place: str, name: str, picture: Picture, random):
    says, make_mask = MASKS.get(name, MASKS["full"])
    mask = make_mask(picture)
    path = made.folder / "in" / f"{place}.nii.gz"
    hostile.write(path, mask)
    if name in hostile.FILES:
        says, spoil = hostile.FILES[name]
        path = spoil(path, random)
    inside = np.count_nonzero(mask.values)
    if says is None and inside < _ENOUGH:
        says = "only"
    if isinstance(says, Warned) and inside < 3 * _ENOUGH:
        says = EITHER  # resampling may leave too little
    made.inputs[place] = path
    made.says[place] = says


# What hypothesis draws

_PLACES = {place: [n for p, n in HOSTILITIES if p == place] for place, _ in HOSTILITIES}
_METHODS = ("rigid", "rigid", "affine", "bspline")
_SEEDS = st.integers(0, 2**16)


@st.composite
def scenes(draw) -> Scene:
    dimension = draw(st.sampled_from((2, 3)))
    places = draw(st.lists(st.sampled_from(sorted(_PLACES)), max_size=2, unique=True))
    hostilities = [(place, draw(st.sampled_from(_PLACES[place]))) for place in places]
    fixed, moving = draw(_sides(dimension)), draw(_sides(dimension))
    methods = _METHODS
    if ".png" in (fixed.ending, moving.ending):
        # At 1 mm a pixel they are so small that elastix may step out of them with other maps, and
        # that others of 4 and 9 pixels would hardly overlap.
        methods, moving = ("rigid",), replace(moving, shape=fixed.shape)
    return Scene(
        fixed=fixed,
        moving=moving,
        hostilities=tuple(hostilities),
        method=draw(st.sampled_from(methods)),
        through_cli=draw(st.booleans()),
        report=draw(st.sampled_from((False,) * 39 + (True,))),
        seed=draw(_SEEDS),
    )


@st.composite
def _sides(draw, dimension: int) -> Side:
    return Side(
        shape=tuple(draw(st.integers(4, 9)) for _ in range(dimension)),
        dtype=draw(st.sampled_from(hostile.DTYPES)),
        ending=draw(st.sampled_from(hostile.ENDINGS)),
        name=draw(st.sampled_from(hostile.NAMES)),
        left_handed=draw(st.booleans()),
        linked=draw(st.sampled_from((False, False, False, True))),
        seed=draw(_SEEDS),
    )


def each_alone() -> Sequence[Scene]:
    """A scene for every hostility by itself, in turn in 2D and 3D, from Python and a shell."""
    return [
        Scene(
            Side((7, 8, 9)[i % 2 :]),
            Side((9, 7, 8)[i % 2 :], seed=1),
            (hostility,),
            through_cli=i % 4 < 2,
            seed=i,
        )
        for i, hostility in enumerate(HOSTILITIES)
    ]
