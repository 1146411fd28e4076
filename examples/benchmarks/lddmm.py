"""How `brain-lddmm` aligns the brains of different persons, and what momenta say of elastix's results.

Accuracy: the 12 pairs of `brain_mr.py` (test persons of oasis_malf35, 1 mm), mean Dice of all
labels of the fixed image, folded voxels of the fixed brain, and how far phi(phi^-1(x)) is from x in
it. All methods follow the same affine, the linear stages of `brain-mr`; rows of the others come
from brain_mr.csv.

Momenta: at 2 mm, the transform that `brain-mr` finds, its affine removed, as one geodesic: what it
cannot say, inside the fixed brain.

Descent: of one energy (squared differences, sigma 0.03), to one grid and from zero: the published
fixed steps (Yang 2017), 50, the best of 5 step lengths, against ours, with the same integrator.
Step lengths are chosen in 2D by all 50 steps, in 3D by the first 6 of the first pair. Times are
processor seconds of one thread.

Rows are added to lddmm.csv, lddmm_momenta.csv and lddmm_descent.csv as they come and not computed
again.

It does not run by `hybridreg compare`: momenta and descents are not registrations, and processor
seconds are those of a warm process without the affine that all share.

    HYBRIDREG_DATA=... python examples/benchmarks/lddmm.py accuracy|momenta|descent|times|table
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from brain_mr import LINEAR, TEST
from scipy import ndimage

from hybridreg import progress
from hybridreg.cases import ImagePair, warp_pair
from hybridreg.config import load_method, with_settings
from hybridreg.evaluation import dice, jacobian_statistics
from hybridreg.images import Image, LabelMap
from hybridreg.initialization import initialize
from hybridreg.intensity import to_unit
from hybridreg.io.images import read_image, read_labels
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.methods.lddmm import Lddmm, momentum_of
from hybridreg.similarity import SSD
from hybridreg.transforms import IDENTITY, DisplacementField, Transform
from hybridreg.warping import jacobian_determinant, warp

THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))
HERE = Path(__file__).parent
METHOD: Lddmm = load_method("brain-lddmm").stages[1]
SHARED = Path(os.environ.get("HYBRIDREG_SCRATCH", "."))  # affines found once
DESCENT_PAIRS = [(1015, 1017), (1017, 1036), (1036, 1128), (1128, 1015)]
# The published energy (squared differences), our kernel: see the table's text for theirs.
DESCENT: Lddmm = replace(
    METHOD, similarity=SSD(), sigma=0.03, sigma_factor=1.0, unfolding=0.0, scaled=False
)


def folder() -> Path:
    return Path(os.environ["HYBRIDREG_DATA"]) / "oasis_malf35" / "subjects"


def images(fixed: int, moving: int, *, spacing_mm: float = 1.0) -> ImagePair:
    read = [read_image(folder() / f"{person}_SS.nii.gz") for person in (fixed, moving)]
    return ImagePair(*(coarse(image, spacing_mm) for image in read))


def coarse(image: Image, spacing_mm: float) -> Image:
    if spacing_mm <= min(image.grid.spacing):
        return image
    sigma = 0.5 * (spacing_mm**2 - 1) ** 0.5
    smooth = torch.from_numpy(ndimage.gaussian_filter(image.data[0].numpy(), sigma))
    onto = image.grid.with_spacing([spacing_mm] * image.grid.dimension)
    return warp(Image(smooth, image.grid), IDENTITY, onto=onto)


def affine(fixed: int, moving: int) -> Transform:
    path = SHARED / f"affine_{fixed}_{moving}.h5"
    if not path.exists():
        found = with_settings(LINEAR, threads=2).register(images(fixed, moving)).transform
        write_transform(path, found)
    return read_transform(path)


def brain(image: Image) -> LabelMap:
    return LabelMap((image.data[0] > 0).int(), image.grid)


def rows(name: str) -> list[dict[str, str]]:
    path = HERE / name
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def add(name: str, row: dict):
    path = HERE / name
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)


def known(name: str, **wanted) -> bool:
    return any(all(row[k] == str(v) for k, v in wanted.items()) for row in rows(name))


def accuracy(spacing_mm: float):
    for fixed, moving in TEST:
        if known("lddmm.csv", fixed=fixed, moving=moving, images_mm=spacing_mm):
            continue
        start = affine(fixed, moving)
        result = METHOD.register(images(fixed, moving, spacing_mm=spacing_mm), start)
        full = images(fixed, moving)
        onto, inside = full.fixed.grid, brain(full.fixed)
        displacement = DisplacementField.sampled(result.transform, onto)
        labels = [read_labels(folder() / f"{p}_glm.nii.gz") for p in (fixed, moving)]
        overlap = dice(labels[0], warp(labels[1], displacement, onto=onto))
        jacobian = jacobian_determinant(displacement, onto)
        points = onto.points()[inside.data != 0]
        there = (result.inverse(result.transform(points)) - points).norm(dim=-1)
        add(
            "lddmm.csv",
            {
                "fixed": fixed,
                "moving": moving,
                "images_mm": spacing_mm,
                "dice": f"{statistics.mean(overlap.values()):.4f}",
                "folding_percent": f"{jacobian_statistics(jacobian, mask=inside).folding_percent:.5f}",
                "least_determinant": f"{jacobian.data[0][inside.data != 0].min():.3f}",
                "inverse_mean_mm": f"{there.mean():.4f}",
                "inverse_max_mm": f"{there.max():.3f}",
            },
        )


def momenta():
    for fixed, moving in TEST:
        if known("lddmm_momenta.csv", fixed=fixed, moving=moving):
            continue
        pair = images(fixed, moving, spacing_mm=2.0)
        found = with_settings(load_method("brain-mr"), threads=THREADS).register(pair).transform
        inside = brain(pair.fixed)
        start = time.perf_counter()
        again = momentum_of(found, pair.fixed.grid, kernel=METHOD.kernel, mask=inside)
        seconds = time.perf_counter() - start
        missed = again.residual.data[0][inside.data != 0]
        points = pair.fixed.grid.points()[inside.data != 0]
        moved = (found(points) - again.affine(points)).norm(dim=-1)
        add(
            "lddmm_momenta.csv",
            {
                "fixed": fixed,
                "moving": moving,
                "moved_median_mm": f"{moved.median():.3f}",
                "residual_median_mm": f"{missed.median():.3f}",
                "residual_95_mm": f"{missed.quantile(0.95):.3f}",
                "residual_max_mm": f"{missed.max():.2f}",
                "seconds": f"{seconds:.0f}",
            },
        )


def timed(method: Lddmm, pair: ImagePair) -> list[tuple[float, float, int]]:
    """Processor seconds since the start, energy and level (0 is the finest), of every iteration."""
    stamps: list[float] = []
    begin = time.process_time()
    with progress.listening(lambda *_: stamps.append(time.process_time() - begin)):
        trace = method.register(pair).trace
    last = max(entry.level for entry in trace)
    return [
        (stamp, entry.terms["energy"], last - entry.level)
        for stamp, entry in zip(stamps, trace, strict=True)
    ]


def descent_of(
    name: str, pair: ImagePair, spacing: float, steps: list[float], *, tries: int
) -> float:
    """A row of one pair, and its best step: the one that is lowest after so many iterations."""
    pair = ImagePair(*(to_unit(image, "percentiles")[0] for image in (pair.fixed, pair.moving)))
    fixed = replace(
        DESCENT,
        optimizer="fixed",
        image_mm=(spacing,),
        momentum_mm=(spacing,),
        iterations=(50,),
    )
    best = None
    for step in steps:
        if len(steps) == 1:
            best = 0.0, step
            break
        try:
            energy = timed(replace(fixed, step=step, iterations=(tries,)), pair)[-1][1]
        except RuntimeError:  # diverged
            continue
        if best is None or energy < best[0]:
            best = energy, step
    published = timed(replace(fixed, step=best[1]), pair)
    ours = timed(
        replace(
            DESCENT,
            image_mm=(2 * spacing, spacing),
            momentum_mm=(2 * spacing, spacing),
            iterations=(5, 10),
        ),
        pair,
    )
    end = published[-1][1]
    reached = next((s for s, energy, coarser in ours if not coarser and energy <= end), None)
    add(
        "lddmm_descent.csv",
        {
            "images": name,
            "start": f"{published[0][1]:.4f}",
            "published": f"{end:.4f}",
            "published_cpu_s": f"{published[-1][0]:.2f}",
            "step": best[1],
            "ours_reach_it_cpu_s": "-" if reached is None else f"{reached:.2f}",
            "ours_end": f"{ours[-1][1]:.4f}",
            "ours_end_cpu_s": f"{ours[-1][0]:.2f}",
        },
    )
    return best[1]


def descent(steps: list[float]):
    flat = Path(os.environ["HYBRIDREG_DATA"]) / "antspy_2d"
    for a, b in (("r16", "r64"), ("r27", "r30"), ("r62", "r85"), ("r64", "r27")):
        name = f"2D {a} <- {b}"
        if not known("lddmm_descent.csv", images=name):
            pair = ImagePair(*(read_image(next(flat.glob(f"{n}*.jpg"))) for n in (a, b)))
            start = with_settings(load_method("affine"), threads=1).register(
                pair, initialize(pair, "mass")
            )
            pair = warp_pair(pair, start.transform)
            descent_of(name, pair, 1.0, steps, tries=50)
    for fixed, moving in DESCENT_PAIRS:
        name = f"3D {fixed} <- {moving}"
        if not known("lddmm_descent.csv", images=name):
            pair = images(fixed, moving, spacing_mm=2.0)
            pair = warp_pair(pair, affine(fixed, moving))
            steps = [descent_of(name, pair, 2.0, steps, tries=6)]


def times():
    """Seconds and peak memory of the first pair, arrays in memory to transform, median of 5."""
    import resource

    start = affine(*TEST[0])
    for spacing in (2.0, 1.0):
        pair, seconds = images(*TEST[0], spacing_mm=spacing), []
        for _ in range(5):
            begin = time.perf_counter()
            METHOD.register(pair, start)
            seconds.append(time.perf_counter() - begin)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"| lddmm, {spacing:g} mm | {statistics.median(seconds):.1f} s | {peak:.1f} GiB |",
            flush=True,
        )


def table():
    for spacing in ("2.0", "1.0"):
        chosen = [row for row in rows("lddmm.csv") if row["images_mm"] == spacing]
        if chosen:
            mean = {
                name: statistics.mean(float(row[name]) for row in chosen)
                for name in ("dice", "folding_percent", "inverse_mean_mm")
            }
            worst = min(float(row["dice"]) for row in chosen)
            print(
                f"| affine + lddmm, {spacing} mm | {len(chosen)} | {mean['dice']:.3f} | "
                f"{worst:.3f} | "
                f"{mean['folding_percent']:.5f} | {mean['inverse_mean_mm']:.3f} |"
            )
    for name in ("lddmm_momenta.csv", "lddmm_descent.csv"):
        found = rows(name)
        if found:
            print("\n| " + " | ".join(found[0]) + " |\n" + "|---" * len(found[0]) + "|")
            for row in found:
                print("| " + " | ".join(row.values()) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=["accuracy", "momenta", "descent", "times", "table"])
    parser.add_argument("--spacing", type=float, default=1.0, help="of the images, for accuracy")
    parser.add_argument("--steps", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4, 0.8])
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    parts = {
        "accuracy": lambda: accuracy(options.spacing),
        "momenta": momenta,
        "descent": lambda: descent(options.steps),
        "times": times,
        "table": table,
    }
    parts[options.part]()


if __name__ == "__main__":
    main()
