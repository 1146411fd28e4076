"""Registers all cases of a table, on the cluster; broken off and continued at will."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hybridreg import pipeline
from hybridreg.cluster import Ended, Limits, Local, Place, run
from hybridreg.config import describe_method, load_method, with_settings
from hybridreg.io.files import errors_of, read_text, whole_file
from hybridreg.io.output import RESULT, finite, write_json
from hybridreg.io.tables import CaseRow, absolute, without_files
from hybridreg.pipeline import LABELS, LANDMARKS, MASKS, POINTS

BATCH, RECORDS = "batch.json", "records"
_SCORES = {  # column -> where its value stands in result.json
    "dice": ("scores", "after", "dice", "mean"),
    "tre_mean_mm": ("scores", "after", "landmarks", "mean_mm"),
    "folding_percent": ("scores", "after", "jacobian", "folding_percent"),
    "mutual_information": ("similarity", "after", "mutual_information"),
    "correlation": ("similarity", "after", "correlation"),
    "register_s": ("times_s", "register"),
}


@dataclass(frozen=True)
class Order:
    """How all cases of a table are registered: as ``pipeline.register`` takes it.

    method: paths in it must be absolute. initial: where cases start that name no transform of their
    own. report: write the page of every case.
    """

    method: str | Path | Mapping[str, Any]
    seed: int | None = None
    device: str = "cpu"
    keep_identifiers: bool = False
    fuse: str | None = None
    interpolation: str = "linear"
    initial: str | Path | None = None
    report: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What all results of a folder have in common (ValueError for an unknown method)."""
        method = with_settings(load_method(self.method), seed=self.seed, device=self.device)
        found = {
            "method": describe_method(method),
            "fuse": self.fuse,
            "interpolation": self.interpolation,
            "initial": self.initial and str(self.initial),
        }
        return json.loads(json.dumps(found, default=str))


@dataclass(frozen=True)
class Batch:
    """What came of a run. records: one row a case of the table, in its order."""

    folder: Path
    skipped: tuple[str, ...]
    ends: tuple[Ended, ...]
    records: tuple[Mapping[str, Any], ...]


def register_table(
    rows: Sequence[CaseRow],
    folder: str | Path,
    order: Order,
    *,
    place: Place = Local(),
    limits: Limits = Limits(),
    heard: Callable[[Ended], None] = lambda ended: None,
) -> Batch:
    """Writes one output folder a case into a folder, and records.csv and records.json over all.

    Cases that have their output are not registered again, so a run that was broken off is continued
    by the same call; a folder that was begun with another method is refused (ValueError). Reasons
    call files by their columns, unless identifiers are kept.
    """
    folder = Path(folder)
    _begin(folder, order.settings)
    done = {row.name for row in rows if (folder / row.name / RESULT).is_file()}
    todo = {row.name: absolute(row) for row in rows if row.name not in done}
    ends: list[Ended] = []

    def told(ended: Ended):
        if not order.keep_identifiers:
            ended = replace(ended, reason=without_files(ended.reason, todo[ended.name]))
        ends.append(ended)
        heard(ended)

    try:
        register = partial(register_case, folder.resolve(), order)
        run(register, todo, place=place, limits=limits, heard=told)
    finally:  # also of what was done before Ctrl-C
        records = _records(rows, folder, ends)
        _write(folder, records)
    skipped = tuple(row.name for row in rows if row.name in done)
    return Batch(folder, skipped, tuple(ends), tuple(records))


def register_case(folder: Path, order: Order, name: str, row: CaseRow) -> dict[str, Any]:
    """Registers one case into its output folder; gives its verdict."""
    inputs = {key: getattr(row, key) for key in (*MASKS, *POINTS, *LABELS, *LANDMARKS)}
    outcome = pipeline.register(
        row.fixed,
        row.moving,
        order.method,
        initial=row.initial or order.initial,
        seed=order.seed,
        device=order.device,
        keep_identifiers=order.keep_identifiers,
        fuse=order.fuse,
        interpolation=order.interpolation,
        **inputs,
    )
    outcome.save(folder / name, report=order.report)
    return {"verdict": outcome.verdict.status}


def _begin(folder: Path, settings: Mapping[str, Any]):
    """Makes the folder for a new batch, or makes sure that it holds this very one."""
    with errors_of(folder):
        if folder.exists() and not folder.is_dir():
            raise ValueError("this is a file; the output is a folder: choose another name")
        about = folder / BATCH
        if not about.is_file():
            if folder.is_dir() and any(folder.iterdir()):
                raise ValueError(
                    f"this folder has files but no {BATCH}, so it is no output of ours: "
                    "choose another or an empty one"
                )
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(about) as partial_file:
                write_json(partial_file, settings)
            return
        try:
            found = json.loads(read_text(about))
        except ValueError as error:
            raise ValueError(f"its {BATCH} is damaged ({error}): choose another folder") from error
        if found != settings:
            raise ValueError(
                "this folder was begun with another method or other settings (see its "
                f"{BATCH}): give the same ones, or choose another folder"
            )


def _records(rows: Sequence[CaseRow], folder: Path, ends: Sequence[Ended]) -> list[dict[str, Any]]:
    """One record a case, from its output folder, or from how it failed."""
    by_name = {ended.name: ended for ended in ends}
    return [_record(row, folder, by_name.get(row.name)) for row in rows]


def _record(row: CaseRow, folder: Path, ended: Ended | None) -> dict[str, Any]:
    record: dict[str, Any] = {"name": row.name, "subject": row.subject}
    if ended is not None and ended.failed:
        return {**record, "status": "failed", "reason": ended.reason}
    if not (folder / row.name / RESULT).is_file():
        return {**record, "status": "missing", "reason": "not reached"}
    result = json.loads((folder / row.name / RESULT).read_text(encoding="utf-8"))
    verdict = result["verdict"]
    scores = {column: _dig(result, path) for column, path in _SCORES.items()}
    reason = "; ".join(verdict["reasons"])
    return {**record, "status": "done", "verdict": verdict["status"], "reason": reason, **scores}


def _dig(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = (value or {}).get(key)
    return value


def _write(folder: Path, records: Sequence[Mapping[str, Any]]):
    columns = ("name", "subject", "status", "verdict", *_SCORES, "reason")
    out = io.StringIO()
    table = csv.DictWriter(out, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    with whole_file(folder / f"{RECORDS}.csv") as partial_file:
        partial_file.write_text(out.getvalue(), encoding="utf-8")
    with whole_file(folder / f"{RECORDS}.json") as partial_file:
        write_json(partial_file, finite({"records": list(records)}))
