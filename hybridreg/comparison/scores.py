"""Scores of a comparison as arrays: cases or subjects by methods, failures with the worst score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybridreg.records import HEADLINES, Headline, Record
from hybridreg.registry import unknown_name

MAIN = ("dice", "tre_mean_mm", "truth_mean_mm", "mutual_information")  # the first measured one


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """One score of all methods.

    cases: values, shape (cases, methods). subjects: means over the cases of each, shape
    (subjects, methods). imputed: how many values of each method are the worst score in place of a
    missing one, shape (methods,).
    """

    headline: Headline
    methods: tuple[str, ...]
    case_names: tuple[str, ...]
    cases: np.ndarray
    subjects: np.ndarray
    imputed: np.ndarray

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.headline.better == "higher" else -1

    def of(self, methods: Sequence[str]) -> np.ndarray:
        """The values of some methods, shape (subjects, methods)."""
        return self.subjects[:, [self.methods.index(name) for name in methods]]


def headline(name: str) -> Headline:
    """A score by its name (ValueError for an unknown one)."""
    for each in HEADLINES:
        if each.name == name:
            return each
    raise ValueError(unknown_name("there is no score", name, [each.name for each in HEADLINES]))


def measured(records: Sequence[Record]) -> list[Headline]:
    """The scores that at least one record has."""
    return [h for h in HEADLINES if any(r.scores.get(h.name) is not None for r in records)]


def main_score(records: Sequence[Record], wanted: str | None = None) -> Headline | None:
    """The score by which methods are ranked; None if no record has any."""
    known = {each.name: each for each in measured(records)}
    if wanted is not None:
        return known.get(wanted)
    return next((known[name] for name in MAIN if name in known), None)


def score_table(records: Sequence[Record], score: Headline) -> ScoreTable:
    """One score of all cases that at least one method has it of.

    A method that lacks it there, since it failed or its result has no such score, gets the worst
    possible value, or the worst of any method in any case where there is no bound. A method whose
    finished results never have it, such as the capture range of a given transform, is left out.
    """
    done = {record.method for record in records if record.status == "done"}
    having = {r.method for r in records if r.scores.get(score.name) is not None}
    every = dict.fromkeys(record.method for record in records)
    methods = tuple(method for method in every if method in having or method not in done)
    records = [record for record in records if record.method in methods]
    column = {name: number for number, name in enumerate(methods)}
    rows: dict[str, np.ndarray] = {}
    subject: dict[str, str] = {}
    for record in records:
        row = rows.setdefault(record.name, np.full(len(methods), np.nan))
        value = record.scores.get(score.name)
        row[column[record.method]] = np.nan if value is None else value
        subject[record.name] = record.subject or record.name
    names = tuple(name for name, row in rows.items() if not np.isnan(row).all())
    cases = np.array([rows[name] for name in names]).reshape(len(names), len(methods))
    lacking = np.isnan(cases)
    if cases.size:
        worst = np.nanmin(cases) if score.better == "higher" else np.nanmax(cases)
        cases = np.where(lacking, worst if score.worst is None else score.worst, cases)
    groups = _means(cases, [subject[name] for name in names])
    return ScoreTable(score, methods, names, cases, groups, lacking.sum(axis=0))


def _means(cases: np.ndarray, subjects: Sequence[str]) -> np.ndarray:
    """The mean over the cases of each subject, in order of first appearance."""
    number = {name: n for n, name in enumerate(dict.fromkeys(subjects))}
    which = np.array([number[name] for name in subjects], dtype=int)
    sums = np.zeros((len(number), cases.shape[1]))
    np.add.at(sums, which, cases)
    return sums / np.maximum(np.bincount(which, minlength=len(number)), 1)[:, None]
