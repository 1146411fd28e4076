"""Everything that a comparison shows as numbers: methods by scores, tests, ranks and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybridreg.comparison import statistics as st
from hybridreg.comparison.entries import Entry
from hybridreg.comparison.scores import ScoreTable, main_score, measured, score_table
from hybridreg.records import Headline, Record


@dataclass(frozen=True)
class Spread:
    """One score of one method: mean over subjects, its interval, and the mean of the worst 30 %
    of cases. imputed: cases that count with the worst score."""

    mean: float
    interval: st.Interval | None
    worst: float
    imputed: int


@dataclass(frozen=True)
class Costs:
    """Medians over cases; None where not measured."""

    register_s: float | None
    cpu_s: float | None
    peak_memory_mb: float | None


@dataclass(frozen=True)
class MethodRow:
    """One method: counts of its cases, those of its scores that were measured,
    and what it costs.
    """

    name: str
    done: int
    failed: int
    verdicts: Mapping[str, int]
    scores: Mapping[str, Spread]
    costs: Costs


@dataclass(frozen=True)
class Test:
    """A method against the reference in one score.

    difference: method - reference, mean over subjects. effect: rank-biserial, positive where the
    method is better. holm: p corrected over the methods. not_inferior: whether the interval
    excludes a loss of the margin; None without margin. needed: subjects for 80 % power.
    """

    method: str
    score: Headline
    difference: float
    interval: st.Interval | None
    effect: float
    p: float | None
    holm: float | None
    not_inferior: bool | None
    needed: int | None

    @property
    def better(self) -> bool:
        return self.effect > 0


@dataclass(frozen=True)
class RankRow:
    """Mean rank of a method, its interval, and how often it is the best over resampled subjects."""

    method: str
    rank: float
    interval: st.Interval
    best: float


@dataclass(frozen=True, eq=False)
class Summary:
    """All numbers of a comparison.

    waiting: cases that some method has not reached. lost: those in which every method failed, which
    count in no score. main: the score by which methods are ranked; None
    if none was measured.
    """

    cases: int
    waiting: int
    lost: tuple[str, ...]
    subjects: int
    main: Headline | None
    reference: str
    margin: float | None
    tables: Mapping[str, ScoreTable]
    rows: tuple[MethodRow, ...]
    tests: tuple[Test, ...]
    ranks: tuple[RankRow, ...]
    friedman_p: float | None
    critical_difference: float | None

    def tests_of(self, score: Headline | None) -> list[Test]:
        return [test for test in self.tests if test.score == score]

    def row(self, method: str) -> MethodRow:
        return next(row for row in self.rows if row.name == method)


def summarize(
    records: Sequence[Record],
    *,
    reference: str,
    score: str | None = None,
    margin: float | None = None,
    baselines: Sequence[str] = (),
) -> Summary:
    """The numbers of a comparison.

    score: the main score, see ``scores.main_score``. baselines: methods that are shown but neither
    tested nor ranked. Cases that some method has not reached yet do not count.
    """
    waiting = {record.name for record in records if record.status == "missing"}
    records = [record for record in records if record.name not in waiting]
    tables = {h.name: score_table(records, h) for h in measured(records)}
    main = main_score(records, score)
    names = list(dict.fromkeys(record.method for record in records))
    by_method: dict[str, list[Record]] = {name: [] for name in names}
    for record in records:
        by_method[record.method].append(record)
    ranked = [name for name in names if name not in baselines]
    tests = [
        test
        for table in tables.values()
        for test in _tests(table, reference, ranked, margin if table.headline == main else None)
    ]
    ranks, friedman, difference = (), None, None
    if main is not None and len(ranked) > 1 and len(tables[main.name].subjects) >= st.FEW:
        table = tables[main.name]
        ranked = [name for name in ranked if name in table.methods]
        gains = table.sign * table.of(ranked)
        found = st.mean_ranks(gains)
        rows = zip(ranked, found.mean.tolist(), found.intervals, found.best.tolist(), strict=True)
        ranks = tuple(sorted((RankRow(*row) for row in rows), key=lambda row: row.rank))
        friedman, difference = st.friedman_p(gains), found.difference
    return Summary(
        cases=len({record.name for record in records}),
        waiting=len(waiting),
        lost=_lost(records),
        subjects=len({record.subject or record.name for record in records}),
        main=main,
        reference=reference,
        margin=margin,
        tables=tables,
        rows=tuple(_method_row(name, by_method[name], tables) for name in names),
        tests=tuple(tests),
        ranks=ranks,
        friedman_p=friedman,
        critical_difference=difference,
    )


def _lost(records: Sequence[Record]) -> tuple[str, ...]:
    done = {record.name for record in records if record.status == "done"}
    return tuple(dict.fromkeys(r.name for r in records if r.name not in done))


def _tests(
    table: ScoreTable, reference: str, methods: Sequence[str], margin: float | None
) -> list[Test]:
    others = [name for name in methods if name != reference and name in table.methods]
    if reference not in table.methods:
        return []
    ours = table.of([reference])[:, 0]
    differences = [table.of([name])[:, 0] - ours for name in others]
    p_values = [st.wilcoxon_p(each) for each in differences]
    found = []
    for name, values, p, holm in zip(others, differences, p_values, st.holm(p_values), strict=True):
        interval = st.mean_interval(values)
        effect = table.sign * st.rank_biserial(values)
        needed = st.subjects_needed(values)
        within = None if p is None else _not_inferior(interval, table.sign, margin)
        mean = float(values.mean())
        found.append(Test(name, table.headline, mean, interval, effect, p, holm, within, needed))
    return found


def _not_inferior(interval: st.Interval | None, sign: int, margin: float | None) -> bool | None:
    if margin is None or interval is None:
        return None
    return interval.low > -margin if sign > 0 else interval.high < margin


def _method_row(
    name: str, records: Sequence[Record], tables: Mapping[str, ScoreTable]
) -> MethodRow:
    scores = {}
    for key, table in tables.items():
        if name not in table.methods:
            continue
        column = table.methods.index(name)
        values = table.subjects[:, column]
        worst = table.sign * st.worst_mean(table.sign * table.cases[:, column : column + 1])[0]
        imputed = int(table.imputed[column])
        scores[key] = Spread(float(values.mean()), st.mean_interval(values), float(worst), imputed)
    verdicts = [record.verdict for record in records]
    costs = (_median(records, field) for field in ("register_s", "cpu_s", "peak_memory_mb"))
    return MethodRow(
        name,
        sum(record.status == "done" for record in records),
        sum(record.status != "done" for record in records),
        {status: verdicts.count(status) for status in ("pass", "warn", "fail")},
        scores,
        Costs(*costs),
    )


def _median(records: Sequence[Record], field: str) -> float | None:
    known = [value for record in records if (value := getattr(record, field)) is not None]
    return float(np.median(known)) if known else None


@dataclass(frozen=True)
class LabelRow:
    """Mean Dice of one label by method, over the cases that have it; failures count as 0."""

    label: int
    name: str
    cases: int
    dice: Mapping[str, float]


def label_rows(entries: Sequence[Entry], methods: Sequence[str]) -> list[LabelRow]:
    """One row for each label of any fixed map, in rising order; cases as in ``summarize``."""
    waiting = {e.record.name for e in entries if e.record.status == "missing"}
    entries = [entry for entry in entries if entry.record.name not in waiting]
    cases: dict[int, set[str]] = {}
    sums: dict[int, dict[str, float]] = {}
    names: dict[int, str] = {}
    for entry in entries:
        for each in entry.labels:
            names.setdefault(each.label, each.name)
            cases.setdefault(each.label, set()).add(entry.record.name)
            by_method = sums.setdefault(each.label, dict.fromkeys(methods, 0.0))
            by_method[entry.record.method] += each.dice
    return [
        LabelRow(
            label,
            names[label],
            len(cases[label]),
            {m: s / len(cases[label]) for m, s in sums[label].items()},
        )
        for label in sorted(names)
    ]
