"""The pose of the phantom implant in radiographs: a trained network (PEHL), optimization, and both.

Miao 2016's protocol: estimates start N(0; 1, 1, 10 mm; 2, 10, 10 degrees) away in (tx, ty, tz; theta, alpha, beta), and a
result is a success if its mTREproj, over the corners of the implant's box, is under 1 % of its length (1.33 mm). Poses,
noise and backgrounds are none of the training: backgrounds are projections of a head and neck (``HYBRIDREG_DATA``) or of
other random tissue, the detector scatters over 40 mm, blurs and counts photons.

    python examples/benchmarks/pehl.py protocol --poses 100
    python examples/benchmarks/pehl.py classical --poses 10
    python examples/benchmarks/pehl.py spread --poses 100
    python examples/benchmarks/pehl.py edges --poses 40
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

from hybridreg.cases import Case
from hybridreg.config import load_method
from hybridreg.drr import Projector, attenuation
from hybridreg.exposure import Exposure
from hybridreg.io.images import read_image
from hybridreg.methods.pehl import Pehl
from hybridreg.methods.pehl.backgrounds import backgrounds
from hybridreg.methods.pehl.placement import Placement
from hybridreg.phantoms.implant import LENGTH_MM, implant_arm, implant_case, implant_corners
from hybridreg.poses import pose, projection_error
from hybridreg.radiographs import Detector, Radiograph
from hybridreg.transforms import AffineTransform

SUCCESS_MM = 0.01 * LENGTH_MM
SEED = 7_000_001  # of poses, noise and backgrounds, never used in training
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
        behind = head(view, random) if anatomy else backgrounds(1, view.shape, random)
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


def compare(methods: dict, count: int, *, anatomy: bool):
    """One row of a table for each method: mTREproj, successes and seconds."""
    errors: dict[str, list[float]] = {name: [] for name in ("start", *methods)}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for case, start in scenes(count, anatomy=anatomy):
        errors["start"].append(error_mm(start, case))
        for name, method in methods.items():
            begun = time.process_time()
            found = method.register(case.pair, start).transform
            seconds[name].append(time.process_time() - begun)
            errors[name].append(error_mm(found, case))
    behind = "head and neck" if anatomy else "random tissue"
    for name, found in errors.items():
        values = torch.tensor(found)
        p25, p50, p75, p95 = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75, 0.95])).tolist()
        rate = 100 * (values < SUCCESS_MM).double().mean().item()
        spent = f"{torch.tensor(seconds[name]).median():.2f}" if name in seconds else "–"
        print(
            f"| {name} | {behind} | {count} | {rate:.1f} | {p25:.2f} | {p50:.2f} | {p75:.2f} | {p95:.2f} | {spent} |",
            flush=True,
        )


def spread(count: int):
    """RMS distance of the results of many starts from their mean, on the detector (RMSDproj)."""
    print("| iterations | RMSDproj mm |\n|---|---|")
    (case, _), *_ = scenes(1, anatomy=True)
    placement = Placement(case.pair.fixed[0].detector, CENTER)
    true = placement.parameters(case.true_transform.matrix)
    random = Generator().manual_seed(SEED)
    starts = [true + (START * torch.randn(6, generator=random)).double() for _ in range(count)]
    for iterations in (1, 3, 6, 9):
        method, shadows = Pehl(weights=WEIGHTS, iterations=iterations), []
        for start in starts:
            at = AffineTransform(placement.matrices(start))
            found = method.register(case.pair, at).transform
            shadows.append(placement.detector.shadows(found.inverse()(implant_corners())))
        places = torch.stack(shadows)  # (starts, 8, 3)
        apart = (places - places.mean(0)).square().sum(-1).mean().sqrt().item()
        print(f"| {iterations} | {apart:.3f} |", flush=True)


HEAD = (
    "| method | background | poses | success % | 25 % mm | median mm | 75 % mm | 95 % mm | processor s |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
WEIGHTS = "pehl-implant"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("protocol", "classical", "spread"))
    parser.add_argument("--poses", type=int, default=20)
    parser.add_argument("--weights", default=WEIGHTS)
    given = parser.parse_args()
    WEIGHTS = given.weights
    torch.set_num_threads(2)
    if given.part == "spread":
        spread(given.poses)
    else:
        hybrid = replace(load_method("projection-hybrid"))
        if given.part == "protocol":
            chosen = {f"PEHL, {n}": Pehl(WEIGHTS, iterations=n) for n in (1, 3, 9)}
        else:
            chosen = {
                "PEHL, 3": Pehl(WEIGHTS),
                "hybrid": hybrid,
                "MI, then GC (Powell)": load_method("projection"),
            }
        print(HEAD)
        for anatomy in (False, True):
            compare(chosen, given.poses, anatomy=anatomy)
