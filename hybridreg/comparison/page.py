"""The page of a comparison: one self-contained HTML file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from hybridreg.comparison.entries import folder_of
from hybridreg.comparison.plots import box_plots, cost_plot, rank_plot
from hybridreg.comparison.summary import LabelRow, Summary
from hybridreg.comparison.tables import (
    cost_table,
    failure_table,
    label_table,
    main_table,
    rank_table,
    record_table,
    test_table,
)
from hybridreg.comparison.words import counted, number, sentences, title, unit
from hybridreg.io.output import REPORT, VIEWS
from hybridreg.records import Record
from hybridreg.report.figures import Figures, Panel
from hybridreg.report.page import rendered
from hybridreg.views import load_views

if TYPE_CHECKING:
    from hybridreg.comparison.results import Comparison

_BOXES = ("dice", "hd95_mm", "tre_mean_mm", "truth_mean_mm", "log_jacobian_sd", "ndv_percent")
_PICTURED = 12  # methods whose worst case is shown


@dataclass(frozen=True)
class Worst:
    """The worst finished case of a method, with pictures if there are any."""

    method: str
    case: str
    text: str
    link: str
    panels: Sequence[Panel]
    what: str


def page(comparison: Comparison, labels: Sequence[LabelRow]) -> str:
    """The HTML of a comparison."""
    summary, records = comparison.summary, comparison.records
    links = _links(comparison.folder, records)
    main = [test_table(summary, summary.main)] if summary.tests_of(summary.main) else []
    others = [t.headline for t in summary.tables.values() if t.headline != summary.main]
    more = [test_table(summary, score, folded=True) for score in others if main]
    names = [each.name for each in comparison.contenders]
    return rendered(
        "comparison.html.j2",
        title="Comparison of methods",
        script="sort.js",
        heading=f"{len(summary.rows)} methods on {counted(summary.cases, 'case')}",
        facts=_facts(summary),
        sentences=sentences(summary),
        notes=comparison.notes,
        main=main_table(summary),
        costs=cost_table(summary),
        tests=[*main, *more],
        reference=summary.reference,
        ranks=rank_table(summary) if summary.ranks else None,
        rank_plot=rank_plot(summary),
        difference=summary.critical_difference and number(summary.critical_difference),
        boxes=box_plots(summary.tables, _chosen_boxes(summary)) if summary.cases else [],
        cost=cost_plot(summary) if summary.cases else None,
        labels=label_table(labels, names) if labels else None,
        worst=list(_worst(comparison, links)),
        failures=failure_table(records),
        records=record_table(records, summary, links),
        methods=_methods(comparison),
    )


def _facts(summary: Summary) -> list[str]:
    main = "no score" if summary.main is None else f"main score {summary.main.title}"
    margin = "" if summary.margin is None else f"margin {number(summary.margin)}"
    facts = [counted(summary.subjects, "subject"), main, f"reference {summary.reference}", margin]
    return [
        *filter(None, facts),
        f"hybridreg {version('hybridreg')}",
        "research software, not a medical device",
    ]


def _chosen_boxes(summary: Summary) -> list[str]:
    main = [summary.main.name] if summary.main else []
    return list(dict.fromkeys([*main, *_BOXES]))


def _links(folder: Path, records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """The relative addresses of the pages of cases that have one."""
    found = {}
    for record in records:
        path = folder_of(folder, record.name, record.method) / REPORT
        if record.status == "done" and path.is_file():
            found[record.name, record.method] = quote(path.relative_to(folder).as_posix())
    return found


def _worst(comparison: Comparison, links: dict[tuple[str, str], str]) -> Iterator[Worst]:
    """The worst finished case of each method by the main score."""
    main = comparison.summary.main
    if main is None or not comparison.summary.cases:
        return
    sign = comparison.summary.tables[main.name].sign
    for each in list(comparison.contenders)[:_PICTURED]:
        done = [
            r
            for r in comparison.records
            if r.method == each.name and r.scores.get(main.name) is not None
        ]
        if not done:
            continue
        record = min(done, key=lambda r: sign * r.scores[main.name])
        text = f"{title(main)} {number(record.scores[main.name])}{unit(main)}"
        text += f", verdict {record.verdict}" if record.verdict else ""
        panels, what = _pictures(folder_of(comparison.folder, record.name, each.name) / VIEWS)
        link = links.get((record.name, each.name), "")
        yield Worst(each.name, record.name, text, link, panels, what)


def _pictures(path: Path) -> tuple[list[Panel], str]:
    """One slice of each plane with the outlines of labels, or else with the fixed edges."""
    if not path.is_file():
        return [], ""
    views = load_views(path)
    drawn = Figures(views)
    outlined = "fixed_labels" in views and "moved_labels" in views
    rows = drawn.labels() if outlined else drawn.edges()
    what = (
        "outlines of labels over the fixed image: fixed turquoise, moved orange"
        if outlined
        else "fixed edges, turquoise, over the moved image"
    )
    return [row[len(row) // 2] for row in rows], what


def _methods(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Name, hash and settings of each method."""
    return [
        (each.name, each.config, json.dumps(each.settings, indent=2, ensure_ascii=False))
        for each in comparison.contenders
    ]
