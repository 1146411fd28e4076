"""How demons and HAMMER align the brains of different persons, on intensities and on descriptors.

Test persons of oasis_malf35, 1 mm: a ring of four of the 12 pairs of `brain_mr.py`, or all 12 with
--all. All methods follow the same affine, the first stage of the presets, found once and kept in
HYBRIDREG_SCRATCH; `instance` is the last stage of `brain-fast`, `simpleitk` the diffeomorphic
demons of SimpleITK on three levels, the images scaled as ours are. Mean Dice of all labels of the
fixed image, resampled once; of the deformable part, in the fixed brain, the standard deviation of
the logarithm of its determinants; folded voxels of the total map on the whole grid; how far the
inverse of a mapped point is from it; seconds from arrays to transform after the affine, kernels
loaded, 2 threads.

It does not run by `hybridreg compare`: all methods share an affine found once, and times are of
what follows.

Rows are added to demons_hammer.csv as they come and not computed again; --times measures the first
pair again and replaces its seconds.

    HYBRIDREG_DATA=... python examples/benchmarks/demons_hammer.py [--arms demons,hammer] [--times] | table
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time

import numpy as np
import SimpleITK as sitk
import torch
from brain_mr import TEST
from instance import TRAIN
from lddmm import DESCENT_PAIRS, HERE, SHARED, THREADS, add, brain, folder, images, known, rows

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.config import load_method, with_settings
from hybridreg.evaluation import dice, jacobian_statistics
from hybridreg.images import Image
from hybridreg.intensity import unit_pair
from hybridreg.io.images import read_labels
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.phantoms import blobs
from hybridreg.transforms import DisplacementField, Transform, parts_of
from hybridreg.warping import jacobian_determinant, warp

NAME = "demons_hammer.csv"
PRESETS = {
    "demons": "demons",
    "demons-features": "demons-features",
    "hammer": "hammer",
    "instance": "brain-fast",
}
ARMS = ("affine", *PRESETS, "simpleitk")
LEVELS = ((4, 50), (2, 50), (1, 30))  # SimpleITK: voxels shrunk by, iterations


def affine(fixed: int, moving: int) -> Transform:
    path = SHARED / f"linear_{fixed}_{moving}.h5"
    if not path.exists():
        stage = load_method("demons").stages[0]
        write_transform(path, stage.register(images(fixed, moving)).transform)
    return read_transform(path)


def registered(arm: str, pair: ImagePair, start: Transform) -> RegistrationResult:
    if arm == "affine":
        return RegistrationResult(start)
    if arm == "simpleitk":
        return simpleitk_demons(warp_pair(pair, start)).after(start)
    stage = load_method(PRESETS[arm]).stages[1]
    return with_settings(stage, threads=THREADS).register(pair, start)


def simpleitk_demons(pair: ImagePair) -> RegistrationResult:
    """Symmetric forces and a Gaussian of one voxel on the map, from coarse to fine."""
    scaled = unit_pair(pair)
    fixed, moving = (_to_itk(image) for image in (scaled.fixed, scaled.moving))
    field = None
    for factor, iterations in LEVELS:
        coarse = [_shrunk(image, factor) for image in (fixed, moving)]
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(1.0)
        if field is None:
            field = demons.Execute(*coarse)
        else:
            field = demons.Execute(*coarse, sitk.Resample(field, coarse[0]))
    vectors = torch.from_numpy(sitk.GetArrayFromImage(field)).movedim(-1, 0).float()
    found = DisplacementField(vectors, pair.fixed.grid)
    return RegistrationResult(found, found.inverse())


def _to_itk(image: Image) -> sitk.Image:
    made = sitk.GetImageFromArray(image.data[0].numpy() * 100)  # differences below .001 are ignored
    made.SetSpacing(image.grid.spacing)
    made.SetOrigin(image.grid.origin)
    made.SetDirection(np.array(image.grid.direction).ravel())
    return made


def _shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    if factor == 1:
        return image
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, factor / 2), [factor] * 3)


def timed(arm: str, pair: ImagePair, start: Transform) -> tuple[RegistrationResult, float, float]:
    before = time.process_time(), time.perf_counter()
    result = registered(arm, pair, start)
    return result, time.process_time() - before[0], time.perf_counter() - before[1]


def evaluated(arm: str, fixed: int, moving: int) -> dict[str, str]:
    pair, start = images(fixed, moving), affine(fixed, moving)
    result, processor, wall = timed(arm, pair, start)
    onto, inside = pair.fixed.grid, brain(pair.fixed)
    total = DisplacementField.sampled(result.transform, onto)
    labels = [read_labels(folder() / f"{p}_glm.nii.gz") for p in (fixed, moving)]
    overlap = dice(labels[0], warp(labels[1], total, onto=onto))
    row = {"fixed": fixed, "moving": moving, "arm": arm}
    row["dice"] = f"{statistics.mean(overlap.values()):.4f}"
    row["folded_voxels"] = int((jacobian_determinant(total, onto).data <= 0).sum())
    row |= {"log_sd": "0", "least": "1", "inverse_mean_mm": "0", "inverse_max_mm": "0"}
    if arm != "affine":
        found = jacobian_statistics(
            jacobian_determinant(parts_of(result.transform)[-1], onto), mask=inside
        )
        points = onto.points()[inside.data != 0]
        there = (result.inverse(result.transform(points)) - points).norm(dim=-1)
        row["log_sd"], row["least"] = f"{found.log_sd:.3f}", f"{found.minimum:.3f}"
        row["inverse_mean_mm"] = f"{there.mean():.4f}"
        row["inverse_max_mm"] = f"{there.max():.2f}"
    row["processor_seconds"], row["wall_seconds"] = f"{processor:.1f}", f"{wall:.1f}"
    return row


def times(arms: list[str]):
    """The seconds of the first test pair, measured again; those of all other rows are removed."""
    fixed, moving = DESCENT_PAIRS[0]
    pair, start = images(fixed, moving), affine(fixed, moving)
    found = rows(NAME)
    for arm in arms:
        _, processor, wall = timed(arm, pair, start)
        print(arm, f"{processor:.1f} s of processor time, {wall:.1f} s", flush=True)
        for row in found:
            if row["arm"] == arm:
                first = (row["fixed"], row["moving"]) == (str(fixed), str(moving))
                row["processor_seconds"] = f"{processor:.1f}" if first else ""
                row["wall_seconds"] = f"{wall:.1f}" if first else ""
    with (HERE / NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


def table():
    print("| method | persons | pairs | Dice, mean | worst | SD log J | folds | phi^-1 o "
          "phi, mean mm "
          "| processor s | wall s |\n" + "|---" * 10 + "|")  # fmt: skip
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows(NAME):
        persons = "test" if (int(row["fixed"]), int(row["moving"])) in TEST else "train"
        groups.setdefault((persons, row["arm"]), []).append(row)
    for (persons, arm), found in sorted(groups.items()):
        of = {k: [float(r[k]) for r in found if r[k]] for k in found[0] if k != "arm"}
        seconds = [statistics.median(of[f"{k}_seconds"]) for k in ("processor", "wall")]
        print(
            f"| {arm} | {persons} | {len(found)} | {statistics.mean(of['dice']):.3f} "
            f"| {min(of['dice']):.3f} | {statistics.mean(of['log_sd']):.2f} "
            f"| {sum(of['folded_voxels']):.0f} | {statistics.mean(of['inverse_mean_mm']):.3f} "
            f"| {seconds[0]:.1f} | {seconds[1]:.1f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["accuracy", "table"], default="accuracy")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--persons", choices=["train", "test"], default="test")
    parser.add_argument("--all", action="store_true", help="all 12 test pairs")
    parser.add_argument("--pairs", type=int, help="only so many of them")
    parser.add_argument("--times", action="store_true")
    given = parser.parse_args()
    arms = given.arms.split(",")
    if given.what == "table":
        return table()
    torch.set_num_threads(THREADS)
    for arm in arms:
        if arm in PRESETS:  # loads the kernels
            load_method(PRESETS[arm]).stages[1].register(blobs().pair)
    if given.times:
        return times(arms)
    pairs = (TEST if given.all else DESCENT_PAIRS) if given.persons == "test" else TRAIN
    for fixed, moving in pairs[: given.pairs]:
        for arm in arms:
            if not known(NAME, fixed=fixed, moving=moving, arm=arm):
                add(NAME, evaluated(arm, fixed, moving))


if __name__ == "__main__":
    main()
