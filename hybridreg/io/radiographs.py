"""Reading and writing of radiographs: pixels in an image or DICOM file, geometry in a TOML file.

A geometry file gives the position of detector and source in the C-arm's frame
(``hybridreg.radiographs``), either by the parameters of a C-arm, for writing by hand,

    size = [256, 256]                # columns, rows
    spacing_mm = [1.0, 1.0]          # on the detector, along a row and along a column
    source_to_detector_mm = 1000.0
    source_to_isocenter_mm = 700.0
    primary_angle_deg = 0.0          # these three may be left out
    secondary_angle_deg = 0.0
    principal_point = [127.5, 127.5]

or by its place, which is what ``write_geometry`` writes: source_mm, origin_mm (of the middle of the
first pixel), row_axis and column_axis (unit vectors along which a row and a column run) instead.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybridreg.geometry import Grid
from hybridreg.images import Image, kind_of
from hybridreg.io.files import errors_of, naming, read_text, whole_file
from hybridreg.io.formats import WRITTEN_VOLUMES, beside, ending_of, is_dicom_file
from hybridreg.io.images import read_image, write_image
from hybridreg.radiographs import Detector, Radiograph
from hybridreg.registry import unknown_name

# key -> how many numbers it has
_BOTH = {"size": 2, "spacing_mm": 2}
_C_ARM = {**_BOTH, "source_to_detector_mm": 1, "source_to_isocenter_mm": 1}
_LEFT_OUT = {"primary_angle_deg": 1, "secondary_angle_deg": 1, "principal_point": 2}
_PLACED = {**_BOTH, "source_mm": 3, "origin_mm": 3, "row_axis": 3, "column_axis": 3}


def read_geometry(path: str | os.PathLike) -> Detector:
    """The detector and source of a geometry file."""
    with naming(path):
        try:
            found = tomllib.loads(read_text(Path(path)))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"this is not TOML: {error}") from error
        return _detector(found)


def write_geometry(path: str | os.PathLike, detector: Detector):
    """Writes the position of a detector and its source; the file is complete or absent."""
    grid, path = detector.grid, Path(path)
    axes = np.array(grid.direction).T.tolist()
    values = {
        "size": list(grid.size[:2]),
        "spacing_mm": list(grid.spacing[:2]),
        "source_mm": list(detector.source),
        "origin_mm": list(grid.origin),
        "row_axis": axes[0],
        "column_axis": axes[1],
    }
    lines = ["# Geometry of a radiograph, in mm of the C-arm's frame (isocenter at 0)"]
    lines += [f"{key} = {value}" for key, value in values.items()]
    with errors_of(path), whole_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_radiograph(
    path: str | os.PathLike,
    *,
    geometry: str | os.PathLike | None = None,
    frame: int | None = None,
    absorbers_are_dark: bool = False,
) -> Radiograph:
    """A radiograph from DICOM (XA, RF, DX), or from an image of one slice and a geometry file.

    geometry: a file, by default the one beside an image, and the header in DICOM. frame: which one
    of a film, from 0. absorbers_are_dark: the image is turned over, since it is darker where more
    was absorbed; DICOM says so itself.
    """
    if is_dicom_file(path):
        from hybridreg.io.dicom_radiographs import read_dicom_radiograph

        detector = None if geometry is None else read_geometry(geometry)
        return read_dicom_radiograph(path, detector=detector, frame=frame)
    described = beside(path, ".toml") if geometry is None else Path(geometry)
    if geometry is None and not described.is_file():
        raise ValueError(
            f"{path}: there is no {described.name} beside it that says where detector and "
            "source were: "
            "write one, or name it (geometry)"
        )
    detector, image = read_geometry(described), read_image(path, frame=frame)
    with naming(path):
        if image.data[0].numel() != math.prod(image.grid.shape[-2:]):
            raise ValueError(
                f"a radiograph is one slice; found size {image.grid.size}: is it a volume?"
            )
        data = image.data.reshape(image.channels, *image.grid.shape[-2:])
        return Radiograph(data.max() - data if absorbers_are_dark else data, detector)


def as_radiograph(
    value: Any,
    *,
    geometry: str | os.PathLike | None = None,
    frame: int | None = None,
    name: str = "a radiograph",
) -> Radiograph:
    """A Radiograph from a Radiograph or a file (``read_radiograph``);
    ValueError for anything else.
    """
    if isinstance(value, Radiograph):
        return value
    if isinstance(value, (str, os.PathLike)):
        return read_radiograph(value, geometry=geometry, frame=frame)
    raise ValueError(f"{name} is a file or a hybridreg Radiograph; found {kind_of(value)}")


def write_radiograph(path: str | os.PathLike, radiograph: Radiograph):
    """Writes the pixels as a volume of one slice in the C-arm's frame,
    and the geometry beside it.
    """
    path = Path(path)
    with errors_of(path):
        if ending_of(path) not in WRITTEN_VOLUMES:
            raise ValueError(f"radiographs are written as {', '.join(WRITTEN_VOLUMES)}")
    write_image(path, Image(radiograph.data[:, None], radiograph.grid))
    write_geometry(beside(path, ".toml"), radiograph.detector)


def _detector(found: Mapping[str, Any]) -> Detector:
    placed = "origin_mm" in found or "source_mm" in found
    needed, known = (_PLACED, _PLACED) if placed else (_C_ARM, {**_C_ARM, **_LEFT_OUT})
    for key in found:
        if key not in known:
            raise ValueError(unknown_name("a geometry has no key", key, known))
    if missing := [key for key in needed if key not in found]:
        raise ValueError(f"the geometry lacks {', '.join(missing)}: add them")
    values = {key: _numbers(key, value, known[key]) for key, value in found.items()}
    size, spacing = values["size"], values["spacing_mm"]
    if any(n < 1 or n != int(n) for n in size):
        raise ValueError(f"size is in whole pixels, [columns, rows]; found {found['size']}")
    size = [int(n) for n in size]
    if placed:
        row, column = np.array(values["row_axis"]), np.array(values["column_axis"])
        axes = np.stack([row, column, np.cross(row, column)], 1)
        grid = Grid((1, *size[::-1]), (*spacing, 1.0), values["origin_mm"], axes.tolist())
        return Detector(grid, values["source_mm"])
    return Detector.of_c_arm(
        size,
        spacing,
        source_to_detector=values["source_to_detector_mm"][0],
        source_to_isocenter=values["source_to_isocenter_mm"][0],
        primary_deg=values.get("primary_angle_deg", [0.0])[0],
        secondary_deg=values.get("secondary_angle_deg", [0.0])[0],
        principal_point=values.get("principal_point"),
    )


def _numbers(key: str, value: Any, count: int) -> list[float]:
    """``count`` finite numbers, or ValueError."""
    parts = value if isinstance(value, list) else [value]
    numbers = [part for part in parts if isinstance(part, (int, float)) and math.isfinite(part)]
    if len(numbers) != len(parts) or len(parts) != count or any(map(_is_truth, parts)):
        raise ValueError(f"{key} should be {count} number(s), found {value!r}")
    return [float(number) for number in numbers]


def _is_truth(part: Any) -> bool:
    return isinstance(part, bool)
