"""How well `brain-mr` aligns the brains of different persons, compared with alternatives.

Pairs: every test person of oasis_malf35 onto every other (12), 1 mm; mean Dice of all labels of the
fixed image (nearest neighbor), folded voxels of the fixed brain. All deformable methods follow the
same affine: the linear stages of `brain-mr`. Peers get the moving image resampled through it, once.
And the person scanned twice (1018, 1038), both ways.

Rows are added to brain_mr.csv as they come and not computed again, so the run can be interrupted;
the tables are printed from it. `--times` measures times instead: of the first pair, all methods in
turn, warm, arrays in memory to transform in memory (peers that take files: theirs included), 2
threads, median of 5, with nothing else running.

    HYBRIDREG_DATA=... python examples/benchmarks/brain_mr.py [--arms affine,brain-mr] [--times]
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.config import load_method, with_settings
from hybridreg.evaluation import dice, jacobian_statistics
from hybridreg.images import LabelMap
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.transforms import read_transform
from hybridreg.methods.elastix import Elastix
from hybridreg.transforms import IDENTITY, DisplacementField, Transform, compose
from hybridreg.warping import jacobian_determinant, warp

THREADS = 2
TEST = list(itertools.permutations([1015, 1017, 1036, 1128], 2))
RESCAN = [(1018, 1038), (1038, 1018)]
TABLE = Path(__file__).with_suffix(".csv")
COLUMNS = ("fixed", "moving", "arm", "dice", "folding_percent")

Arm = Callable[[ImagePair, Path], Transform]  # pair and a scratch folder -> fixed to moving

DEFAULT_MAP = """
import sys
from itk import elxParameterObjectPython as pm
maps = pm.elastixParameterObject.New()
maps.AddParameterMap(pm.elastixParameterObject.GetDefaultParameterMap("bspline", 4))
maps.WriteParameterFile(sys.argv[1])
"""


def ours(method) -> Arm:
    return lambda pair, _: with_settings(method, threads=THREADS).register(pair).transform


def elastix_default(pair: ImagePair, folder: Path) -> Transform:
    """The B-spline map that elastix itself proposes, untouched."""
    path = folder / "default_bspline.txt"
    subprocess.run([sys.executable, "-c", DEFAULT_MAP, str(path)], check=True)
    method = Elastix((str(path),), schedule="elastix", threads=THREADS)
    return method.register(pair).transform


def greedy(pair: ImagePair, folder: Path) -> Transform:
    """greedy with the settings of its own documentation for brains: NCC 2x2x2, 100x50x10."""
    from picsl_greedy import Greedy3D

    warp_file = folder / "greedy.nii.gz"
    write_image(folder / "fixed.nii.gz", pair.fixed)
    write_image(folder / "moving.nii.gz", pair.moving)
    Greedy3D().execute(
        f"-threads {THREADS} -i {folder}/fixed.nii.gz {folder}/moving.nii.gz -o {warp_file} "
        "-m NCC 2x2x2 -n 100x50x10",
        out=io.StringIO(),
        err=io.StringIO(),
    )
    return read_transform(warp_file)


ANTS = """
import json, sys
import ants
folder, settings = sys.argv[1], json.loads(sys.argv[2])
images = [ants.image_read(f"{folder}/{side}.nii.gz") for side in ("fixed", "moving")]
done = ants.registration(
    *images, type_of_transform="SyNOnly", initial_transform="Identity", outprefix=f"{folder}/ants_",
    random_seed=1, **settings,
)
print([name for name in done["fwdtransforms"] if name.endswith(".nii.gz")][0])
"""


def ants_syn(**settings) -> Arm:
    """ANTs in the Python that ANTS_PYTHON names, by default in this one.

    It gets the brains and 12 mm of the air around them: the rest would take most of its time.
    """

    def run(pair: ImagePair, folder: Path) -> Transform:
        shown = torch.stack([image.data[0] != 0 for image in (pair.fixed, pair.moving)]).any(0)
        places = shown.nonzero()
        around = (places.amin(0) - 12).tolist(), (places.amax(0) + 13).tolist()
        onto = pair.fixed.grid.crop(*around)
        for side in ("fixed", "moving"):
            image = warp(getattr(pair, side), IDENTITY, onto=onto)
            write_image(folder / f"{side}.nii.gz", image)
        python = os.environ.get("ANTS_PYTHON", sys.executable)
        done = subprocess.run(
            [python, "-c", ANTS, str(folder), json.dumps(settings)],
            env={**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(THREADS)},
            check=True,
            capture_output=True,
            text=True,
        )
        return read_transform(done.stdout.strip().splitlines()[-1])

    return run


BRAIN_MR = load_method("brain-mr")
LINEAR = load_method("brain-lddmm").stages[0]  # the linear stages of brain-mr
# Whole methods, then those that follow the affine.
WHOLE: dict[str, Arm] = {
    "rigid": ours(load_method("rigid")),
    "affine": ours(LINEAR),
    "bspline": ours(load_method("bspline")),
    "brain-mr": ours(BRAIN_MR),
}
AFTER: dict[str, Arm] = {
    "elastix default": elastix_default,
    "greedy NCC": greedy,
    "ANTs SyN MI": ants_syn(syn_metric="mattes", reg_iterations=(40, 20, 0)),
    "ANTs SyN CC": ants_syn(syn_metric="CC", syn_sampling=2, reg_iterations=(100, 70, 50, 20)),
}
DEFAULT_ARMS = ["rigid", "affine", "bspline", "brain-mr", "elastix default", "greedy NCC"]


def score(pair: ImagePair, labels: tuple[LabelMap, LabelMap], transform: Transform):
    onto = pair.fixed.grid
    displacement = DisplacementField.sampled(transform, onto)
    overlap = dice(labels[0], warp(labels[1], displacement, onto=onto))
    brain = LabelMap((pair.fixed.data[0] > 0).int(), onto)
    folding = jacobian_statistics(jacobian_determinant(displacement, onto), mask=brain)
    return statistics.mean(overlap.values()), folding.folding_percent


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []


def run_pair(fixed: int, moving: int, arms: list[str], folder: Path):
    """Adds the rows of one pair that are not in the table yet."""
    known = {
        row["arm"] for row in rows() if (row["fixed"], row["moving"]) == (f"{fixed}", f"{moving}")
    }
    missing = [arm for arm in arms if arm not in known]
    if not missing:
        return
    pair = ImagePair(*[read_image(folder / f"{person}_SS.nii.gz") for person in (fixed, moving)])
    labels = tuple(read_labels(folder / f"{person}_glm.nii.gz") for person in (fixed, moving))
    follows = any(arm in AFTER for arm in missing)
    affine = WHOLE["affine"](pair, folder) if follows else IDENTITY
    aligned = warp_pair(pair, affine)
    for arm in missing:
        with tempfile.TemporaryDirectory() as scratch:
            found = (WHOLE | AFTER)[arm](aligned if arm in AFTER else pair, Path(scratch))
        total = compose(affine, found) if arm in AFTER else found
        mean_dice, folding = score(pair, labels, total)
        new = not TABLE.exists()
        with TABLE.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            writer.writerow([fixed, moving, arm, f"{mean_dice:.4f}", f"{folding:.4f}"])
        print(f"{fixed} <- {moving} {arm:16} {mean_dice:.4f} {folding:.4f} %", flush=True)


def table(pairs: list[tuple[int, int]]) -> str:
    chosen = [row for row in rows() if (int(row["fixed"]), int(row["moving"])) in pairs]
    lines = [
        "| method | pairs | Dice, mean | worst pair | folded %, mean | worst |",
        "|---|---|---|---|---|---|",
    ]
    for arm in WHOLE | AFTER:
        of_arm = [row for row in chosen if row["arm"] == arm]
        if not of_arm:
            continue
        values, folds = ([float(row[name]) for row in of_arm] for name in COLUMNS[3:])
        after = "affine + " if arm in AFTER else ""
        lines.append(
            f"| {after}{arm} | {len(values)} | {statistics.mean(values):.3f} | {min(values):.3f} | "
            f"{statistics.mean(folds):.3f} | {max(folds):.3f} |"
        )
    return "\n".join(lines)


def times(arms: list[str], folder: Path) -> str:
    """Seconds of the first pair, median of 5; the methods take turns."""
    pair = ImagePair(*[read_image(folder / f"{person}_SS.nii.gz") for person in TEST[0]])
    aligned = warp_pair(pair, WHOLE["affine"](pair, folder))
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(5):
        for arm in arms:
            with tempfile.TemporaryDirectory() as scratch:
                start = time.perf_counter()
                (WHOLE | AFTER)[arm](aligned if arm in AFTER else pair, Path(scratch))
                seconds[arm].append(time.perf_counter() - start)
            print(arm, f"{seconds[arm][-1]:.1f} s", flush=True)
    lines = ["| method | seconds |", "|---|---|"]
    for arm, values in seconds.items():
        after = " (after the affine)" if arm in AFTER else ""
        lines.append(f"| {arm}{after} | {statistics.median(values):.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arms", default=",".join(DEFAULT_ARMS))
    parser.add_argument("--pairs", type=int, default=len(TEST), help="only so many of the first")
    parser.add_argument("--times", action="store_true", help="measure times, not accuracy")
    options = parser.parse_args()
    arms = options.arms.split(",")
    torch.set_num_threads(THREADS)
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "oasis_malf35" / "subjects"
    if options.times:
        print(times(arms, folder))
        return
    for fixed, moving in TEST[: options.pairs]:
        run_pair(fixed, moving, arms, folder)
    for fixed, moving in RESCAN:
        run_pair(fixed, moving, arms, folder)
    print(f"\nDifferent persons\n\n{table(TEST)}\n\nOne person, scanned twice\n\n{table(RESCAN)}")


if __name__ == "__main__":
    main()
