"""3D Slicer's files of points, markups (.mrk.json) and fiducials (.fcsv), read and written."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from hybridreg.images import LandmarkSet
from hybridreg.io.tables import DECIMAL_COMMA

Signs = tuple[float, float, float]  # what to multiply coordinates with to get LPS
LPS, RAS = (1.0, 1.0, 1.0), (-1.0, -1.0, 1.0)

_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_STATUS = "positionStatus"  # in a .fcsv, Slicer 5 writes it after the columns that it names
_DEFINED = ("2", "defined", None)  # of 0 undefined, 1 preview, 2 defined, 3 missing
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)


class ControlPoint(NamedTuple):
    """A point of a file; where: its line or label, for error messages.

    defined: whether it has been placed; other points have no valid coordinates.
    """

    label: str
    coordinates: tuple[str, ...]
    defined: bool
    where: int | str


def read_markups(text: str) -> tuple[Signs, list[ControlPoint]]:
    """The points of a .mrk.json in mm, of all its lists (ValueError)."""
    try:
        markups = json.loads(text)["markups"]
        systems = {(m["coordinateSystem"], _unit(m.get("coordinateUnits", "mm"))) for m in markups}
        points = [point for markup in markups for point in markup["controlPoints"]]
        found = list(map(_control_point, points))
    except (json.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise ValueError("this is not a Slicer markups file (.mrk.json)") from error
    if systems not in ({("LPS", "mm")}, {("RAS", "mm")}):
        raise ValueError(
            f"the points should be in LPS or RAS mm, found {sorted(map(str, systems))}"
        )
    return LPS if systems == {("LPS", "mm")} else RAS, found


def _unit(unit: str | list[str]) -> str:
    """Newer files have a code, its system and its meaning: ["mm", "UCUM", "millimeter"]."""
    return unit if isinstance(unit, str) else unit[0]


def _control_point(point: dict[str, Any]) -> ControlPoint:
    label, position = str(point.get("label", "")), point.get("position")
    defined = point.get(_STATUS) in _DEFINED
    if defined and (not isinstance(position, list) or len(position) != 3):
        raise ValueError(f"the point {label!r} has no position: place or delete it in Slicer")
    return ControlPoint(label, tuple(map(str, position or ())), defined, label)


def read_fiducials(text: str) -> tuple[Signs, list[ControlPoint]]:
    """The points of a .fcsv: comments with the coordinate system and the columns, then rows."""
    comments = dict(re.findall(r"^#\s*(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    system = comments.get("CoordinateSystem", "")
    signs = {"LPS": LPS, "1": LPS, "RAS": RAS, "0": RAS}.get(system)
    if signs is None or "columns" not in comments:
        raise ValueError(
            "a Slicer .fcsv file tells its columns and CoordinateSystem (LPS or RAS) in its first "
            f"lines; found {system or 'none'}: save it again from Slicer, or make a CSV of it"
        )
    return signs, list(_fiducials(text, comments["columns"].split(",")))


def _fiducials(text: str, columns: list[str]) -> Iterator[ControlPoint]:
    if _STATUS not in columns:
        columns = [*columns, _STATUS]
    rows = csv.reader(text.splitlines())
    for row in rows:
        if row and not row[0].startswith("#"):
            # Rows may have fewer cells than columns, which end in texts; Slicer 5 writes more.
            if len(row) > len(columns) + 1:
                raise ValueError(
                    f"line {rows.line_num}: {len(columns) + 1} cells expected, found {len(row)} "
                    f"({DECIMAL_COMMA})"
                )
            cells = dict(zip(columns, row, strict=False))
            position = tuple(cells.get(axis, "") for axis in "xyz")
            defined = (cells.get(_STATUS) or None) in _DEFINED
            yield ControlPoint(cells.get("label", ""), position, defined, rows.line_num)


def markups_text(landmarks: LandmarkSet) -> str:
    """A .mrk.json in LPS mm; 2D points get z = 0."""
    points = [
        {"id": str(i), "label": name, "position": point, _STATUS: "defined"}
        for i, (name, point) in enumerate(_in_3d(landmarks), 1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": points,
    }
    content = {"@schema": _SCHEMA, "markups": [markup]}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def fiducials_text(landmarks: LandmarkSet) -> str:
    """A .fcsv in LPS mm; 2D points get z = 0."""
    out = io.StringIO()
    out.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
    out.write(f"# columns = {_COLUMNS}\n")
    table = csv.writer(out, lineterminator="\n")
    for i, (name, point) in enumerate(_in_3d(landmarks), 1):
        table.writerow([i, *point, 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    return out.getvalue()


def _in_3d(landmarks: LandmarkSet) -> Iterator[tuple[str, list[float]]]:
    for name, point in zip(landmarks.names, landmarks.points.tolist(), strict=True):
        yield name, [*point, 0.0][:3]
