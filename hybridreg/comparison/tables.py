"""The tables of a comparison: for the page, and for papers as Markdown and LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hybridreg.comparison.summary import LabelRow, Spread, Summary
from hybridreg.comparison.words import interval, number, p_value, subjects
from hybridreg.records import Headline, Record

_HEADING = 13  # letters in a line of a heading in LaTeX
LONGEST = 1000  # records on a page, which a browser still sorts at once


class Cell(NamedTuple):
    """A text, and what it is sorted by: a number, or None for the text. link: relative address."""

    text: str
    value: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table that the page can sort; the first cell of a row is its header."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    caption: str = ""


def numeric(value: float | None, *, signed: bool = False) -> Cell:
    """A number as text, sorted by its value."""
    return Cell(number(value, signed=signed), None if value is None else float(value))


def main_table(summary: Summary) -> Table:
    """One row per method: the main score with its interval, and the means of the others."""
    main, others = summary.main, [t.headline for t in summary.tables.values()]
    others = [score for score in others if score != main]
    arrows = {"higher": "↑", "lower": "↓"}
    columns = ["Method"]
    if main is not None:
        columns += [f"{main.title} {arrows[main.better]}", "95 % interval", "Worst 30 %"]
    columns += [f"{score.title} {arrows[score.better]}" for score in others]
    rows = []
    for row in summary.rows:
        cells = [Cell(row.name)]
        if main is not None:
            cells += _main_cells(row.scores.get(main.name))
        means = [row.scores.get(score.name) for score in others]
        cells += [numeric(spread and spread.mean) for spread in means]
        rows.append(cells)
    return Table(
        "Scores", columns, rows, caption="Means over subjects; failures count with the worst score."
    )


def _main_cells(spread: Spread | None) -> list[Cell]:
    if spread is None:
        return [numeric(None)] * 3
    low = spread.interval and spread.interval.low
    return [numeric(spread.mean), Cell(interval(spread.interval), low), numeric(spread.worst)]


def cost_table(summary: Summary) -> Table:
    """One row per method: how many cases it finished, their verdicts, times and memory."""
    columns = ["Method", "Done", "Failed", "Pass", "Warn", "Fail", "Wall s", "CPU s", "Memory MB"]
    rows = []
    for row in summary.rows:
        counts = (row.done, row.failed, *row.verdicts.values())
        costs = (row.costs.register_s, row.costs.cpu_s, row.costs.peak_memory_mb)
        counted = (Cell(str(count), count) for count in counts)
        rows.append([Cell(row.name), *counted, *map(numeric, costs)])
    caption = (
        "Pass, warn and fail are the verdicts without labels. Medians over cases: wall "
        "seconds of the "
        "registration alone; processor seconds and resident memory of all that was done "
        "for the case."
    )
    return Table("Cost", columns, rows, caption=caption)


def test_table(summary: Summary, score: Headline, *, folded: bool = False) -> Table:
    """Every method against the reference in one score."""
    columns = ["Method", "Difference", "95 % interval", "Effect", "p", "p, Holm", "Subjects needed"]
    columns += ["Not inferior"] if summary.margin is not None and score == summary.main else []
    rows = []
    for test in summary.tests_of(score):
        cells = [
            Cell(test.method),
            numeric(test.difference, signed=True),
            Cell(interval(test.interval), test.interval and test.interval.low),
            numeric(test.effect, signed=True),
            Cell(p_value(test.p), test.p),
            Cell(p_value(test.holm), test.holm),
            Cell(subjects(test.needed), test.needed),
        ]
        if len(columns) > len(cells):
            words = {True: "shown", False: "not shown", None: "–"}
            cells.append(Cell(words[test.not_inferior]))
        rows.append(cells)
    return Table(score.title, columns, rows, folded)


def rank_table(summary: Summary) -> Table:
    """Mean ranks of the methods, the best first."""
    rows = [
        [Cell(row.method), numeric(row.rank), Cell(interval(row.interval), row.interval.low),
         Cell(f"{row.best:.0%}", row.best)]
        for row in summary.ranks
    ]  # fmt: skip
    return Table("Mean ranks", ["Method", "Mean rank", "95 % interval", "Best of resamples"], rows)


def label_table(rows: Sequence[LabelRow], methods: Sequence[str]) -> Table:
    """Mean Dice of each label by method."""
    body = [
        [Cell(row.name), Cell(str(row.label), row.label), Cell(str(row.cases), row.cases),
         *(numeric(row.dice[name]) for name in methods)]
        for row in rows
    ]  # fmt: skip
    return Table(
        "Dice of each label", ["Label", "Number", "Cases", *methods], body, folded=len(rows) > 12
    )


def failure_table(records: Sequence[Record]) -> Table:
    """Every failure with its reason."""
    rows = [[Cell(r.method), Cell(r.name), Cell(r.reason)] for r in records if r.status == "failed"]
    caption = "" if len(rows) <= LONGEST else f"The first {LONGEST} of {len(rows)}."
    return Table("Failures", ["Method", "Case", "Reason"], rows[:LONGEST], caption=caption)


def record_table(
    records: Sequence[Record], summary: Summary, links: dict[tuple[str, str], str]
) -> Table:
    """All records, the worst first by the main score where there are too many to show."""
    scores = [t.headline for t in summary.tables.values()]
    caption, shown = "", list(records)
    if len(shown) > LONGEST and summary.main is not None:
        name, sign = summary.main.name, summary.tables[summary.main.name].sign
        shown = sorted(records, key=lambda r: _badness(r, name, sign))[:LONGEST]
        caption = f"The worst {LONGEST} of {len(records)}; all are in records.csv."
    rows = [
        [
            Cell(record.name, None, links.get((record.name, record.method), "")),
            Cell(record.method),
            Cell(record.subject),
            Cell(record.verdict or record.status),
            *(numeric(record.scores.get(score.name)) for score in scores),
            *map(numeric, (record.register_s, record.cpu_s, record.peak_memory_mb)),
        ]
        for record in shown
    ]
    columns = ["Case", "Method", "Subject", "Verdict", *(s.title for s in scores)]
    columns += ["Wall s", "CPU s", "Memory MB"]
    return Table("All records", columns, rows, folded=True, caption=caption)


def _badness(record: Record, name: str, sign: int) -> float:
    value = record.scores.get(name)
    return float("-inf") if value is None else sign * value


def markdown(summary: Summary) -> str:
    """The tables of scores, tests and costs for a paper or a wiki, as they are on the page."""
    tables = {"": main_table(summary)}
    if summary.main is not None and summary.tests_of(summary.main):
        tests = test_table(summary, summary.main)
        tables[f"Against {summary.reference}, {tests.title}:"] = tests
    tables["Cost:"] = cost_table(summary)
    return (
        "\n\n".join(f"{head}\n\n{_lines(table)}".strip() for head, table in tables.items()) + "\n"
    )


def _lines(table: Table) -> str:
    rows = [_line(cell.text for cell in row) for row in table.rows]
    return "\n".join([_line(table.columns), "|---" * len(table.columns) + "|", *rows])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


_LATEX = {
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
    "−": "$-$", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def latex(summary: Summary) -> str:
    """Booktabs tables: all scores, failures and seconds, and the tests of the main score."""
    scores, costs = main_table(summary), cost_table(summary)
    kept = [costs.columns.index(name) for name in ("Failed", "Wall s")]
    columns = [*scores.columns, *(costs.columns[n] for n in kept)]
    rows = [
        (*row, *(cost[n] for n in kept)) for row, cost in zip(scores.rows, costs.rows, strict=True)
    ]
    parts = [r"% needs \usepackage{booktabs}", *_tabular(columns, rows)]
    if summary.main is not None and summary.tests_of(summary.main):
        tests = test_table(summary, summary.main)
        parts += ["", f"% {tests.title}: differences from {summary.reference}"]
        parts += _tabular(tests.columns, tests.rows)
    return "\n".join([*parts, ""])


def _tabular(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """The lines of a table; long headings are broken, so that many columns fit a page."""
    lines = [" & ".join(_latex(cell.text) for cell in row) + r" \\" for row in rows]
    return [
        r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}",
        r"\toprule",
        " & ".join(map(_heading, columns)) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _heading(text: str) -> str:
    lines = textwrap.wrap(text, _HEADING, break_long_words=False)
    shown = r" \\ ".join(map(_latex, lines))
    return shown if len(lines) == 1 else rf"\shortstack[r]{{{shown}}}"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
