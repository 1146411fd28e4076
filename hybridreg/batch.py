"""Registers all cases of a table on the cluster; interruptible and resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hybridreg import pipeline
from hybridreg.case_files import BESIDE
from hybridreg.cluster import Ended, Limits, Local, Place, run
from hybridreg.config import (
    describe_method,
    files_of,
    load_method,
    preset_of,
    with_settings,
)
from hybridreg.io.files import errors_of, read_text, whole_file
from hybridreg.io.inputs import changed_inputs
from hybridreg.io.output import RESULT, write_json
from hybridreg.io.settings import check_same_settings
from hybridreg.io.tables import CaseRow, absolute, without_files
from hybridreg.records import COLUMNS, Record, read_records, write_records

BATCH, RECORDS = "batch.json", "records"


@dataclass(frozen=True)
class Order:
    """How all cases of a table are registered: as ``pipeline.register`` takes it.

    method: paths in it must be absolute. initial: the initial transform of cases that name none.
    report: write the report page of every case.
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
        """The settings common to all results of a folder (ValueError for an unknown method)."""
        method = with_settings(load_method(self.method), seed=self.seed, device=self.device)
        found = {
            "method": describe_method(method),
            "fuse": self.fuse,
            "interpolation": self.interpolation,
            "initial": self.initial and str(self.initial),
        }
        found |= files_of(found["method"])
        return json.loads(json.dumps(found, default=str))


@dataclass(frozen=True)
class Batch:
    """The results of a run. records: one row per case of the table, in its order.
    skipped: cases that were finished before. changed: those finished before from other inputs.
    """

    folder: Path
    skipped: tuple[str, ...]
    changed: tuple[str, ...]
    ends: tuple[Ended, ...]
    records: tuple[Record, ...]


def register_table(
    rows: Sequence[CaseRow],
    folder: str | Path,
    order: Order,
    *,
    place: Place = Local(),
    limits: Limits = Limits(),
    callback: Callable[[Ended], None] = lambda ended: None,
) -> Batch:
    """Writes one output folder per case into a folder, and records.csv and records.json over all.

    Finished cases are not registered again, so an interrupted run is continued by the same call.
    Cases whose input files have changed since (by their hashes) are registered again, and their old
    output stays until the new one is complete. A folder that was started with another method is
    refused (ValueError). Failure reasons name files by their columns, unless identifiers are kept.
    Records repeat the table's further columns (``CaseRow.more``).
    """
    folder = Path(folder)
    _check_columns(rows)
    _begin(folder, order.settings)
    finished = [row for row in rows if (folder / row.name / RESULT).is_file()]
    changed = changed_inputs(
        {row.name: _files(row, order) for row in finished},
        {row.name: _hashes(_result(folder / row.name)) for row in finished},
    )
    done = {row.name for row in finished} - changed.keys()
    todo = {row.name: absolute(row) for row in rows if row.name not in done}
    ends: list[Ended] = []

    def on_end(ended: Ended):
        if not order.keep_identifiers:
            ended = replace(ended, reason=without_files(ended.reason, todo[ended.name]))
        ends.append(ended)
        callback(ended)

    try:
        register = partial(register_case, folder.resolve(), order)
        run(register, todo, place=place, limits=limits, callback=on_end)
    finally:  # also the cases done before Ctrl-C
        records = _records(rows, folder, order, ends, done)
        write_records(folder, records, name=RECORDS)
    skipped = tuple(row.name for row in rows if row.name in done)
    return Batch(folder, skipped, tuple(changed), tuple(ends), tuple(records))


def register_case(folder: Path, order: Order, name: str, row: CaseRow) -> dict[str, Any]:
    """Registers one case into its output folder; returns its verdict."""
    inputs = {key: getattr(row, key) for key in BESIDE}
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
    # An existing output was made from other inputs, or by another worker from the same ones.
    outcome.save(folder / name, overwrite=True, report=order.report)
    return {"verdict": outcome.verdict.status}


def _files(row: CaseRow, order: Order) -> dict[str, Path]:
    """The input files of a case, by their names in its result."""
    files = {key: getattr(row, key) for key in ("fixed", "moving", *BESIDE)}
    files["initial"] = row.initial or order.initial
    return {key: file for key, file in files.items() if isinstance(file, Path)}


def _hashes(result: Mapping[str, Any]) -> dict[str, str]:
    inputs = result["inputs"].items()
    return {name: about["sha256"] for name, about in inputs if "sha256" in about}


def _begin(folder: Path, settings: Mapping[str, Any]):
    """Makes the folder for a new batch, or checks that it holds this same batch (ValueError)."""
    with errors_of(folder):
        if folder.exists() and not folder.is_dir():
            raise ValueError("this is a file; the output is a folder: choose another name")
        about = folder / BATCH
        if not about.is_file():
            if folder.is_dir() and any(folder.iterdir()):
                raise ValueError(
                    f"this folder has files but no {BATCH}, so it was not written by hybridreg: "
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
        check_same_settings(found, settings)


def _check_columns(rows: Sequence[CaseRow]):
    more = {column for row in rows for column in row.more}
    if taken := sorted(more & {*COLUMNS}):
        raise ValueError(f"the records have columns {', '.join(taken)} already: rename yours")


def _records(
    rows: Sequence[CaseRow],
    folder: Path,
    order: Order,
    ends: Sequence[Ended],
    done: Collection[str],
) -> list[Record]:
    """One record per case, from its output folder, or from its failure. done: before this run."""
    ended = {end.name: end for end in ends}
    before = {record.name: record for record in _earlier(folder)}
    method = preset_of(order.method) or order.settings["method"]["name"]
    found = []
    for row in rows:
        known = {"subject": row.subject or "", "more": row.more}
        end = ended.get(row.name)
        if end is not None:
            used = {
                "total_s": end.seconds,
                "cpu_s": end.cpu_s or None,
                "peak_memory_mb": round(end.peak_memory_bytes / 1e6) or None,
            }
            if end.failed:
                failure = {"status": "failed", "reason": end.reason, "method": method}
                found.append(Record(row.name, **failure, **known, **used))
            else:
                found.append(Record.of(_result(folder / row.name), row.name, **known, **used))
        elif row.name in done:
            old = before.get(row.name, Record(row.name))
            used = {name: getattr(old, name) for name in ("total_s", "cpu_s", "peak_memory_mb")}
            found.append(Record.of(_result(folder / row.name), row.name, **known, **used))
        else:
            missing = {"status": "missing", "reason": "not reached", "method": method}
            found.append(Record(row.name, **missing, **known))
    return found


def _earlier(folder: Path) -> list[Record]:
    """The records of earlier runs, which hold times that no output folder has; none if damaged."""
    try:
        return read_records(folder / f"{RECORDS}.json")
    except (ValueError, KeyError, OSError):
        return []


def _result(folder: Path) -> dict[str, Any]:
    path = folder / RESULT
    with errors_of(path):
        return json.loads(read_text(path))
