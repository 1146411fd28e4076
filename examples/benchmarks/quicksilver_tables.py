"""The tables of quicksilver.md from quicksilver.csv, and the times of the methods compared there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from quicksilver import (
    BRAINS,
    FAST,
    LDDMM_2D,
    LDDMM_3D,
    SLICES,
    add,
    brains,
    forget,
    network,
    rows,
    slices,
    test_slices,
)
from sections import table, write_section

from hybridreg.io.checkpoints import packaged_weights, read_card
from hybridreg.methods.quicksilver.network import PATCH
from hybridreg.similarity import SSD

TABLE = Path(__file__).with_name("quicksilver.md")
HEAD = """`quicksilver-2d` and `quicksilver-brain` compared with the optimization that they learned from

`quicksilver.py`; each pair stands in `quicksilver.csv`. Test persons and slices only. Momentum: mean |m - m*| over mean |m*|, m* of the
target's LDDMM; 1 for a prediction of 0. Map: mean distance from the target's map in the fixed brain, mm. RMSE: of the fixed and the moved image,
both in [0, 1]. Intervals: bootstrap over the pairs, 95 %."""
MEASURES = {
    "dice": ("Dice", 3),
    "momentum": ("momentum", 3),
    "map_mm": ("map, mm", 2),
    "rmse": ("RMSE", 4),
    "folds": ("folded voxels, sum", 0),
    "s": ("processor s", 2),
    "spearman": ("Spearman with the true error", 3),
}


def values_of(part: str) -> dict[str, dict[str, dict[str, float]]]:
    """arm -> measure -> pair -> value."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows():
        if row["part"] == part:
            measures = found.setdefault(row["arm"], {})
            measures.setdefault(row["measure"], {})[row["pair"]] = float(row["value"])
    return found


def interval(values: Sequence[Sequence[float]], of=lambda columns: columns[0]) -> str:
    """A statistic of paired columns of means, with its bootstrap interval over the pairs."""
    columns = np.array(values, dtype=float)
    draws = np.random.default_rng(0).integers(0, columns.shape[1], (2000, columns.shape[1]))
    found = [of(columns[:, draw].mean(1)) for draw in draws]
    low, high = np.percentile(found, (2.5, 97.5))
    return f"{of(columns.mean(1)):.3f} ({low:.3f} to {high:.3f})"


def arms_table(part: str) -> str:
    found = values_of(part)
    shown = [m for m in MEASURES if any(m in measures for measures in found.values())]
    body = []
    for arm, measures in found.items():
        cells = []
        for name in shown:
            numbers = list(measures.get(name, {}).values())
            total = sum(numbers) if name == "folds" else numbers and statistics.mean(numbers)
            cells.append(f"{total:.{MEASURES[name][1]}f}" if numbers else "")
        body.append([arm, len(next(iter(measures.values()))), *cells])
    return table(["", "pairs", *(MEASURES[name][0] for name in shown)], body)


def gap(part: str, measure: str, low: str, high: str, best: str | None) -> str:
    """How much of the way from one arm to the best another one goes, by means over the pairs."""
    found = values_of(part)
    if not {low, high, *([best] if best else [])} <= found.keys():
        return "not measured"
    pairs = list(found[low][measure])
    columns = [[found[arm][measure][pair] for pair in pairs] for arm in (low, high)]
    columns.append([found[best][measure][pair] if best else 0.0 for pair in pairs])
    return interval(columns, lambda c: (c[1] - c[0]) / (c[2] - c[0]))


def weights() -> str:
    body = []
    for name in packaged_weights():
        if name.startswith("quicksilver"):
            card = read_card(name)
            about, errors = card.training, card.validation
            loss = "smoothed" if "square" in about["task"] else "absolute"
            steps = about["best_step"] + about.get("steps_before", 0)
            smooth = errors.get("smooth_relative")
            body.append([f"`{name}`", card.architecture, f"{card.spacing_mm:g} mm", about["cases"],
                         steps, loss, about.get("patch", PATCH), f"{errors['relative']:.3f}",
                         f"{smooth:.3f}" if smooth else ""])  # fmt: skip
    names = ["", "network", "voxels", "pairs", "steps, all trainings", "loss of the last", "patch"]
    return table([*names, "validation, momentum", "its square, smoothed"], body)


def times():
    """Seconds of one pair each, after the affine; earlier ones are dropped."""
    torch.set_num_threads(2)
    forget("times")
    flat, solid = slices(*test_slices(1)[0]), brains(1015, 1017, 2.0)
    full = brains(1015, 1017)
    parts = [
        ("2D", flat, SLICES, LDDMM_2D, network("2d"), (2.0, 1.0)),
        ("brain, 2 mm", solid, BRAINS, LDDMM_3D, network("brain"), (4.0, 2.0)),
    ]
    for name, pair, linear, ours, predicting, spacings in parts:
        start = linear.register(pair).transform
        arms = {"network": predicting, "our LDDMM": ours}
        for grid, spacing in zip(("the network's", "the images'"), spacings, strict=True):
            arms[f"published optimizer, 50 steps, {grid} grid ({spacing:g} mm)"] = replace(
                ours, optimizer="fixed", iterations=(50,), similarity=SSD(), image_mm=(spacing,),
                momentum_mm=(spacing,), sigma_factor=1.0, unfolding=0.0,
            )  # fmt: skip
        for arm, method in arms.items():
            add("times", name, arm, s=_seconds(method, pair, start))
    start = BRAINS.register(full).transform
    add("times", "brain, 1 mm", "brain-fast", s=_seconds(FAST, full, start))


def _seconds(method, pair, start) -> float:
    """Of a method that optimizes once, after one iteration a level to warm up; else of three."""
    iterations = getattr(method, "iterations", None)
    warm = replace(method, iterations=(1,) * len(iterations)) if iterations else method
    warm.register(pair, start)
    found = []
    for _ in range(1 if iterations else 3):
        before = time.perf_counter()
        method.register(pair, start)
        found.append(time.perf_counter() - before)
    return statistics.median(found)


def _times() -> str:
    body = [(row["pair"], row["arm"], f"{float(row['value']):.2f}") for row in rows()
            if row["part"] == "times"]  # fmt: skip
    return table(["", "after the affine", "s, 2 threads"], body) if body else "Not measured yet."


def _tenths() -> str:
    """Medians in tenths of all voxels, from the least to the most uncertain one."""
    rows = [["deviation of the map, mm"], ["distance from the target's map, mm"]]
    for number in range(1, 11) if (found := values_of("tenths")) else ():
        for cells, name in zip(rows, ("deviation_mm", "error_mm"), strict=True):
            cells.append(f"{found[str(number)][name]['all']:.2f}")
    return table(["Medians in tenths of the voxels", *range(1, len(rows[0]))], rows)


def _gaps(part: str, measures: Sequence[tuple[str, str]]) -> str:
    if "corrected" not in values_of(part):
        return "The correction is not measured: there are no weights of one."
    lines = [
        "- The correction closes "
        f"{gap(part, m, 'prediction', 'corrected', best or None)} of what the "
        f"prediction misses ({MEASURES[m][0]}{f', up to {best}' if best else ', down to 0'})."
        for m, best in measures
    ]
    return "\n".join(lines)


def write():
    def section(title: str, text: str):
        write_section(TABLE, title, text, head=HEAD)

    section("The networks", weights())
    for title, part, measures in (
        ("Slices", "slices", [("momentum", ""), ("map_mm", ""), ("rmse", "LDDMM")]),
        ("Brains", "brains", [("dice", "LDDMM"), ("momentum", ""), ("map_mm", "")]),
    ):
        text = (
            f"{arms_table(part)}\n\n{_gaps(part, measures)}" if values_of(part) else "Not measured."
        )
        section(title, text)
    for title, part in (
        ("Momentum, velocity or displacement", "regression"),
        ("Prediction, then LDDMM", "hybrid"),
        ("Another contrast of the moving image", "contrast"),
        ("Uncertainty", "uncertainty"),
    ):
        text = arms_table(part) if values_of(part) else "Not measured yet."
        section(title, f"{text}\n\n{_tenths()}" if part == "uncertainty" else text)
    section("Times", _times())
