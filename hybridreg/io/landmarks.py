"""Files of landmarks and points in all supported formats."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hybridreg.geometry import Grid, apply_matrix
from hybridreg.images import LandmarkSet
from hybridreg.io import slicer_files
from hybridreg.io.files import errors_of, read_text, whole_file
from hybridreg.io.slicer_files import LPS, RAS, ControlPoint, Signs
from hybridreg.io.tables import DECIMAL_COMMA, read_table

log = logging.getLogger(__name__)

_AXES = {  # names of the coordinate columns -> which way they point
    ("x", "y", "z"): LPS,
    ("x_mm", "y_mm", "z_mm"): LPS,
    ("l", "p", "s"): LPS,
    ("r", "a", "s"): RAS,
}
_NAME_COLUMNS = ("name", "label")
_OTHER_COLUMNS = {
    *("t", "mass", "volume", "count", "comment", "id", "index"),  # ANTs' and counters
    *("defined", "selected", "visible", "locked", "description"),  # Slicer's export of a table
}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")  # a spreadsheet may run such a cell


def read_landmarks(
    path: str | Path, *, dimension: int | None = None, grid: Grid | None = None
) -> LandmarkSet:
    """The points of a landmark file in LPS mm.

    Supported are CSV with a header x,y[,z][,name] in LPS mm (r,a,s columns are converted; ANTs' own
    x,y,z,t,label and Slicer's table too), elastix point files, transformix's outputpoints.txt (of
    which OutputPoint is read), Slicer's .fcsv and .mrk.json, and bare columns of LPS mm. Points
    that Slicer says are not placed are left out, with a warning. dimension: of the images; a third
    coordinate that is always 0 is then dropped for 2D. grid: of the image, which tells the
    dimension too and places elastix's voxel indices ("index").
    """
    path = Path(path)
    with errors_of(path):
        text = read_text(path)
        lines = (line.strip() for line in text.splitlines())
        first = next((line for line in lines if line and not line.startswith("#")), "")
        if path.suffix.lower() == ".json":
            landmarks = _placed(*slicer_files.read_markups(text))
        elif path.suffix.lower() == ".fcsv":
            landmarks = _placed(*slicer_files.read_fiducials(text))
        elif re.match(r"Point\s+\d+\s*;", first):
            landmarks = _transformix_points(text)
        elif first.lower() in ("point", "index"):
            landmarks = _elastix_points(text, grid)
        elif all(map(_is_number, _cells(first))):
            landmarks = _landmarks(_bare_rows(text.splitlines(), first_line=1))
        else:
            landmarks = _named_columns(text)
        if dimension is None and grid is not None:
            dimension = grid.dimension
        return _of_dimension(landmarks, dimension)


def landmark_writer(path: str | Path) -> Callable[[LandmarkSet], str]:
    """The function that formats a landmark file of this ending (ValueError if unknown)."""
    name = Path(path).name.lower()
    for ending, writer in _WRITERS.items():
        if name.endswith(ending):
            return writer
    raise ValueError(f"{path}: points are written as {', '.join(_WRITERS)}: choose one of these")


def write_landmarks(path: str | Path, landmarks: LandmarkSet):
    """Writes points in LPS mm and in full precision, in the format of the path's ending.

    .csv has the columns name,x,y[,z], .txt is an elastix point file (without names), and .fcsv and
    .mrk.json are Slicer's. A name that a spreadsheet would run as a formula gets a leading
    apostrophe in .csv, which ``read_landmarks`` removes.
    """
    text = landmark_writer(path)(landmarks)
    with whole_file(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8")


def _csv_text(landmarks: LandmarkSet) -> str:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["name", *"xyz"[: landmarks.points.shape[1]]])
    for name, point in zip(landmarks.names, landmarks.points.tolist(), strict=True):
        table.writerow(["'" + name if name.startswith(_FORMULA_STARTS) else name, *point])
    return out.getvalue()


def _elastix_text(landmarks: LandmarkSet) -> str:
    if landmarks.names != LandmarkSet(landmarks.points).names:
        log.warning("elastix's point files have no names: only the order of the points is kept")
    rows = [" ".join(map(repr, point)) for point in landmarks.points.tolist()]
    return "\n".join(["point", str(len(rows)), *rows, ""])


_WRITERS: dict[str, Callable[[LandmarkSet], str]] = {
    ".csv": _csv_text,
    ".fcsv": slicer_files.fiducials_text,
    ".mrk.json": slicer_files.markups_text,
    ".txt": _elastix_text,
}


def _named_columns(text: str) -> LandmarkSet:
    header, rows = read_table(text)
    axes = [names for names in _AXES if set(names[:2]) <= set(header)]
    if len(axes) != 1:
        raise ValueError(
            f"the columns are {', '.join(header)}; coordinates are read from x,y,z (or "
            "x_mm,y_mm,z_mm, or l,p,s) in LPS mm, or from r,a,s in RAS mm: rename or convert them"
        )
    names, signs = axes[0], _AXES[axes[0]]
    columns = [name for name in names if name in header]
    other = set(header) - set(columns) - set(_NAME_COLUMNS) - _OTHER_COLUMNS
    if other:
        raise ValueError(
            f"unknown columns {', '.join(sorted(other))}: coordinates are LPS mm and need no more "
            f"than {', '.join((*columns, 'name'))}; remove the others"
        )
    key = next((name for name in _NAME_COLUMNS if name in header), "")
    points = [
        ControlPoint(
            _unguarded(cells.get(key, "")),
            tuple(cells[column] for column in columns),
            cells.get("defined") != "0",
            line,
        )
        for line, cells in rows
    ]
    return _placed(signs, points)


def _placed(signs: Signs, points: Sequence[ControlPoint]) -> LandmarkSet:
    """The points that have a position; unnamed ones keep their original numbers."""
    undefined = [str(i) for i, point in enumerate(points, 1) if not point.defined]
    if undefined:
        log.warning(
            "%d of %d points have no position in Slicer and are left out (number %s)",
            *(len(undefined), len(points), ", ".join(undefined)),
        )
    named = any(point.label for point in points)
    names = [point.label if named else str(i) for i, point in enumerate(points, 1) if point.defined]
    rows = [
        [s * _number(text, point.where) for s, text in zip(signs, point.coordinates, strict=False)]
        for point in points
        if point.defined
    ]
    return _landmarks(rows, names)


def _unguarded(name: str) -> str:
    return name[1:] if name[:1] == "'" and name[1:].startswith(_FORMULA_STARTS) else name


def _elastix_points(text: str, grid: Grid | None) -> LandmarkSet:
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    kind, count = lines[start].strip().lower(), (lines[start + 1 :] or [""])[0].strip()
    if not count.isdecimal():
        raise ValueError(f"line {start + 2}: the number of points should stand here, not {count!r}")
    points = _bare_rows(lines[start + 2 :], first_line=start + 3)
    if len(points) != int(count):
        raise ValueError(f"line {start + 2} tells of {count} points, but {len(points)} follow")
    landmarks = _landmarks(points)
    if kind == "point":
        return landmarks
    if grid is None:
        raise ValueError(
            "the points are voxel indices ('index'): their image must be given to place them in mm "
            "(`hybridreg apply -f`)"
        )
    landmarks = _of_dimension(landmarks, grid.dimension)
    return LandmarkSet(apply_matrix(grid.voxel_to_physical(), landmarks.points))


def _transformix_points(text: str) -> LandmarkSet:
    points = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found = re.search(r"OutputPoint\s*=\s*\[([^]]*)\]", line)
            if found is None:
                raise ValueError(f"line {number}: transformix's OutputPoint should stand here")
            points.append([_number(cell, number) for cell in found[1].split()])
    log.warning("of transformix's points the OutputPoint was read: where the transform sends them")
    return _landmarks(points)


def _bare_rows(lines: Sequence[str], *, first_line: int) -> list[list[float]]:
    rows: list[list[float]] = []
    for number, line in enumerate(lines, first_line):
        if not line.strip() or line.startswith("#"):
            continue
        parts = re.split(r"\s*;\s*|,\s+|\s+,?\s*", line.strip())
        if len(parts) > 1 and any("," in part.strip(",") for part in parts):
            raise ValueError(f"line {number}: {DECIMAL_COMMA}, found {line.strip()[:60]!r}")
        rows.append([_number(cell, number) for cell in _cells(line)])
        if len(rows[-1]) not in (2, 3):
            raise ValueError(
                f"line {number}: 2 or 3 numbers expected, found {len(rows[-1])} ({DECIMAL_COMMA})"
            )
        if len(rows[-1]) != len(rows[0]):
            found = len(rows[-1])
            raise ValueError(f"line {number}: {len(rows[0])} numbers expected, found {found}")
    return rows


def _cells(line: str) -> list[str]:
    return re.split(r"[\s,;]+", line.strip())


def _landmarks(points: Sequence[Sequence[float]], names: Sequence[str] = ()) -> LandmarkSet:
    if not points:
        raise ValueError("there are no points in it")
    if not any(names):
        names = ()
    return LandmarkSet(torch.tensor(points, dtype=torch.float64), tuple(names))


def _of_dimension(landmarks: LandmarkSet, dimension: int | None) -> LandmarkSet:
    points: Tensor = landmarks.points
    if dimension is None or points.shape[1] == dimension:
        return landmarks
    if dimension == 2 and not points[:, 2].any():
        return LandmarkSet(points[:, :2], landmarks.names)
    raise ValueError(f"the points are {points.shape[1]}D, but the images are {dimension}D")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000, no one else does


def _number(text: str, where: int | str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value):
        comma = f" ({DECIMAL_COMMA})" if re.fullmatch(r"[-+]?\d*,\d+", text) else ""
        raise ValueError(
            f"{'line' if isinstance(where, int) else 'point'} {where}: a coordinate in mm should "
            f"stand here, not {text!r}{comma}"
        )
    return value
