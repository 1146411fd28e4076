"""The pose of the phantom implant in radiographs: a trained network (PEHL), optimization, and both.

Miao 2016's protocol: estimates start N(0; 1, 1, 10 mm; 2, 10, 10 degrees) away in (tx, ty, tz;
theta, alpha, beta), and a result is a success if its mTREproj, over the corners of the implant's
box, is under 1 % of its length (1.33 mm). Poses, noise and backgrounds are none of the training:
backgrounds are projections of a head and neck (``HYBRIDREG_DATA``) or of other random tissue, the
detector scatters over 40 mm, blurs and counts photons.

    python examples/benchmarks/pehl.py pehl --poses 100
    python examples/benchmarks/pehl.py classical --poses 10
    python examples/benchmarks/pehl.py spread --poses 100

The first two add their rows to ``pehl.csv``, in which finished ones are kept; ``table`` prints it,
``times`` wall times.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

from hybridreg.assessment import assess
from hybridreg.case_log import CaseLog
from hybridreg.cases import Case
from hybridreg.config import load_method
from hybridreg.drr import Projector, attenuation
from hybridreg.exposure import Exposure
from hybridreg.io.images import read_image
from hybridreg.methods.combine import Chain
from hybridreg.methods.pehl import Pehl
from hybridreg.methods.pehl.backgrounds import tissue
from hybridreg.methods.pehl.placement import Placement
from hybridreg.methods.projection import CASCADE
from hybridreg.phantoms.implant import LENGTH_MM, implant_arm, implant_case, implant_corners
from hybridreg.poses import pose, projection_error
from hybridreg.quality import Intent
from hybridreg.radiographs import Detector, Radiograph
from hybridreg.registry import load_pair_type
from hybridreg.transforms import AffineTransform

SUCCESS_MM = 0.01 * LENGTH_MM
SEED = 7_000_001  # of poses, noise and backgrounds, never used in training
VALIDATION = 3_000_001  # of those on which settings are chosen
START = torch.tensor([1.0, 1.0, 2.0, 10.0, 10.0, 10.0])  # tx, ty, theta, tz, alpha, beta
TRUE = torch.tensor([10.0, 10.0, 30.0, 20.0, 10.0, 10.0])  # uniform, either way
CENTER = torch.tensor([15.89, -2.19, 16.89])  # of mass of the implant
EXPOSURE = Exposure(photons=20_000, blur_mm=0.5, scatter=0.2)


def draws(count: int, seed: int = SEED) -> Iterator[tuple[Tensor, Tensor, Generator]]:
    """True parameters (6,), those of the start, and a generator of everything else."""
    for number in range(count):
        random = Generator().manual_seed(seed + number)
        true = TRUE * (2 * torch.rand(6, generator=random) - 1)
        yield true.double(), (true + START * torch.randn(6, generator=random)).double(), random


def scenes(
    count: int, *, anatomy: bool, seed: int = SEED
) -> Iterator[tuple[Case, AffineTransform]]:
    """Cases of the implant before a background, and their starts."""
    view = implant_arm()
    placement = Placement(view, CENTER)
    for true, start, random in draws(count, seed):
        at, first = (AffineTransform(placement.matrices(p)) for p in (true, start))
        case = implant_case(at, view)
        behind = head(view, random) if anatomy else tissue(1, view.shape, random)
        total = Radiograph(case.pair.fixed[0].data + behind, view)
        pair = replace(case.pair, fixed=(EXPOSURE(total, random),))
        yield replace(case, pair=pair), first


def head(view: Detector, random: Generator) -> Tensor:
    """Line integrals (1, rows, columns) of a head and neck at a random pose."""
    numbers = (2 * torch.rand(6, generator=random) - 1) * torch.tensor([20.0, 180, 20, 60, 60, 80])
    projector, center = _head()
    return projector(view, pose(numbers, center))


@cache
def _head() -> tuple[Projector, list[float]]:
    (path,) = (Path(os.environ["HYBRIDREG_DATA"]) / "ct_head_neck_pycerr").glob("*.nii.gz")
    ct = read_image(path)
    return Projector(attenuation(ct)), ct.grid.center.tolist()


def error_mm(found, case: Case) -> float:
    view = case.pair.fixed[0].detector
    return projection_error(found, case.true_transform, implant_corners(), view).mean().item()


ROWS = Path(__file__).with_name("pehl.csv")
COLUMNS = ("weights", "background", "pose", "method", "error_mm", "seconds", "verdict")


def compare(methods: dict, poses: range, weights: str):
    """Adds the missing rows of these poses to the file: mTREproj, processor seconds and verdict."""
    known = {tuple(row[name] for name in COLUMNS[:4]) for row in rows()}
    for background in BACKGROUNDS:
        for number in poses:
            wanted = [n for n in methods if (weights, background, str(number), n) not in known]
            if not wanted:
                continue
            ((case, start),) = scenes(1, anatomy=background == "anatomy", seed=SEED + number)
            for name in wanted:
                error, spent, verdict = error_mm(start, case), 0.0, ""
                if name != "start":
                    since = time.process_time()
                    result = methods[name].register(case.pair, start)
                    spent = time.process_time() - since
                    error = error_mm(result.transform, case)
                    verdict = status(case, result, start)
                with ROWS.open("a", newline="") as file:
                    row = (
                        weights,
                        background,
                        number,
                        name,
                        f"{error:.4f}",
                        f"{spent:.3f}",
                        verdict,
                    )
                    csv.writer(file).writerow(row)


def status(case: Case, result, start: AffineTransform) -> str:
    """The verdict of the report."""
    how = {"initial": start, "intent": Intent(), "interpolation": "linear", "log": CaseLog()}
    load_pair_type(type(case.pair))
    return assess(case.pair, case, result, **how).verdict.status


def rows() -> list[dict[str, str]]:
    if not ROWS.is_file():
        ROWS.write_text(",".join(COLUMNS) + "\n")
    with ROWS.open(newline="") as file:
        return list(csv.DictReader(file))


def table(weights: str):
    """One row for each method and background, and how verdicts sort successes from failures."""
    print(HEAD)
    found = [row for row in rows() if row["weights"] == weights]
    known = {row["method"] for row in found}
    names = [name for name in ORDER if name in known]
    for background in BACKGROUNDS:
        for name in names:
            chosen = [r for r in found if (r["background"], r["method"]) == (background, name)]
            if not chosen:
                continue
            values = torch.tensor([float(row["error_mm"]) for row in chosen])
            spent = torch.tensor([float(row["seconds"]) for row in chosen]).median().item()
            rate = 100 * (values < SUCCESS_MM).double().mean().item()
            levels = torch.tensor([0.25, 0.5, 0.75, 0.95])
            spread = " | ".join(f"{v:.2f}" for v in torch.quantile(values, levels).tolist())
            took = f"{spent:.2f}" if name != "start" else "–"
            print(f"| {name} | {background} | {len(chosen)} | {rate:.0f} | {spread} | {took} |")
    print("\n| verdict | poses | successes | worst mm |\n|---|---|---|---|")
    for verdict in ("pass", "warn", "fail"):
        values = torch.tensor([float(r["error_mm"]) for r in found if r["verdict"] == verdict])
        if len(values):
            good = int((values < SUCCESS_MM).sum())
            print(f"| {verdict} | {len(values)} | {good} | {values.max():.2f} |")


def spread(network: Pehl, count: int):
    """RMS distance of the results of many starts from their mean, on the detector (RMSDproj)."""
    print("| iterations | RMSDproj mm |\n|---|---|")
    (case, _), *_ = scenes(1, anatomy=True)
    placement = Placement(case.pair.fixed[0].detector, CENTER)
    true = placement.parameters(case.true_transform.matrix)
    random = Generator().manual_seed(SEED)
    starts = [true + (START * torch.randn(6, generator=random)).double() for _ in range(count)]
    for iterations in (3, 6, 9):
        method, shadows = replace(network, iterations=iterations), []
        for start in starts:
            at = AffineTransform(placement.matrices(start))
            found = method.register(case.pair, at).transform
            shadows.append(placement.detector.shadows(found.inverse()(implant_corners())))
        places = torch.stack(shadows)  # (starts, 8, 3)
        apart = (places - places.mean(0)).square().sum(-1).mean().sqrt().item()
        print(f"| {iterations} | {apart:.3f} |", flush=True)


def times(methods: dict, count: int):
    """Median wall seconds of each method over the first scenes, after one to warm up."""
    ready = list(scenes(count + 1, anatomy=False, seed=VALIDATION))
    print("| method | threads | wall s |\n|---|---|---|")
    for name, method in methods.items():
        spent = []
        for case, start in ready:
            begun = time.perf_counter()
            method.register(case.pair, start)
            spent.append(time.perf_counter() - begun)
        middle = torch.tensor(spent[1:]).median().item()
        print(f"| {name} | {torch.get_num_threads()} | {middle:.3f} |", flush=True)


HEAD = (
    "| method | background | poses | success % | 25 % mm | median mm | 75 % mm | 95 % mm | "
    "processor s |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
ORDER = (
    "start",
    "PEHL, 1",
    "PEHL, 3",
    "PEHL, 9",
    "hybrid",
    "GC (gradient)",
    "MI, then GC (Powell)",
)
BACKGROUNDS = ("random", "anatomy")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("pehl", "classical", "spread", "times", "table"))
    parser.add_argument("--poses", type=int, default=20)
    parser.add_argument("--weights", default="pehl-implant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", help="only this one")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    network = Pehl(given.weights)
    refinement = load_method("projection-hybrid").stages[1]
    learned = {f"PEHL, {n}": replace(network, iterations=n) for n in (1, 3, 9)}
    learned["hybrid"] = Chain((network, refinement))
    cascade = Chain(tuple(replace(s, scatter=refinement.scatter) for s in CASCADE))
    classical = {"MI, then GC (Powell)": cascade, "GC (gradient)": refinement}
    chosen = classical if given.part == "classical" else {"start": None, **learned}
    if given.part == "times":
        chosen = {**learned, **classical}
    if given.method:
        chosen = {given.method: chosen[given.method]}
    if given.part == "spread":
        spread(network, given.poses)
    elif given.part == "times":
        times(chosen, given.poses)
    elif given.part != "table":
        compare(chosen, range(given.poses), given.weights)
    if given.part != "times":
        table(given.weights)
