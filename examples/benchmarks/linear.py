"""How well `affine-fast` and `rigid-fast` align, beside elastix's linear stages.

Brains: every test person of oasis_malf35 onto every other (12), 1 mm; mean Dice of all labels of
the fixed image, nearest neighbor. elastix: the linear stages of `brain-mr`.

Starts: the moving image of four of these pairs turned by up to 45 degrees about a random axis and
shifted by up to 50 mm along a random direction, about its middle and in its header alone.
Recovered: within 2 mm of the alignment that the method found without that, mean over the fixed
brain; Dice kept: at most .01 less.

Stacks: CT and MR of the test persons of harvard_aanlib, as in brain_ct_mr.md (14 to 20 slices of 1
x 1 x 5 mm), turned and shifted in the header by up to 15 degrees and 20 mm, and by up to 45 degrees
and 50 mm.

Times: arrays in memory to a transform in memory, warm, median. HYBRIDREG_SCRATCH keeps what
elastix found (affine_FIXED_MOVING.h5 of the unperturbed brains).

It does not run by `hybridreg compare`: starts are perturbed in the header, and times are those of a
warm process.

    HYBRIDREG_DATA=... python examples/benchmarks/linear.py brains|starts|stacks [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import brain_ct_mr as stacks
import numpy as np
import torch
from brain_mr import LINEAR, TEST
from sections import table, write_section

from hybridreg.cases import ImagePair
from hybridreg.config import load_method, with_settings
from hybridreg.evaluation import dice
from hybridreg.initialization import initialize
from hybridreg.io.images import read_image, read_labels
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.methods.base import RegistrationError
from hybridreg.preprocessing import foreground
from hybridreg.transforms import IDENTITY, AffineTransform, Transform, compose, rigid
from hybridreg.warping import warp

DATA = Path(os.environ.get("HYBRIDREG_DATA", "."))
SCRATCH = Path(os.environ.get("HYBRIDREG_SCRATCH", "."))
TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["`affine-fast` and `rigid-fast` beside elastix", *__doc__.split("\n\n")[1:5]])
BRAINS = {"affine-fast": load_method("affine-fast"), "elastix": LINEAR}
STACKS = {"rigid-fast": load_method("rigid-fast"), "brain-ct-mr": load_method("brain-ct-mr")}
FOUR = [(1015, 1017), (1017, 1036), (1036, 1128), (1128, 1015)]
LIMITS = ((15.0, 20.0), (45.0, 50.0))
RECOVERED_MM, RECOVERED_DICE = 2.0, 0.01


def found_by(method, pair: ImagePair, initial: Transform = IDENTITY) -> tuple[Transform, float]:
    """The alignment and its seconds; a method that gives up leaves the images where they lie."""
    start = time.perf_counter()
    try:
        found = method.register(pair, initial).transform
    except (RegistrationError, ValueError) as error:
        print(f"    gave up: {str(error)[:200]}", flush=True)
        found = initial
    return found, time.perf_counter() - start


def brain_pair(fixed: int, moving: int):
    folder = DATA / "oasis_malf35" / "subjects"
    images = [read_image(folder / f"{person}_SS.nii.gz") for person in (fixed, moving)]
    return ImagePair(*images), [read_labels(folder / f"{p}_glm.nii.gz") for p in (fixed, moving)]


def overlap(pair: ImagePair, labels, transform: Transform) -> float:
    return statistics.mean(
        dice(labels[0], warp(labels[1], transform, onto=pair.fixed.grid)).values()
    )


def aligned(name: str, method, fixed: int, moving: int, pair: ImagePair) -> tuple[Transform, float]:
    """Of a pair as it is; elastix's once, with the seconds that took (nan for one that was
    kept).
    """
    path = SCRATCH / f"affine_{fixed}_{moving}.h5"
    if name == "elastix" and path.exists():
        return read_transform(path), np.nan
    found, seconds = found_by(method, pair)
    if name == "elastix":
        write_transform(path, found)
    return found, seconds


def brains(arms: dict) -> Iterator[tuple[str, str]]:
    """Title and table."""
    scores: dict[str, list[float]] = {name: [] for name in arms}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    lines = []
    for fixed, moving in TEST:
        pair, labels = brain_pair(fixed, moving)
        for name, method in arms.items():
            found, took = aligned(name, method, fixed, moving, pair)
            scores[name].append(overlap(pair, labels, found))
            seconds[name].append(took)
        lines.append([f"{fixed} <- {moving}", *(f"{scores[name][-1]:.4f}" for name in arms)])
        print(lines[-1], [f"{seconds[name][-1]:.2f}" for name in arms], flush=True)
    mean = [f"{statistics.mean(scores[name]):.4f}" for name in arms]
    took = [f"{np.nanmedian(seconds[name]):.2f}" for name in arms]
    lines += [["**mean**", *mean], ["median seconds", *took]]
    yield "Brains", table(["pair", *arms], lines)


def perturbations(count: int, seed: int) -> list[tuple[list[float], list[float]]]:
    """Turned about a random axis by up to 45 degrees, shifted by up to 50 mm;
    rotation vectors as angles.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        axes = generator.normal(size=(2, 3))
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        angle, length = generator.uniform(0.3, 1.0, 2) * LIMITS[1]
        found.append((axes[0] * np.radians(angle), axes[1] * length))
    return found


def turned_about(vector: np.ndarray, shift: np.ndarray, center) -> AffineTransform:
    skew = torch.linalg.cross(torch.eye(3).double(), torch.from_numpy(vector).expand(3, 3)).T
    return AffineTransform.from_parts(
        torch.linalg.matrix_exp(-skew), torch.from_numpy(shift), center
    )


def starts(arms: dict, repeats: int) -> Iterator[tuple[str, str]]:
    """elastix also from centers of mass, as one would start it."""
    lines = []
    variants = [
        (name, how) for name in arms for how in (("", "mass") if name == "elastix" else ("",))
    ]
    for name, how in variants:
        errors, losses, took = [], [], []
        for fixed, moving in FOUR:
            pair, labels = brain_pair(fixed, moving)
            alone, _ = aligned(name, arms[name], fixed, moving, pair)
            best = overlap(pair, labels, alone)
            points = pair.fixed.grid.points()[pair.fixed.data[0] > 0][::997]
            for vector, shift in perturbations(repeats, fixed):
                away = turned_about(vector, shift, pair.moving.grid.center)
                moved = ImagePair(pair.fixed, stacks.placed(pair.moving, away))
                start = initialize(moved, how) if how else IDENTITY
                found, seconds = found_by(arms[name], moved, start)
                back = compose(away.inverse(), found)
                errors.append(stacks.distance_mm(back, alone, points))
                losses.append(best - overlap(pair, labels, back))
                took.append(seconds)
                print(
                    name, how, fixed, f"{errors[-1]:.2f} {losses[-1]:.4f} {seconds:.1f}", flush=True
                )
        near = np.mean(np.array(errors) <= RECOVERED_MM)
        kept = np.mean(np.array(losses) <= RECOVERED_DICE)
        spread = [f"{v:.2f}" for v in np.percentile(errors, [50, 95, 100])]
        label = f"{name}, from centers of mass" if how else name
        lines.append(
            [
                label,
                len(errors),
                f"{near:.0%}",
                f"{kept:.0%}",
                *spread,
                f"{statistics.median(took):.2f}",
            ]
        )
    names = "method|starts|within 2 mm|Dice kept|median mm|95 % mm|max mm|median s"
    yield "Starts", table(names.split("|"), lines)


def ct_mr(arms: dict, repeats: int) -> Iterator[tuple[str, str]]:
    lines = []
    folder = DATA / "harvard_aanlib" / "stacks_ct_mr"
    for name, method in arms.items():
        for limits in LIMITS:
            for fixed in ("ct", "mr"):
                found = [
                    stack(method, case, fixed, limits, repeats, folder) for case in stacks.TEST
                ]
                errors = np.concatenate([errors for errors, _, _ in found])
                atlas = " ".join(f"{there:.1f}" for _, there, _ in found)
                spread = [f"{v:.2f}" for v in np.percentile(errors, [50, 95, 100])]
                near = [f"{np.mean(errors <= limit):.0%}" for limit in (2, 5)]
                took = statistics.median(s for _, _, seconds in found for s in seconds)
                what = "{:g} degrees, {:g} mm".format(*limits)
                lines.append(
                    [name, fixed.upper(), what, len(errors), atlas, *near, *spread, f"{took:.2f}"]
                )
                print(lines[-1], flush=True)
    names = "method|fixed|up to|starts|unperturbed to atlas mm|within 2 mm|within 5 mm"
    yield "Stacks", table([*names.split("|"), "median mm", "95 % mm", "max mm", "median s"], lines)


def stack(method, case: int, fixed: str, limits, repeats: int, folder: Path):
    """Distances from the unperturbed run, its own from the atlas's alignment, and seconds."""
    images = {side: read_image(folder / f"case{case}_{side}.nii.gz") for side in ("ct", "mr")}
    points = images["mr"].grid.points()[foreground(images["mr"]).data != 0][::97]
    moving = images["mr" if fixed == "ct" else "ct"]
    stacks.TURN_DEG, stacks.SHIFT_MM = limits
    backs, seconds = [], []
    for angles, shift in [([0.0] * 3, [0.0] * 3), *stacks.perturbations(repeats, case)]:
        longest = max(1.0, float(np.linalg.norm(angles)) / limits[0])
        away = rigid([angle / longest for angle in angles], shift, points.mean(0))
        pair = ImagePair(images[fixed], stacks.placed(moving, away))
        found, took = found_by(method, pair)
        backs.append(away.inverse()(found(points)))
        seconds.append(took)
    distances = [(back - backs[0]).norm(dim=-1).mean().item() for back in backs[1:]]
    return distances, (backs[0] - points).norm(dim=-1).mean().item(), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("brains", "starts", "stacks"))
    parser.add_argument("--arms", help="comma-separated; by default all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = STACKS if options.what == "stacks" else BRAINS
    names = options.arms.split(",") if options.arms else list(known)
    arms = {name: with_settings(known[name], threads=options.threads) for name in names}
    if options.what == "brains":
        found = brains(arms)
    else:
        found = {"starts": starts, "stacks": ct_mr}[options.what](arms, options.repeats)
    for title, lines in found:
        print(lines, flush=True)
        write_section(TABLE, title, lines, head=HEAD)


if __name__ == "__main__":
    main()
