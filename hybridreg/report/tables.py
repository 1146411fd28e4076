"""The numbers of a report: result.json as text and tables; missing parts are left out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridreg.records import HEADLINES

NOTHING = "–"
_UNITS = {"mm": "mm", "percent": "%", "deg": "°", "s": "s", "voxels": "voxels"}
_NAMES = {
    "hd95": "HD95",
    "tre": "TRE",
    "log_sd": "SD of the log",
    "p1": "1st percentile",
    "p5": "5th percentile",
    "p95": "95th percentile",
    "p99": "99th percentile",
    "sha256": "SHA-256",
    "dtype": "Number type",
    "mutual_information": "Mutual information (nats)",
}


@dataclass(frozen=True)
class Table:
    """Rows of texts under column titles; a ``folded`` table opens on a click."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclass
class _Comparison:
    """Rows from two nested mappings of numbers, before and after: plain rows, and lists of rows."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    lists: list[Table] = field(default_factory=list)

    def walk(self, name: str, before: Any, after: Any):
        if isinstance(before, Mapping) or isinstance(after, Mapping):
            before, after = _mapping(before), _mapping(after)
            for key in dict.fromkeys([*after, *before]):
                self.walk(_join(name, key), before.get(key), after.get(key))
        elif _is_list_of_rows(after) or _is_list_of_rows(before):
            self.lists.append(_merged_rows(name, before, after))
        elif not all(side is None or side == [] for side in (before, after)):
            self.rows.append((name, _measured(before), _measured(after)))


def words(value: Any) -> str:
    """A value as text: four digits, sizes with a times sign, a dash for a missing value."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−") if value else "0"
    if isinstance(value, (list, tuple)):
        return " × ".join(words(item) for item in value) or NOTHING
    if isinstance(value, Mapping):
        return ", ".join(f"{title(key)} {words(item)}" for key, item in value.items())
    return str(value)


def _measured(value: Any) -> str:
    """A score as text; rounding errors of 0, such as 1e-14 mm, are shown as 0."""
    return words(0.0 if isinstance(value, float) and abs(value) < 1e-6 else value)


def title(key: str) -> str:
    """``mean_residual_mm`` -> ``Mean residual (mm)``."""
    stem, _, unit = str(key).rpartition("_")
    if stem and unit in _UNITS:
        return f"{title(stem)} ({_UNITS[unit]})"
    if key in _NAMES:
        return _NAMES[key]
    parts = [_NAMES.get(part, part) for part in str(key).split("_")]
    text = " ".join(part for part in parts if part)
    return text[:1].upper() + text[1:]


def comparison(result: Mapping[str, Any]) -> list[Table]:
    """Similarity and scores, before and after: the main ones, then all of them, folded."""
    images, scores = _Comparison(), _Comparison()
    images.walk("", *_sides(result.get("similarity")))
    sides = _sides(result.get("scores"))
    scores.walk("", *[_without(_mapping(side), ("jacobian", "region")) for side in sides])
    known = (
        (h.title, h.of(result, "before"), h.of(result)) for h in HEADLINES if "scores" in h.path
    )
    chosen = [(name, *map(_measured, both)) for name, *both in known if both != [None, None]]
    rows, columns = images.rows + chosen, ("", "Before", "After")
    tables = [Table("Agreement", columns, rows)] if rows else []
    if len(scores.rows) > len(chosen):
        tables.append(Table("All scores", columns, scores.rows, folded=bool(chosen)))
    return tables + scores.lists + _pose(result)


def _pose(result: Mapping[str, Any]) -> list[Table]:
    """The numbers of a pose before and after."""
    found = _Comparison()
    found.walk("", *_sides(result.get("pose")))
    return [Table("Pose", ("", "Before", "After"), found.rows)] if found.rows else []


def deformation(result: Mapping[str, Any]) -> list[Table]:
    """The transform, its Jacobian determinant and its inverse; a pose has a table of its own."""
    if result.get("pose"):
        return []
    rows = [*_transform_rows(_mapping(result.get("transform")))]
    rows += _jacobian_rows(jacobian_statistics(result))
    inverse = _mapping(result.get("inverse"))
    if inverse:
        mean, largest = (words(inverse.get(f"{key}_residual_mm")) for key in ("mean", "max"))
        exact = largest == "0"
        text = "nothing, it is exact" if exact else f"mean {mean} mm, at most {largest} mm"
        rows.append(("Inverse misses by", text))
    return [Table("Transform, fixed to moving", ("", ""), rows)] if rows else []


def jacobian_statistics(result: Mapping[str, Any]) -> dict[str, Any]:
    """Jacobian statistics of the final transform, with the ``region`` they were computed over."""
    _, after = _sides(result.get("scores"))
    after = _mapping(after)
    found = _mapping(result.get("jacobian")) or _mapping(after.get("jacobian"))
    return {"region": after.get("region") or "image", **found} if found else {}


def fusion(result: Mapping[str, Any]) -> list[Table]:
    """How fixed and moved were fused, and the scores beside those of trivial fusions."""
    found = _mapping(result.get("fusion"))
    if not found:
        return []
    ways = {side: _mapping(found.get(f"{side}_scaling")).get("text") for side in ("fixed", "moved")}
    rows = [
        ("Rule", f"{words(found.get('rule'))}: {words(found.get('rule_does'))}"),
        *((f"{side.capitalize()} image", words(text)) for side, text in ways.items()),
        ("Values", words(found.get("values"))),
    ]
    flicker = _mapping(found.get("flicker")).get("ratio")
    if flicker is not None:
        rows.append(("Steps between slices", f"{words(flicker)} of the larger source's"))
    scores, better = (_mapping(found.get(key)) for key in ("scores", "better"))
    names = list(dict.fromkeys(name for values in scores.values() for name in _mapping(values)))
    body = [
        (name, words(better.get(name)), *(words(_mapping(v).get(name)) for v in scores.values()))
        for name in names
    ]
    facts = Table("How it was fused", ("", ""), rows)
    return (
        [facts, Table("Scores of the fusion", ("", "Better", *scores), body)] if body else [facts]
    )


def provenance(result: Mapping[str, Any]) -> list[Table]:
    """Inputs, times, versions and configuration: what is needed to reproduce the result."""
    inputs = _mapping(result.get("inputs"))
    tables = []
    if inputs:
        columns = list(dict.fromkeys(key for item in inputs.values() for key in _mapping(item)))
        rows = [
            (title(side), *[words(_mapping(item).get(key)) for key in columns])
            for side, item in inputs.items()
        ]
        tables.append(Table("Inputs", ("", *[title(key) for key in columns]), rows))
    weights = _mapping(result.get("weights"))
    if weights:
        shown = ("architecture", "data", "data_licence", "weights_licence")
        rows = [
            (name, *[words(_mapping(w).get(key)) for key in shown]) for name, w in weights.items()
        ]
        columns = ("", "Network", "Trained on", "License of the data", "License of the weights")
        tables.append(Table("Trained weights", columns, rows))
    # The page is part of the result, and its own time is known after it is made.
    times = {key: t for key, t in _mapping(result.get("times_s")).items() if key != "report"}
    if times:
        rows = [(title(key), words(value)) for key, value in times.items()]
        total = sum(t for t in times.values() if isinstance(t, (int, float)))
        if "total" not in times:
            rows.append(("Total", words(float(total))))
        tables.append(Table("Times", ("Step", "Seconds"), rows, folded=True))
    versions = _mapping(result.get("versions"))
    if versions:
        rows = [(key, words(value)) for key, value in versions.items()]
        tables.append(Table("Versions", ("Library", "Version"), rows, folded=True))
    return tables


def configuration(result: Mapping[str, Any]) -> str:
    """The method's settings, nested as they are; empty where there are none."""
    method = result.get("method")
    return json.dumps(method, indent=2, ensure_ascii=False) if method else ""


def texts(value: Any) -> list[str]:
    """A value that should be a list of texts, such as warnings, as such a list."""
    items = value if isinstance(value, list) else [value]
    return [words(item) for item in items if item]


def label_names(result: Mapping[str, Any]) -> dict[int, str]:
    """Names of labels, from wherever the scores list them."""
    names: dict[int, str] = {}
    waiting = [result.get("scores")]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            if isinstance(item.get("label"), int) and item.get("name"):
                names[item["label"]] = str(item["name"])
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return names


def _transform_rows(transform: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    kinds = texts(transform.get("kinds"))
    if kinds:
        rows.append(("Made of", ", then ".join(kinds)))
    for key, name, unit, axes in (
        ("rotation_deg", "Rotation", "°", "xyz"),
        ("translation_mm", "Translation of the center", " mm", "xyz"),
        ("scales", "Scales", "", "   "),
    ):
        values = transform.get(key)
        if isinstance(values, list) and values:
            axes = axes if len(values) > 1 else " "
            parts = [f"{a} {_fixed(v)}{unit}" for a, v in zip(axes, values, strict=False)]
            rows.append((name, ", ".join(part.strip() for part in parts)))
    if transform.get("reflects"):
        rows.append(("Mirrors", "yes: left and right are exchanged"))
    displacement = _mapping(transform.get("displacement_mm"))
    if displacement:
        mean, p95, largest = (words(displacement.get(key)) for key in ("mean", "p95", "max"))
        text = f"mean {mean} mm, 95 % of voxels under {p95} mm, at most {largest} mm"
        rows.append(("Displacement", text))
    uncertainty = _mapping(transform.get("uncertainty_mm"))
    if uncertainty:
        mean, p95, largest = (words(uncertainty.get(key)) for key in ("mean", "p95", "max"))
        text = f"standard deviation: mean {mean} mm, 95 % of voxels under {p95} mm, at most {largest} mm"
        rows.append(("Uncertainty", text))
    return rows


def _jacobian_rows(jacobian: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not jacobian:
        return []
    rows = []
    folding = jacobian.get("folding_percent")
    if folding is not None:
        rows.append(("Folds", folds_in_words(folding, jacobian["region"])))
    if jacobian.get("minimum") is not None:
        inner, outer = _range(jacobian, "p1", "p99"), _range(jacobian, "minimum", "maximum")
        if NOTHING not in inner and inner != outer:
            outer = f"{inner} (1st to 99th percentile), {outer} in all"
        rows.append(("Jacobian determinant", outer))
    if jacobian.get("log_sd") is not None:
        rows.append(("SD of its logarithm", words(jacobian["log_sd"])))
    return rows


def _range(values: Mapping[str, Any], low: str, high: str) -> str:
    ends = dict.fromkeys(words(values.get(key)) for key in (low, high))
    return " to ".join(ends) if len(ends) > 1 else f"{next(iter(ends))} everywhere"


def folds_in_words(percent: float, region: str) -> str:
    """The percentage of folded voxels of a region such as "foreground", as a sentence."""
    if not percent:
        return f"0 folds: the transform is one-to-one at every voxel of the {region}"
    return f"{words(float(percent))} % of the voxels of the {region} are folded"


def _fixed(value: Any) -> str:
    """Three decimals, so that 1e-15 degrees are shown as 0."""
    if not isinstance(value, (int, float)):
        return words(value)
    return f"{round(value, 3) + 0.0:g}".replace("-", "−")


def _sides(tree: Any) -> tuple[Any, Any]:
    """What is under ``before`` and ``after``."""
    return tuple(_mapping(tree).get(side) for side in ("before", "after"))


def _merged_rows(name: str, before: Any, after: Any) -> Table:
    """Two lists of rows as one table, each measure before next to the same after."""
    sides = [item if _is_list_of_rows(item) else [] for item in (before, after)]
    merged: dict[Any, dict[tuple[str, str], Any]] = {}
    for side, rows in zip(("before", "after"), sides, strict=True):
        for number, row in enumerate(rows):
            cells = merged.setdefault(row.get("label", number), {})
            for key, value in row.items():
                cells[key, "" if key in ("label", "name") or not all(sides) else side] = value
    keys = dict.fromkeys(key for cells in merged.values() for key, _ in cells)
    used = {column for cells in merged.values() for column in cells}
    columns = [c for key in keys for c in ((key, ""), (key, "before"), (key, "after")) if c in used]
    titles = [", ".join(part for part in (title(key), side) if part) for key, side in columns]
    body = [[words(cells.get(column)) for column in columns] for cells in merged.values()]
    return Table(name or "Rows", titles, body, folded=len(body) > 8)


def _without(tree: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in keys}


def _join(name: str, key: str) -> str:
    return f"{name}: {title(key)}" if name else title(key)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_list_of_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)
