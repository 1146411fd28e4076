"""The folder of a comparison: records, labels, tables, what was compared, and the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hybridreg.comparison.contenders import Contender
from hybridreg.comparison.entries import Entry, read_entry
from hybridreg.comparison.page import page
from hybridreg.comparison.summary import Summary, label_rows, summarize
from hybridreg.comparison.tables import latex, markdown
from hybridreg.io.files import errors_of, read_text, whole_file
from hybridreg.io.output import COMPARISON, REPORT, write_json
from hybridreg.records import Record, read_records, write_records

RECORDS = "records"


@dataclass(frozen=True, eq=False)
class Comparison:
    """The results of all methods on all cases.

    entries: of every case and method. contenders: the methods. notes: what a reader must know.
    settings: how they are compared, the fields of ``Settings``. kept: how many entries were there
    before this run.
    """

    folder: Path
    entries: Sequence[Entry]
    contenders: Sequence[Contender]
    notes: Sequence[str]
    settings: Mapping[str, Any]
    kept: int = field(default=0)

    @property
    def records(self) -> list[Record]:
        """One per case and method."""
        return [entry.record for entry in self.entries]

    @cached_property
    def summary(self) -> Summary:
        """All statistics."""
        return summarize(
            self.records,
            reference=self.settings["reference"],
            score=self.settings["score"],
            margin=self.settings["margin"],
            baselines=[each.name for each in self.contenders if each.added],
        )


def write_comparison(comparison: Comparison):
    """Writes everything at the top of the folder, each file completely or not at all."""
    folder = comparison.folder
    write_records(folder, comparison.records, name=RECORDS)
    _write(folder / "labels.csv", _labels(comparison.entries))
    state = {
        "schema": 1,
        "settings": comparison.settings,
        "notes": comparison.notes,
        "methods": [
            {"name": c.name, "config": c.config, "added": c.added, "settings": c.settings}
            for c in comparison.contenders
        ],
    }
    with whole_file(folder / COMPARISON) as partial:
        write_json(partial, state)
    write_page(comparison)


def write_page(comparison: Comparison) -> Path:
    """Writes report.html, table.md and table.tex; gives the path of the page."""
    folder = comparison.folder
    names = [each.name for each in comparison.contenders]
    labels = label_rows(comparison.entries, names)
    _write(folder / "table.md", markdown(comparison.summary))
    _write(folder / "table.tex", latex(comparison.summary))
    _write(folder / REPORT, page(comparison, labels))
    return folder / REPORT


def read_comparison(folder: str | Path) -> Comparison:
    """The comparison in a folder (ValueError where there is none)."""
    folder = Path(folder)
    with errors_of(folder / COMPARISON):
        state = json.loads(read_text(folder / COMPARISON))
        if "methods" not in state:
            raise ValueError("this comparison has no results yet: run it again")
        found = [
            Contender(each["name"], each["name"], each["settings"], each["added"])
            for each in state["methods"]
        ]
    entries = []
    for record in read_records(folder / f"{RECORDS}.json"):
        entry = read_entry(folder, record.name, record.method)
        entries.append(Entry(record, {}, entry.labels if entry else ()))
    return Comparison(folder, entries, found, state["notes"], state["settings"])


def _labels(entries: Iterable[Entry]) -> str:
    """A long table: one row for each label of each case and method."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["name", "method", "label", "label_name", "dice", "hd95_mm"])
    for entry in entries:
        for each in entry.labels:
            table.writerow(
                [
                    entry.record.name,
                    entry.record.method,
                    each.label,
                    each.name,
                    each.dice,
                    each.hd95_mm,
                ]
            )
    return out.getvalue()


def _write(path: Path, text: str):
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
