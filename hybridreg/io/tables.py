"""Tables of cases and files of landmarks, in the dialects that people have them in."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from hybridreg.geometry import Grid, apply_matrix
from hybridreg.images import LandmarkSet
from hybridreg.io.files import errors_of, read_text, whole_file

_LPS, _RAS = (1.0, 1.0, 1.0), (-1.0, -1.0, 1.0)  # what to multiply coordinates with to get LPS
_AXES = {  # names of the coordinate columns -> which way they point
    ("x", "y", "z"): _LPS,
    ("x_mm", "y_mm", "z_mm"): _LPS,
    ("l", "p", "s"): _LPS,
    ("r", "a", "s"): _RAS,
}
_NAME_COLUMNS = ("name", "label")
_OTHER_COLUMNS = {"t", "mass", "volume", "count", "comment", "id", "index"}  # ANTs' and counters
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")  # a spreadsheet may run such a cell


def read_landmarks(
    path: str | Path, *, dimension: int | None = None, grid: Grid | None = None
) -> LandmarkSet:
    """The points of a landmark file in LPS mm.

    Known are CSV with a header x,y[,z][,name] in LPS mm (r,a,s columns are converted; ANTs' own
    x,y,z,t,label too), elastix point files, Slicer's .fcsv and .mrk.json, and bare columns of LPS
    mm. dimension: of the images; a third coordinate that is always 0 is then dropped for 2D.
    grid: of the image, which tells the dimension too and places elastix's voxel indices ("index").
    """
    path = Path(path)
    with errors_of(path):
        text = read_text(path)
        lines = (line.strip() for line in text.splitlines())
        first = next((line for line in lines if line and not line.startswith("#")), "")
        if path.suffix == ".json":
            landmarks = _slicer_json(text)
        elif path.suffix == ".fcsv":
            landmarks = _slicer_csv(text)
        elif first.lower() in ("point", "index"):
            landmarks = _elastix_points(text, grid)
        elif all(map(_is_number, _cells(first))):
            landmarks = _landmarks(_bare_rows(text.splitlines(), first_line=1))
        else:
            landmarks = _named_columns(text)
        if dimension is None and grid is not None:
            dimension = grid.dimension
        return _of_dimension(landmarks, dimension)


def write_landmarks(path: str | Path, landmarks: LandmarkSet):
    """Writes CSV with the columns name,x,y[,z] in LPS mm, in full precision.

    A name that a spreadsheet would run as a formula gets a leading apostrophe, which
    ``read_landmarks`` takes away again.
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["name", *"xyz"[: landmarks.points.shape[1]]])
    for name, point in zip(landmarks.names, landmarks.points.tolist(), strict=True):
        table.writerow(["'" + name if name.startswith(_FORMULA_STARTS) else name, *point])
    with whole_file(Path(path)) as partial:
        partial.write_text(out.getvalue(), encoding="utf-8")


@dataclass(frozen=True)
class CaseRow:
    """One line of a case table: a name for the output, and the files of a registration problem.

    subject: of the person, for statistics; empty where unknown. fixed, moving: image files, or
    folders of DICOM slices. *_points guide the registration, *_landmarks and *_labels judge it.
    """

    name: str
    fixed: Path
    moving: Path
    subject: str = ""
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_landmarks: Path | None = None
    moving_landmarks: Path | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None
    initial: Path | None = None


_PAIRED = ("labels", "landmarks", "points")
_IMAGE_ENDINGS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgh", ".mgz", ".png")


def absolute(case: CaseRow) -> CaseRow:
    """The same case with paths that mean the same in every process."""
    values = {field.name: getattr(case, field.name) for field in fields(case)}
    return CaseRow(**{k: v.absolute() if isinstance(v, Path) else v for k, v in values.items()})


def without_files(text: str, case: CaseRow) -> str:
    """A text in which the files of a case, and what lies in its folders, go by their column's name."""
    files = {str(v): f.name for f in fields(case) if isinstance(v := getattr(case, f.name), Path)}
    for file in sorted(files, key=len, reverse=True):
        text = re.sub(re.escape(file) + r"[^\s:;,'\"]*", files[file], text)
    return text


def pairs_of_folder(folder: str | Path) -> list[CaseRow]:
    """Every ordered pair of the images of a folder, named "fixed-moving" by their files.

    ValueError where there are fewer than two, or two whose names differ by their ending only.
    """
    folder = Path(folder)
    with errors_of(folder):
        if not folder.is_dir():
            raise ValueError("there is no such folder")
        images: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            ending = max((e for e in _IMAGE_ENDINGS if path.name.endswith(e)), key=len, default="")
            if ending and path.is_file():
                name = path.name.removesuffix(ending)
                if name in images:
                    raise ValueError(f"{images[name].name} and {path.name} have one name: move one")
                images[name] = path
        if len(images) < 2:
            raise ValueError(f"pairs need at least two images, found {len(images)}")
        cases = [
            CaseRow(f"{fixed}-{moving}", images[fixed], images[moving])
            for fixed, moving in itertools.permutations(images, 2)
        ]
        for case in cases:
            for fault in _faults(case, {"fixed": "given", "moving": "given"}):
                raise ValueError(fault)
        return cases


def read_case_table(path: str | Path) -> list[CaseRow]:
    """The cases of a CSV (or tab- or semicolon-separated) table with a header of CaseRow's fields.

    Relative paths start from the folder of the table. All that is wrong with the rows is told at
    once, so that a batch does not stop at its hundredth case.
    """
    path = Path(path)
    with errors_of(path):
        header, rows = _table(read_text(path))
        _check_columns(header)
        if not rows:
            raise ValueError("the table has no rows below its header")
        cases, faults = [], []
        seen: dict[str, int] = {}
        for line, cells in rows:
            case = _case(cells, path.parent)
            faults += [f"line {line}: {fault}" for fault in _faults(case, cells)]
            first = seen.setdefault(cells["name"].casefold(), line)
            if first != line:
                faults.append(f"line {line}: the name {cells['name']!r} is that of line {first}")
            cases.append(case)
        if faults:
            more = f"\n... and {len(faults) - 20} more" if len(faults) > 20 else ""
            raise ValueError("the table cannot be used:\n" + "\n".join(faults[:20]) + more)
        return cases


def _check_columns(header: Sequence[str]):
    known = [field.name for field in fields(CaseRow)]
    unknown = [name for name in header if name not in known]
    if unknown:
        raise ValueError(f"unknown columns {', '.join(unknown)}; known are {', '.join(known)}")
    needed = [field.name for field in fields(CaseRow) if field.default is MISSING]
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(f"the columns {', '.join(missing)} are missing; found {', '.join(header)}")


def _case(cells: dict[str, str], folder: Path) -> CaseRow:
    texts = {key: value for key, value in cells.items() if key in ("name", "subject")}
    paths = {key: folder / value for key, value in cells.items() if key not in texts and value}
    return CaseRow(**{"fixed": folder, "moving": folder, **texts, **paths})


def _faults(case: CaseRow, cells: dict[str, str]) -> Iterator[str]:
    if not re.fullmatch(r"\w([\w .-]*[\w-])?", case.name):
        yield (
            f"the name {case.name!r} cannot name a folder: "
            "use letters, digits, '-', '_', '.' and spaces"
        )
    for key in ("fixed", "moving"):
        if not cells[key]:
            yield f"the cell {key} is empty"
    for key in _PAIRED:
        if bool(cells.get(f"fixed_{key}")) != bool(cells.get(f"moving_{key}")):
            yield f"fixed_{key} and moving_{key} belong together: give both or neither"
    for field in fields(CaseRow):
        value = getattr(case, field.name)
        if isinstance(value, Path) and not value.exists():
            yield f"{field.name} does not exist: {value}"


def _named_columns(text: str) -> LandmarkSet:
    header, rows = _table(text)
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
    points = [
        [sign * _number(cells[name], line) for name, sign in zip(columns, signs, strict=False)]
        for line, cells in rows
    ]
    key = next((name for name in _NAME_COLUMNS if name in header), None)
    return _landmarks(points, [_unguarded(cells[key]) for _, cells in rows] if key else ())


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
            "the points are voxel indices ('index'): their image must be given to place them in mm"
        )
    landmarks = _of_dimension(landmarks, grid.dimension)
    return LandmarkSet(apply_matrix(grid.voxel_to_physical(), landmarks.points))


def _slicer_csv(text: str) -> LandmarkSet:
    """Slicer's .fcsv: comments that name the coordinate system and the columns, then rows."""
    comments = dict(re.findall(r"^#\s*(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    system = comments.get("CoordinateSystem", "")
    signs = {"LPS": _LPS, "1": _LPS, "RAS": _RAS, "0": _RAS}.get(system)
    if signs is None or "columns" not in comments:
        raise ValueError(
            "a Slicer .fcsv file tells its columns and CoordinateSystem (LPS or RAS) in its first "
            f"lines; found {system or 'none'}: save it again from Slicer, or make a CSV of it"
        )
    points, names = [], []
    rows = csv.reader(text.splitlines())
    for row in rows:
        if row and not row[0].startswith("#"):
            # Rows may have fewer cells than columns: the last ones are texts.
            cells = dict(zip(comments["columns"].split(","), row, strict=False))
            point = [_number(cells.get(axis, ""), rows.line_num) for axis in "xyz"]
            points.append([s * v for s, v in zip(signs, point, strict=True)])
            names.append(cells.get("label", ""))
    return _landmarks(points, names)


def _slicer_json(text: str) -> LandmarkSet:
    """Slicer's .mrk.json with one list of points."""
    try:
        markups = json.loads(text)["markups"]
        points = [
            (point["position"], str(point.get("label", "")))
            for markup in markups
            for point in markup["controlPoints"]
        ]
        systems = {(m["coordinateSystem"], m.get("coordinateUnits", "mm")) for m in markups}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("this is not a Slicer markups file (.mrk.json)") from error
    if systems not in ({("LPS", "mm")}, {("RAS", "mm")}):
        raise ValueError(
            f"the points should be in LPS or RAS mm, found {sorted(map(str, systems))}"
        )
    signs = _LPS if systems == {("LPS", "mm")} else _RAS
    rows = []
    for position, label in points:
        if not isinstance(position, list) or len(position) != 3:
            raise ValueError(f"the point {label!r} has no position: place or delete it in Slicer")
        rows.append([s * _number(str(v), label) for s, v in zip(signs, position, strict=True)])
    return _landmarks(rows, [label for _, label in points])


def _bare_rows(lines: Sequence[str], *, first_line: int) -> list[list[float]]:
    rows: list[list[float]] = []
    for number, line in enumerate(lines, first_line):
        if not line.strip() or line.startswith("#"):
            continue
        rows.append([_number(cell, number) for cell in _cells(line)])
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
        raise ValueError(
            f"{'line' if isinstance(where, int) else 'point'} {where}: a coordinate in mm should "
            f"stand here, not {text!r}"
        )
    return value


def _table(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header, and for each row its line number and its cells by column."""
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError("the table is empty")
    header = [name.lower() for name in rows[0][1]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"the column {twice[0]!r} occurs twice in the header")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(f"line {line}: {len(header)} cells expected, found {len(row)}")
    return header, [(line, dict(zip(header, row, strict=True))) for line, row in rows[1:]]
