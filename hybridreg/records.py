"""Records: the result of one case with one method, one row each, as tables."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hybridreg.io.files import errors_of, read_text, whole_file
from hybridreg.io.output import finite, write_json


@dataclass(frozen=True)
class Headline:
    """A main score, shown first in tables and pages.

    name: of its column in records. path: its keys in result.json, with "after" (or "before")
    inserted after the first key. better: which direction is better. worst: the worst possible
    value; None where there is none, as of distances.
    """

    name: str
    title: str
    path: tuple[str, ...]
    better: Literal["higher", "lower"] = "lower"
    worst: float | None = None

    def of(self, result: Mapping[str, Any], side: Literal["before", "after"] = "after") -> Any:
        """Its value in a result.json; None if it was not measured."""
        first, *rest = self.path
        value: Any = result
        for key in (first, side, *rest):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


HEADLINES = (
    Headline(
        "mutual_information",
        "Mutual information (nats)",
        ("similarity", "mutual_information"),
        "higher",
    ),
    Headline("correlation", "Correlation", ("similarity", "correlation"), "higher"),
    Headline("dice", "Mean Dice", ("scores", "dice", "mean"), "higher", worst=0.0),
    Headline("hd95_mm", "Mean HD95 (mm)", ("scores", "surface", "mean_hd95_mm")),
    Headline("tre_mean_mm", "Landmark error, mean (mm)", ("scores", "landmarks", "mean_mm")),
    Headline("tre_max_mm", "Landmark error, largest (mm)", ("scores", "landmarks", "max_mm")),
    Headline("truth_mean_mm", "Error of the transform, mean (mm)", ("scores", "truth", "mean_mm")),
    Headline("truth_max_mm", "Error of the transform, largest (mm)", ("scores", "truth", "max_mm")),
    Headline(
        "projected_mean_mm", "Error on the detector, mean (mm)", ("scores", "projected", "mean_mm")
    ),
    Headline(
        "gradient_correlation",
        "Correlation of edges",
        ("similarity", "gradient_correlation"),
        "higher",
    ),
    Headline("log_jacobian_sd", "SD of log det", ("scores", "jacobian", "log_sd")),
    Headline("folding_percent", "Folded voxels (%)", ("scores", "jacobian", "folding_percent")),
    Headline("ndv_percent", "Non-diffeomorphic volume (%)", ("comparison", "ndv_percent")),
    Headline(
        "inverse_mm", "Inverse consistency (mm)", ("scores", "inverse_consistency", "mean_mm")
    ),
    Headline("capture_mm", "Capture range (mm)", ("comparison", "capture_mm"), "higher", worst=0.0),
)


def compared(result: Mapping[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """(title, before, after) of every headline that was measured after the registration."""
    rows = [(h.title, h.of(result, "before"), h.of(result, "after")) for h in HEADLINES]
    return [row for row in rows if row[2] is not None]


@dataclass(frozen=True)
class Record:
    """The result of one case with one method.

    name, subject: of the case. method: its name, such as that of a preset; config: 12 digits of the
    hash of all its settings. status: "done", "failed" or "missing" (not reached).
    verdict: "pass", "warn" or "fail"; empty unless done. reason: of the verdict or the failure.
    register_s: of the registration; total_s, cpu_s: of all that was done for the case, wall and
    processor seconds; peak_memory_mb: resident, of all its processes together; None where not
    measured.
    scores: by the names of ``HEADLINES``; None where not measured. more: other columns of the table
    of cases. version: of hybridreg.
    """

    name: str
    subject: str = ""
    method: str = ""
    status: Literal["done", "failed", "missing"] = "done"
    verdict: str = ""
    reason: str = ""
    register_s: float | None = None
    total_s: float | None = None
    cpu_s: float | None = None
    peak_memory_mb: float | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    version: str = ""

    @classmethod
    def of(cls, result: Mapping[str, Any], name: str, **known: Any) -> Record:
        """The record of a result.json; ``known``: further fields."""
        verdict = result["verdict"] or {"status": "", "reasons": ()}
        found = {
            "method": result.get("preset") or result["method"]["name"],
            "verdict": verdict["status"],
            "reason": "; ".join(verdict["reasons"]),
            "register_s": result["times_s"].get("register"),
            "scores": {headline.name: headline.of(result) for headline in HEADLINES},
            "config": config_hash(result["method"]),
            "version": result["versions"]["hybridreg"],
        }
        return cls(name, **{**found, **known})

    def row(self) -> dict[str, Any]:
        """One flat row: the fields, with scores and further columns in place of their tables."""
        found = asdict(self)
        scores, more = found.pop("scores"), found.pop("more")
        reason = found.pop("reason")
        empty = dict.fromkeys(headline.name for headline in HEADLINES)
        return {**found, **empty, **scores, **more, "reason": reason}


COLUMNS = tuple(Record("").row())


def config_hash(method: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that depend on all settings of a described method."""
    text = json.dumps(method, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_records(folder: Path, records: Sequence[Record], *, name: str = "records"):
    """Writes NAME.csv and NAME.json, one row per record, each completely or not at all."""
    rows = [record.row() for record in records]
    columns = dict.fromkeys([*COLUMNS[:-1], *(column for row in rows for column in row)])
    del columns["reason"]  # longest, so last
    out = io.StringIO()
    table = csv.DictWriter(out, [*columns, "reason"], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with whole_file(folder / f"{name}.csv") as partial:
        partial.write_text(out.getvalue(), encoding="utf-8", errors="backslashreplace")
    with whole_file(folder / f"{name}.json") as partial:
        write_json(partial, finite({"records": rows}))


def read_records(path: str | Path) -> list[Record]:
    """The records of a records.csv or records.json (ValueError for anything else)."""
    path = Path(path)
    with errors_of(path):
        text = read_text(path)
        rows: Iterable[Mapping[str, Any]]
        if path.suffix == ".json":
            found = json.loads(text)
            if not isinstance(found, dict) or "records" not in found:
                raise ValueError("these are no records: it lacks a list of that name")
            rows = found["records"]
        else:
            rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return [record_of_row(row) for row in rows]


def record_of_row(row: Mapping[str, Any]) -> Record:
    """The record of a flat row (ValueError for a row of something else)."""
    names = {column.name for column in fields(Record)}
    numbers = {"register_s", "total_s", "cpu_s", "peak_memory_mb"}
    scores = {headline.name for headline in HEADLINES}
    if missing := {"name", "status", "method"} - row.keys():
        raise ValueError(f"these are no records: columns are missing: {', '.join(sorted(missing))}")
    known = {
        key: _number(value) if key in numbers else value or ""
        for key, value in row.items()
        if key in names
    }
    return Record(
        **known,
        scores={key: _number(value) for key, value in row.items() if key in scores},
        more={key: value for key, value in row.items() if key not in names | scores},
    )


def _number(value: Any) -> float | None:
    return None if value in (None, "") else float(value)
