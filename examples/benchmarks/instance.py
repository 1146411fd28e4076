"""How `brain-fast` aligns the brains of different persons, how smoothly and how fast, beside greedy.

The 12 pairs of `brain_mr.py` (test persons of oasis_malf35, 1 mm). brain-fast starts from the
images' positions alone; greedy (its documentation's settings for brains) gets the moving image
resampled through brain-fast's affine, once. Mean Dice of all labels of the fixed image, resampled
once; of the deformable part's determinants, in the fixed brain, the standard deviation of their
logarithm and the percentiles; folds of the total map on the whole grid; how far the inverse of a
mapped point is from it; seconds from arrays to transform, warm, in one process, 2 threads: of the
affine and of the rest.

Rows are added to instance.csv as they come and not computed again.

It does not run by `hybridreg compare`: it measures the parts of one method, with times of a warm
process.

    HYBRIDREG_DATA=... python examples/benchmarks/instance.py [--persons train] [--smoothness 1.1]
        [--arm greedy] [--kernels "1.732 0.707"] | [--arm SyN] [--metric "CC 2 60 15 0"] | table

ANTS_PYTHON names a Python with antspyx, if this one lacks it.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from brain_mr import TEST, THREADS
from lddmm import add, brain, folder, images, known, rows

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.config import load_method
from hybridreg.evaluation import dice, jacobian_statistics
from hybridreg.io.images import read_labels, write_image
from hybridreg.io.transforms import read_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.instance import Instance
from hybridreg.methods.linear.method import Linear
from hybridreg.methods.peers.ants import AntsSyn
from hybridreg.transforms import IDENTITY, DisplacementField, Transform, compose
from hybridreg.warping import jacobian_determinant, warp

AFFINE: Linear
DEFORMABLE: Instance
AFFINE, DEFORMABLE = load_method("brain-fast").stages
TRAIN = [(1000, 1001), (1006, 1009), (1011, 1012), (1002, 1010)]
NAME = "instance.csv"

Arm = Callable[[ImagePair, Transform, str], tuple[RegistrationResult, float]]


def brain_fast(pair: ImagePair, start: Transform, setting: str) -> tuple[RegistrationResult, float]:
    """setting: the smoothness. And the seconds after the affine."""
    before = time.perf_counter()
    result = replace(DEFORMABLE, smoothness=float(setting)).register(pair, start)
    return result, time.perf_counter() - before


def greedy(pair: ImagePair, start: Transform, setting: str) -> tuple[RegistrationResult, float]:
    """setting: the standard deviations of its Gaussians in voxels. Files are read and written
    outside of its time."""
    from picsl_greedy import Greedy3D

    moved = warp_pair(pair, start)
    with tempfile.TemporaryDirectory() as scratch:
        files = [f"{scratch}/{side}.nii.gz" for side in ("fixed", "moving", "warp", "inverse")]
        write_image(Path(files[0]), pair.fixed)
        write_image(Path(files[1]), moved.moving)
        run = Greedy3D()
        before = time.perf_counter()
        run.execute(
            f"-threads {THREADS} -i {files[0]} {files[1]} -o {files[2]} -oinv {files[3]} "
            f"-m NCC 2x2x2 -n 100x50x10 -s {'vox '.join(setting.split(' '))}vox",
            out=io.StringIO(),
            err=io.StringIO(),
        )
        seconds = time.perf_counter() - before
        along, back = (read_transform(Path(file)) for file in files[2:])
    return RegistrationResult(along, back).after(start), seconds


def syn(pair: ImagePair, start: Transform, setting: str) -> tuple[RegistrationResult, float]:
    """setting: the metric, its radius or bins, and the iterations of each level. Files are part of
    its time.
    """
    metric, sampling, *iterations = setting.split(" ")
    method = AntsSyn(
        metric=metric,
        sampling=int(sampling),
        iterations=tuple(map(int, iterations)),
        affine="",
        threads=THREADS,
        python=os.environ.get("ANTS_PYTHON", ""),
    )
    before = time.perf_counter()
    return method.register(pair, start), time.perf_counter() - before


ARMS: dict[str, Arm] = {"brain-fast": brain_fast, "greedy": greedy, "SyN": syn}


def evaluated(fixed: int, moving: int, arm: str, setting: str) -> dict[str, object]:
    pair = images(fixed, moving)
    before = time.perf_counter()
    start = AFFINE.register(pair).transform
    affine_seconds = time.perf_counter() - before
    result, seconds = ARMS[arm](pair, start, setting)
    return {
        "arm": arm,
        "setting": setting,
        **scored(fixed, moving, result, result.transform.parts[-1]),
        "affine_seconds": f"{affine_seconds:.2f}",
        "seconds": f"{seconds:.2f}",
    }


def scored(
    fixed: int, moving: int, result: RegistrationResult, deformable: Transform
) -> dict[str, object]:
    image = images(fixed, moving).fixed
    onto, inside = image.grid, brain(image)
    total = DisplacementField.sampled(compose(result.transform), onto)
    labels = [read_labels(folder() / f"{p}_glm.nii.gz") for p in (fixed, moving)]
    overlap = dice(labels[0], warp(labels[1], total, onto=onto))
    found = jacobian_statistics(jacobian_determinant(deformable, onto), mask=inside)
    row = {
        "fixed": fixed,
        "moving": moving,
        "dice": f"{statistics.mean(overlap.values()):.4f}",
        "log_sd": f"{found.log_sd:.3f}",
        "least": f"{found.minimum:.3f}",
        "p1": f"{found.p1:.2f}",
        "p99": f"{found.p99:.2f}",
        "folded_voxels": int((jacobian_determinant(total, onto).data <= 0).sum()),
    }
    if result.inverse is not None:
        points = onto.points()[inside.data != 0]
        there = (result.inverse(result.transform(points)) - points).norm(dim=-1)
        row["inverse_mean_mm"] = f"{there.mean():.4f}"
    return row


def table():
    print("| persons | method | setting | pairs | Dice, mean | worst | SD log J | least J | J, "
          "1-99 % | folds "
          "| inverse, mean mm | affine s | deformable s |\n" + "|---" * 13 + "|")  # fmt: skip
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows(NAME):
        persons = "test" if (int(row["fixed"]), int(row["moving"])) in TEST else "train"
        groups.setdefault((persons, row["arm"], row["setting"]), []).append(row)
    for group, found in sorted(groups.items()):
        of = {key: [float(row[key]) for row in found] for key in list(found[0])[2:]}
        mean = {key: statistics.mean(values) for key, values in of.items()}
        print(
            f"| {' | '.join(group)} | {len(found)} | {mean['dice']:.3f} | {min(of['dice']):.3f} "
            f"| {mean['log_sd']:.2f} | {min(of['least']):.3f} | {mean['p1']:.2f}-{mean['p99']:.2f} "
            f"| {sum(of['folded_voxels']):.0f} | {mean['inverse_mean_mm']:.3f} "
            f"| {statistics.median(of['affine_seconds']):.2f} "
            f"| {statistics.median(of['seconds']):.1f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["accuracy", "table"], default="accuracy")
    parser.add_argument("--persons", choices=["train", "test"], default="test")
    parser.add_argument("--pairs", type=int, default=None, help="the first so many")
    parser.add_argument("--arm", choices=list(ARMS), default="brain-fast")
    parser.add_argument("--smoothness", default=f"{DEFORMABLE.smoothness:g}")
    parser.add_argument("--kernels", default="1.732 0.707", help="of greedy, in voxels")
    parser.add_argument("--metric", default="mattes 32 40 20 0", help="of SyN: see syn")
    given = parser.parse_args()
    if given.what == "table":
        return table()
    torch.set_num_threads(THREADS)
    setting = {"brain-fast": given.smoothness, "greedy": given.kernels, "SyN": given.metric}[
        given.arm
    ]
    pairs = (TEST if given.persons == "test" else TRAIN)[: given.pairs]
    warm = False
    for fixed, moving in pairs:
        key = {"fixed": fixed, "moving": moving, "arm": given.arm, "setting": setting}
        if known(NAME, **key):
            continue
        if given.arm == "brain-fast" and not warm:
            warm = bool(brain_fast(images(fixed, moving), IDENTITY, setting))
        add(NAME, evaluated(fixed, moving, given.arm, setting))


if __name__ == "__main__":
    main()
