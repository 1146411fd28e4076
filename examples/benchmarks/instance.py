"""How `instance`, the last stage of `deformable`, aligns the brains of different persons, and how fast.

The 12 pairs of `brain_mr.py` (test persons of oasis_malf35, 1 mm), all from the same affine, the linear
stages of `brain-mr`, found once and kept in HYBRIDREG_SCRATCH. Mean Dice of all labels of the fixed image,
resampled once; of the deformable part's determinants, in the fixed brain, the standard deviation of their
logarithm and the percentiles; folds of the total map on the whole grid; how far the inverse of a mapped
point is from it; seconds from arrays to transform, warm, in one process, 2 threads.

Rows are added to instance.csv as they come and not computed again.

    HYBRIDREG_DATA=... python examples/benchmarks/instance.py [--persons train] [--smoothness 1] | table
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from brain_mr import TEST
from lddmm import add, affine, brain, folder, images, known, rows

from hybridreg.config import load_method
from hybridreg.evaluation import dice, jacobian_statistics
from hybridreg.io.images import read_labels
from hybridreg.methods.instance import Instance
from hybridreg.phantoms import blobs
from hybridreg.transforms import DisplacementField
from hybridreg.warping import jacobian_determinant, warp

METHOD: Instance = load_method("deformable").stages[1]
TRAIN = [(1000, 1001), (1006, 1009), (1011, 1012), (1002, 1010)]
NAME = "instance.csv"


def evaluated(fixed: int, moving: int, smoothness: float) -> dict[str, str]:
    pair, start = images(fixed, moving), affine(fixed, moving)
    before = time.process_time(), time.perf_counter()
    result = replace(METHOD, smoothness=smoothness).register(pair, start)
    processor, wall = time.process_time() - before[0], time.perf_counter() - before[1]
    onto, inside = pair.fixed.grid, brain(pair.fixed)
    total = DisplacementField.sampled(result.transform, onto)
    labels = [read_labels(folder() / f"{p}_glm.nii.gz") for p in (fixed, moving)]
    overlap = dice(labels[0], warp(labels[1], total, onto=onto))
    deformable = jacobian_determinant(result.transform.parts[-1], onto)
    found = jacobian_statistics(deformable, mask=inside)
    points = onto.points()[inside.data != 0]
    there = (result.inverse(result.transform(points)) - points).norm(dim=-1)
    return {
        "fixed": fixed,
        "moving": moving,
        "smoothness": f"{smoothness:g}",
        "dice": f"{statistics.mean(overlap.values()):.4f}",
        "log_sd": f"{found.log_sd:.3f}",
        "least": f"{found.minimum:.3f}",
        "p1": f"{found.p1:.2f}",
        "p99": f"{found.p99:.2f}",
        "folded_voxels": int((jacobian_determinant(total, onto).data <= 0).sum()),
        "inverse_mean_mm": f"{there.mean():.4f}",
        "inverse_max_mm": f"{there.max():.2f}",
        "processor_seconds": f"{processor:.1f}",
        "wall_seconds": f"{wall:.1f}",
    }


def table():
    print("| persons | smoothness | pairs | Dice, mean | worst | SD log J | least J | J, 1-99 % | folds "
          "| inverse, mean mm | processor s / 2 | wall s |\n" + "|---" * 12 + "|")  # fmt: skip
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows(NAME):
        persons = "test" if (int(row["fixed"]), int(row["moving"])) in TEST else "train"
        groups.setdefault((persons, row["smoothness"]), []).append(row)
    for (persons, smoothness), found in sorted(groups.items()):
        of = {key: [float(row[key]) for row in found] for key in found[0]}
        mean = {key: statistics.mean(values) for key, values in of.items()}
        print(
            f"| {persons} | {smoothness} | {len(found)} | {mean['dice']:.3f} | {min(of['dice']):.3f} "
            f"| {mean['log_sd']:.2f} | {min(of['least']):.3f} | {mean['p1']:.2f}-{mean['p99']:.2f} "
            f"| {sum(of['folded_voxels']):.0f} | {mean['inverse_mean_mm']:.3f} "
            f"| {statistics.median(of['processor_seconds']) / 2:.1f} "
            f"| {statistics.median(of['wall_seconds']):.1f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["accuracy", "table"], default="accuracy")
    parser.add_argument("--persons", choices=["train", "test"], default="test")
    parser.add_argument("--smoothness", type=float, default=METHOD.smoothness)
    given = parser.parse_args()
    if given.what == "table":
        return table()
    torch.set_num_threads(2)
    METHOD.register(blobs().pair)  # loads the kernels
    for fixed, moving in TEST if given.persons == "test" else TRAIN:
        key = {"fixed": fixed, "moving": moving, "smoothness": f"{given.smoothness:g}"}
        if not known(NAME, **key):
            add(NAME, evaluated(fixed, moving, given.smoothness))


if __name__ == "__main__":
    main()
