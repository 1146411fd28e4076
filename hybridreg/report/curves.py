"""Convergence curves: the trace of result.json as SVG coordinates of small line charts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridreg.report.tables import words

WIDTH, HEIGHT = 300, 110
_POINTS = 150  # per line; more cannot be distinguished at this size


@dataclass(frozen=True)
class Curve:
    """One term of one stage over all its levels, one line per level.

    lines: SVG ``points`` of each level. starts: x of the borders between levels.
    """

    title: str
    lines: Sequence[str]
    starts: Sequence[float]
    low: str
    high: str
    iterations: int


def curves(trace: Any) -> list[Curve]:
    """The charts of a trace [[stage, level, iteration, {term: value}], ...], stage by stage."""
    entries = [entry for entry in trace if _is_entry(entry)] if isinstance(trace, list) else []
    charts = []
    for stage, group in itertools.groupby(entries, key=lambda entry: entry[0]):
        group = list(group)
        for term in dict.fromkeys(name for entry in group for name in entry[3]):
            chart = _curve(f"{stage}: {term}", group, term)
            charts += [chart] if chart else []
    return charts


def _curve(title: str, group: Sequence[Sequence[Any]], term: str) -> Curve | None:
    levels = [_values(entries, term) for _, entries in itertools.groupby(group, key=lambda e: e[1])]
    levels = [values for values in levels if len(values)]
    count = sum(len(values) for values in levels)
    if count < 2:
        return None
    low, high = min(v.min() for v in levels), max(v.max() for v in levels)
    span = high - low or 1.0
    lines, starts, first = [], [], 0
    for values in levels:
        starts.append(round(first / (count - 1) * WIDTH, 1))
        step = max(1, math.ceil(len(values) / _POINTS))
        x = (first + np.arange(len(values))[::step]) / (count - 1) * WIDTH
        y = HEIGHT - (values[::step] - low) / span * HEIGHT
        lines.append(" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)))
        first += len(values)
    return Curve(title, lines, starts[1:], words(float(low)), words(float(high)), count)


def _values(entries: Iterable[Sequence[Any]], term: str) -> np.ndarray:
    values = [entry[3].get(term) for entry in entries]
    return np.array([v for v in values if isinstance(v, (int, float)) and math.isfinite(v)])


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 4 and isinstance(entry[3], dict)
