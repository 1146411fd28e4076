"""Tables of cases, and reading of tables with a header in general."""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from hybridreg.io.files import errors_of, named_by_role, read_text
from hybridreg.io.image_folders import images_of

DECIMAL_COMMA = "decimals need a point, not a comma"


@dataclass(frozen=True)
class CaseRow:
    """One line of a case table: a name for the output, and the files of a registration problem.

    subject: of the person, for statistics; empty if unknown. fixed, moving: image files, or
    folders of DICOM slices. *_points guide the registration; *_landmarks, *_labels and truth, the
    true transform, evaluate it.
    more: further columns of its table; methods do not use them, and records repeat them.
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
    truth: Path | None = None
    more: Mapping[str, str] = field(default_factory=dict, hash=False)


_COLUMNS = tuple(field.name for field in fields(CaseRow) if field.name != "more")
_ALIKE = 0.85  # fixed_label is as close to fixed_labels (.96), subject_id not to subject (.82)
_PAIRED = ("labels", "landmarks", "points")


def absolute(case: CaseRow) -> CaseRow:
    """The same case with absolute paths."""
    values = {field.name: getattr(case, field.name) for field in fields(case)}
    return CaseRow(**{k: v.absolute() if isinstance(v, Path) else v for k, v in values.items()})


def without_files(text: str, case: CaseRow) -> str:
    """A text with the file and folder names of a case replaced by the names of their columns."""
    files = {str(v): f.name for f in fields(case) if isinstance(v := getattr(case, f.name), Path)}
    return named_by_role(text, files)


def pairs_of_folder(folder: str | Path) -> list[CaseRow]:
    """Every ordered pair of the images of a folder, named "fixed-moving" by their files.

    ValueError if there are fewer than two, or for an invalid file (see ``images_of``).
    """
    folder = Path(folder)
    with errors_of(folder):
        images = images_of(folder)
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

    Further columns go into ``CaseRow.more``, unless their names look like a misspelled field.
    Relative paths start from the folder of the table. All errors in the rows are reported at
    once, so that a batch does not stop at its hundredth case.
    """
    path = Path(path)
    with errors_of(path):
        header, rows = read_table(read_text(path))
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
    if "" in header:
        raise ValueError(f"column {header.index('') + 1} has no name: name it or take it out")
    for name in set(header) - set(_COLUMNS):
        parts = {part for column in _COLUMNS for part in column.split("_")} - {"fixed", "moving"}
        near = difflib.get_close_matches(name, [*_COLUMNS, *parts], n=1, cutoff=_ALIKE)
        if near:
            raise ValueError(
                f"the column {name!r} looks like a misspelled one; known are "
                f"{', '.join(_COLUMNS)}: correct it, or give a column of your own another name"
            )
    needed = [f.name for f in fields(CaseRow) if f.name in _COLUMNS and f.default is MISSING]
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(f"the columns {', '.join(missing)} are missing; found {', '.join(header)}")


def _case(cells: dict[str, str], folder: Path) -> CaseRow:
    more = {key: value for key, value in cells.items() if key not in _COLUMNS}
    texts = {key: value for key, value in cells.items() if key in ("name", "subject")}
    paths = {
        key: folder / value
        for key, value in cells.items()
        if value and key not in texts and key not in more
    }
    return CaseRow(**{"fixed": folder, "moving": folder, **texts, **paths}, more=more)


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
    for column in fields(CaseRow):
        value = getattr(case, column.name)
        if isinstance(value, Path) and not value.exists():
            yield f"{column.name} does not exist: {value}"


def read_table(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header in lower case, and for each row its line number and its cells by column.

    Commas, semicolons or tabs may separate the cells (ValueError for a damaged table).
    """
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
            comma = delimiter == "," and len(row) > len(header)
            hint = f" (a cell with a comma needs quotes; {DECIMAL_COMMA})" if comma else ""
            raise ValueError(f"line {line}: {len(header)} cells expected, found {len(row)}{hint}")
    return header, [(line, dict(zip(header, row, strict=True))) for line, row in rows[1:]]
