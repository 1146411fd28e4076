"""What is known of one case and method, in a small file beside its output folder.

``cases/CASE/METHOD.json`` holds the record, the scores of each label and the hashes of all that
they depend on, also of failures; ``cases/CASE/METHOD/`` is the output folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridreg.io.files import whole_file
from hybridreg.io.output import RESULT, finite
from hybridreg.records import Record, record_of_row

CASES = "cases"


@dataclass(frozen=True)
class LabelScores:
    """One label of one case: Dice, and the 95th percentile of surface distance in mm."""

    label: int
    name: str
    dice: float
    hd95_mm: float | None


@dataclass(frozen=True)
class Entry:
    """The record of one case and method, and what it was made from.

    inputs: SHA-256 by the role of the file. starts: of the capture range, by number; the distance
    of the start and of the end from the result without perturbation, in mm (None: failed).
    """

    record: Record
    inputs: Mapping[str, str]
    labels: tuple[LabelScores, ...] = ()
    starts: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


def folder_of(root: Path, case: str, method: str) -> Path:
    """The output folder of a case and method."""
    return root / CASES / case / method


def write_entry(root: Path, entry: Entry):
    """Writes an entry beside its output folder, completely or not at all."""
    record = entry.record
    path = _path(root, record.name, record.method)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "record": record.row(),
        "inputs": entry.inputs,
        "labels": [[s.label, s.name, s.dice, s.hd95_mm] for s in entry.labels],
        "starts": entry.starts,
    }
    with whole_file(path) as partial:
        partial.write_text(
            json.dumps(finite(values)) + "\n", encoding="utf-8", errors="backslashreplace"
        )


def read_entry(root: Path, case: str, method: str) -> Entry | None:
    """The entry of a case and method; None where there is none, or a damaged one."""
    try:
        found = json.loads(_path(root, case, method).read_text(encoding="utf-8"))
        labels = tuple(LabelScores(*each) for each in found["labels"])
        starts = {number: tuple(ends) for number, ends in found["starts"].items()}
        return Entry(record_of_row(found["record"]), found["inputs"], labels, starts)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def entry_of_result(root: Path, case: str, method: str, **known: Any) -> Entry | None:
    """The entry of a finished output folder; None where there is none.

    known: further fields of the record.
    """
    try:
        path = folder_of(root, case, method) / RESULT
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    about = result["comparison"]
    record = Record.of({**result, "preset": method}, case, config=about["config"], **known)
    inputs = {role: each["sha256"] for role, each in result["inputs"].items() if "sha256" in each}
    return Entry(
        record, {**inputs, **about["inputs"]}, _labels(result["scores"]["after"]["labels"])
    )


def _path(root: Path, case: str, method: str) -> Path:
    return root / CASES / case / f"{method}.json"


def _labels(rows: Sequence[Mapping[str, Any]]) -> tuple[LabelScores, ...]:
    return tuple(LabelScores(r["label"], r["name"], r["dice"], r["hd95_mm"]) for r in rows)
