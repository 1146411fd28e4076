"""How well `cardiac-2d` follows the heart from diastole to systole, beside what one would use instead.

The test persons of sunnybrook_2d: every slice level has one frame at the end of diastole and one at
the end of systole (frames are numbered 20 to a level; the one with more blood is the former). Blood
pool of the left ventricle, Dice and surface distance, before and after. The files have no pixel
spacing: 1 pixel is taken as 1 mm, about 1.3 to 1.4 mm in truth. Folds are counted over the whole
image.

`cardiac-2d` in both directions, everyone else onto systole from diastole only. ANTs runs in the
Python that ANTS_PYTHON names, by default in this one.

Rows are printed as they come, tables at the end. `--times` measures times instead: of the first
person's slices, from arrays in memory to a transform in memory (ANTs: from files it has read), warm,
on 2 threads, medians.

    HYBRIDREG_DATA=... python examples/benchmarks/cardiac_2d.py [--patients HF-I-40] [--times]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from peers import AntsProcess, elastix_default
from sections import table, write_section

from hybridreg.cases import ImagePair
from hybridreg.config import load_method, with_settings
from hybridreg.evaluation import dice, surface_distances
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.transforms import read_transform
from hybridreg.transforms import IDENTITY, DisplacementField, Transform, compose
from hybridreg.warping import jacobian_determinant, warp

TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["`cardiac-2d` beside what one would use instead", *__doc__.split("\n\n")[1:3]])
FRAMES_A_LEVEL = 20
TEST = ["HF-I-40", "HF-NI-04", "HF-NI-36", "HYP-01"]

Arm = Callable[[ImagePair], tuple[Transform, float]]  # fixed to moving, seconds

ANTS = """
done = ants.registration(
    fixed, moving, type_of_transform="SyN", random_seed=1, outprefix=f"{f}/out_"
)
print(json.dumps([time.perf_counter() - start, done["fwdtransforms"]]), flush=True)
"""


@dataclass(frozen=True)
class Frame:
    """One picture of the heart and the blood pool of its left ventricle."""

    image: Image
    pool: LabelMap


@dataclass(frozen=True)
class Row:
    """What one method reached on one pair of frames; hd95_mm is nan where the pool was lost."""

    patient: str
    onto: str
    arm: str
    dice: float
    hd95_mm: float
    folding_percent: float


def read_pairs(folder: Path, patient: str) -> Iterator[tuple[Frame, Frame]]:
    """Diastole and systole of every slice level that has both."""
    levels: dict[int, list[Frame]] = {}
    for path in sorted((folder / "images").glob(f"SC-{patient}-IM-*.png")):
        number = int(re.search(r"-(\d+)\.dcm\.png$", path.name)[1])
        frame = Frame(read_image(path), read_labels(folder / "labels" / path.name))
        levels.setdefault((number - 1) // FRAMES_A_LEVEL, []).append(frame)
    for frames in levels.values():
        if len(frames) == 2:
            small, large = sorted(frames, key=lambda frame: int((frame.pool.data != 0).sum()))
            yield large, small


def ours(method) -> Arm:
    def arm(pair: ImagePair) -> tuple[Transform, float]:
        start = time.perf_counter()
        found = method.register(pair).transform
        return found, time.perf_counter() - start

    return arm


def demons(pair: ImagePair) -> tuple[Transform, float]:
    """SimpleITK's diffeomorphic demons at three levels, each from the field of the one before."""
    fixed, moving = (sitk.GetImageFromArray(i.data[0].numpy()) for i in (pair.fixed, pair.moving))
    start = time.perf_counter()
    moving = sitk.HistogramMatching(moving, fixed, 1024, 7)
    method = sitk.DiffeomorphicDemonsRegistrationFilter()
    method.SetNumberOfIterations(100)
    method.SetStandardDeviations(1.5)
    field = None
    for factor in (4, 2, 1):
        small = [_shrunk(image, factor) for image in (fixed, moving)]
        given = [] if field is None else [sitk.Resample(field, small[0])]
        field = method.Execute(*small, *given)
    seconds = time.perf_counter() - start
    vectors = torch.from_numpy(sitk.GetArrayFromImage(field)).movedim(-1, 0)
    return DisplacementField(vectors, pair.fixed.grid), seconds


def _shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    if factor == 1:
        return image
    return sitk.BinShrink(image, [factor] * image.GetDimension())


class Ants(AntsProcess):
    """ANTs' SyN with its own settings, affine stage included."""

    def __call__(self, pair: ImagePair) -> tuple[Transform, float]:
        for side in ("fixed", "moving"):
            write_image(self.folder / f"{side}.nii.gz", getattr(pair, side))
        seconds, (field, affine) = self.ask()
        return compose(read_transform(affine), read_transform(field)), seconds


def score(row: tuple[str, str, str], fixed: Frame, moving: Frame, found: Transform) -> Row:
    grid = fixed.image.grid
    field = DisplacementField.sampled(found, grid)
    folded = (jacobian_determinant(field, grid).data <= 0).double().mean().item()
    moved = warp(moving.pool, field, onto=grid)
    (overlap,), (surface,) = (
        measure(fixed.pool, moved).values() for measure in (dice, surface_distances)
    )
    far = float("nan") if surface is None else surface.hd95_mm
    return Row(*row, overlap, far, 100 * folded)


def rows_of(arms: dict[str, Arm], folder: Path, patients: list[str]) -> Iterator[Row]:
    """Every pair of frames before and by every arm; the first arm in both directions."""
    first = next(iter(arms))
    for patient in patients:
        for diastole, systole in read_pairs(folder, patient):
            for onto, fixed, moving in (
                ("systole", systole, diastole),
                ("diastole", diastole, systole),
            ):
                yield score((patient, onto, "before"), fixed, moving, IDENTITY)
                for name, arm in arms.items():
                    if onto == "systole" or name == first:
                        found, _ = arm(ImagePair(fixed.image, moving.image))
                        yield score((patient, onto, name), fixed, moving, found)


def times(arms: dict[str, Arm], pairs: list[tuple[Frame, Frame]]) -> str:
    """Seconds of each arm onto systole, median over the pairs; the first one warms up."""
    rows = []
    for name, arm in arms.items():
        found = [arm(ImagePair(systole.image, diastole.image)) for diastole, systole in pairs]
        rows.append([name, f"{statistics.median(seconds for _, seconds in found[1:]):.2f}"])
    return table(["method", "s"], rows)


def summary(rows: list[Row]) -> list[str]:
    overlap = [row.dice for row in rows]
    return [
        len(rows),
        f"{np.mean(overlap):.4f}",
        f"{np.median(overlap):.4f}",
        f"{min(overlap):.3f}",
        f"{np.nanmean([row.hd95_mm for row in rows]):.2f}",
        f"{np.mean([row.folding_percent for row in rows]):.4f}",
    ]


def method_table(rows: list[Row]) -> str:
    groups = {
        key: [row for row in rows if (row.arm, row.onto) == key]
        for key in dict.fromkeys((row.arm, row.onto) for row in rows)
    }
    names = ["method", "onto", "pairs", "mean Dice", "median", "least", "mean HD95 mm", "folds %"]
    return table(names, ([*key, *summary(group)] for key, group in groups.items()))


def patient_table(rows: list[Row]) -> str:
    """Mean Dice of each person onto systole."""
    rows = [row for row in rows if row.onto == "systole"]
    arms = list(dict.fromkeys(row.arm for row in rows))
    lines = []
    for patient in dict.fromkeys(row.patient for row in rows):
        groups = [[r.dice for r in rows if (r.patient, r.arm) == (patient, arm)] for arm in arms]
        lines.append([patient, *(f"{np.mean(group):.4f}" for group in groups)])
    return table(["person", *arms], lines)


def arms_of(threads: int, folder: Path) -> dict[str, Arm]:
    """What is compared; ANTs where it is installed."""
    preset, general = (
        ours(with_settings(load_method(name), threads=threads))
        for name in ("cardiac-2d", "bspline")
    )
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    default = ours(elastix_default("bspline", folder, threads))
    arms = {"cardiac-2d": preset, "elastix default": default, "bspline": general}
    arms["SimpleITK demons"] = demons
    ants = Ants(ANTS, folder, threads)
    return {**arms, "ANTs SyN": ants} if ants.version else arms


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", nargs="+", default=TEST)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", action="store_true", help="measure times, not accuracy")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "sunnybrook_2d"
    with tempfile.TemporaryDirectory() as name:
        arms = arms_of(options.threads, Path(name))
        if options.times:
            pairs = list(read_pairs(folder, options.patients[0]))
            write_section(TABLE, "Times", times(arms, pairs), head=HEAD)
            return
        rows = []
        for row in rows_of(arms, folder, options.patients):
            rows.append(row)
            print(row, flush=True)
    write_section(TABLE, "All pairs", method_table(rows), head=HEAD)
    write_section(TABLE, "Mean Dice onto systole", patient_table(rows), head=HEAD)


if __name__ == "__main__":
    main()
