"""What `dirnet-brain` and `quicksilver-brain` add to `brain-fast`: as its start, and where it fails.

Test persons of oasis_malf35 at 1 mm; mean Dice of the labels of the fixed image, resampled once;
processor seconds of what follows the affine, which is the same for all. `start`: the network, then
`instance` at its two finest levels with some of the iterations.
`hard`: the same pairs made difficult in three ways, networks alone and as a start beside
`brain-fast`:

- large: the moving image is deformed first, by noise smoothed with a standard deviation of 24 mm, 6
  mm a component
- contrast: each intensity of the moving image gets another brightness, one random curve
- partial: the moving image lacks its lower half; labels that it has lost more than a tenth of are
  not counted

It does not run by `hybridreg compare`: pairs are made difficult in memory, and seconds are of what
follows a shared affine.

Rows are added to network_chains.csv as they come and not computed again.

    HYBRIDREG_DATA=... python examples/benchmarks/network_chains.py start|hard|table [--pairs N]
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from quicksilver import BRAINS, FAST, TEST, brains, data, network
from scipy.ndimage import gaussian_filter
from sections import table, write_section
from torch import Generator

from hybridreg.cases import ImagePair
from hybridreg.config import load_method
from hybridreg.evaluation import dice
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_labels
from hybridreg.methods.combine import Chain
from hybridreg.methods.quicksilver.contrast import remapped
from hybridreg.network_inputs import scaled
from hybridreg.transforms import DisplacementField, Transform
from hybridreg.warping import jacobian_determinant, warp

ROWS, TABLE = (Path(__file__).with_suffix(end) for end in (".csv", ".md"))
HEAD = "\n\n".join(["What networks add to `brain-fast`", *__doc__.split("\n\n")[1:3]])
COLUMNS = ("part", "case", "fixed", "moving", "arm", "dice", "folds", "seconds")
FEW = replace(FAST, iterations=(30, 10))
DIRNET = load_method("dirnet-brain").stages[-1]
ARMS = {
    "start": {
        "brain-fast": FAST,
        "two levels": FEW,
        "dirnet-brain, two levels": Chain((DIRNET, FEW)),
        "quicksilver-brain, two levels": Chain((network("brain"), FEW)),
    },
    "hard": {
        "brain-fast": FAST,
        "dirnet-brain": DIRNET,
        "quicksilver-brain": network("brain"),
        "dirnet-brain, two levels": Chain((DIRNET, FEW)),
    },
}


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(ROWS.open(newline=""))) if ROWS.exists() else []


def add(*values: object):
    new = not ROWS.exists()
    with ROWS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(values)
    print(*values, flush=True)


def labels_of(person: int) -> LabelMap:
    return read_labels(data() / "oasis_malf35" / "subjects" / f"{person}_glm.nii.gz")


def made(case: str, moving: Image, labels: LabelMap, seed: int) -> tuple[Image, LabelMap, set[int]]:
    """The moving image and its labels as in a case, and the labels that count."""
    known, generator = set(labels.labels()), Generator().manual_seed(seed)
    if case == "large":
        field = random_field(moving.grid, generator)
        return warp(moving, field, onto=moving.grid), warp(labels, field, onto=labels.grid), known
    if case == "contrast":
        changed = remapped(scaled(moving, "percentiles").data[None], generator)[0]
        return replace(moving, data=changed), labels, known
    if case == "partial":
        height = moving.grid.points()[..., 2]
        shown = height > height[moving.data[0] > 0].median()
        left = replace(labels, data=torch.where(shown, labels.data, 0))
        kept = {n for n in known if (left.data == n).sum() >= 0.9 * (labels.data == n).sum()}
        return replace(moving, data=torch.where(shown, moving.data, 0.0)), left, kept
    return moving, labels, known


def random_field(grid: Grid, generator: Generator, wide_mm=24.0, strength_mm=6.0):
    noise = torch.randn(3, *grid.shape, generator=generator).numpy()
    sigma = [wide_mm / s for s in reversed(grid.spacing)]
    smooth = torch.from_numpy(gaussian_filter(noise, (0, *sigma), truncate=3))
    return DisplacementField(strength_mm * smooth / smooth.std(), grid)


def compared(part: str, cases: Sequence[str], pairs: Sequence[tuple[int, int]]):
    done = {(r["part"], r["case"], r["fixed"], r["moving"]) for r in rows()}
    for fixed, moving in pairs:
        for case in cases:
            if (part, case, str(fixed), str(moving)) in done:
                continue
            pair, labels = brains(fixed, moving), labels_of(fixed)
            image, others, counted = made(case, pair.moving, labels_of(moving), moving)
            pair = replace(pair, moving=image)
            start = BRAINS.register(pair).transform
            found = {"affine": (start, 0.0)}
            for arm, method in ARMS[part].items():
                before = time.process_time()
                result = method.register(pair, start).transform
                found[arm] = result, time.process_time() - before
            for arm, (transform, seconds) in found.items():
                scores = scores_of(pair, labels, others, counted, transform)
                add(part, case, fixed, moving, arm, *scores, f"{seconds:.2f}")


def scores_of(
    pair: ImagePair, labels: LabelMap, others: LabelMap, counted: set[int], found: Transform
) -> tuple[str, int]:
    field = DisplacementField.sampled(found, pair.fixed.grid)
    overlap = dice(labels, warp(others, field, onto=labels.grid))
    folds = int((jacobian_determinant(field, pair.fixed.grid).data <= 0).sum())
    return f"{statistics.mean(v for n, v in overlap.items() if n in counted):.4f}", folds


def write():
    for part, title in (("start", "As a start"), ("hard", "Where optimization fails")):
        grouped: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in rows():
            if row["part"] == part:
                grouped.setdefault((row["case"], row["arm"]), []).append(row)
        body = []
        for (case, arm), of in grouped.items():
            values = [float(row["dice"]) for row in of]
            seconds = statistics.mean(float(row["seconds"]) for row in of)
            cells = f"{statistics.mean(values):.3f}", f"{min(values):.3f}"
            body.append([case, arm, len(of), *cells, sum(int(r["folds"]) for r in of),
                         f"{seconds:.1f}"])  # fmt: skip
        names = ["", "after the affine", "pairs", "Dice, mean", "worst", "folded voxels, sum"]
        text = table([*names, "processor s"], body) if body else "Not measured yet."
        write_section(TABLE, title, text, head=HEAD)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("start", "hard", "table"))
    parser.add_argument("--pairs", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    if given.part == "start":
        compared("start", ["as they are"], TEST[: given.pairs])
    elif given.part == "hard":
        compared("hard", ["large", "contrast", "partial"], TEST[: given.pairs])
    write()


if __name__ == "__main__":
    main()
