"""From how far methods find the pose of a head and neck in a radiograph: ``ct_head_neck_pycerr``.

The radiograph is projected with another contrast of bone than the methods assume, with noise, blur
and scatter. Starts are uniform within 10 mm and 10 degrees about the true pose (--reach for
others); a result is a success if its mTREproj over the corners of a cube of 160 mm in the head is
under 2 mm.

    HYBRIDREG_DATA=... python examples/benchmarks/capture_range.py --starts 20
    HYBRIDREG_DATA=... python examples/benchmarks/capture_range.py --starts 20 --reach 30

Adds its rows to ``capture_range.csv``, in which finished ones are kept, and prints the table.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import torch
from torch import Generator, Tensor

from hybridreg.config import load_method
from hybridreg.drr import Projector, attenuation
from hybridreg.exposure import Exposure
from hybridreg.io.images import read_image
from hybridreg.methods.projection import Projection
from hybridreg.poses import pose, projection_error, stepped
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Detector
from hybridreg.transforms import AffineTransform

ROWS = Path(__file__).with_name("capture_range.csv")
COLUMNS = ("method", "reach", "start", "start_mm", "error_mm", "seconds")
SUCCESS_MM = 2.0
BINS = (0, 20, 40, 60, 80, 200)
METHODS = {
    "GC (gradient)": Projection(
        optimizer="l-bfgs", pixels=(8.0, 4.0, 2.0), scatter=(0.0, 0.03, 0.1, 0.3)
    ),
    "GC (Powell)": Projection(),
    "MI, then GC (Powell)": load_method("projection"),
}


def scene() -> tuple[ProjectionPair, AffineTransform, Tensor]:
    """The pair, its true pose and the points (8, 3) at which errors are measured."""
    (path,) = (Path(os.environ["HYBRIDREG_DATA"]) / "ct_head_neck_pycerr").glob("*.nii.gz")
    ct = read_image(path)
    center = ct.grid.center + torch.tensor([0.0, 0.0, 40.0])  # the head
    true = pose((4, -6, 8, 5, -3, 4), center.tolist())
    view = Detector.of_c_arm(
        (160, 160), (2.0, 2.0), source_to_detector=1000, source_to_isocenter=700
    )
    clean = Projector(attenuation(ct, calcium=1.4)).radiograph(view, true)
    exposure = Exposure(photons=20_000, blur_mm=1.0, scatter=0.1)
    shown = exposure(clean, Generator().manual_seed(11))
    corners = torch.cartesian_prod(*[torch.tensor([-80.0, 80.0]).double()] * 3) + center
    return ProjectionPair(shown, ct), true, corners


def run(methods: list[str], starts: int, reach: int):
    pair, true, corners = scene()
    view = pair.fixed[0].detector
    axes = torch.tensor(view.grid.direction, dtype=torch.float64)
    known = {(row["method"], row["reach"], row["start"]) for row in rows()}
    for number in range(starts):
        random = Generator().manual_seed(500 + number)
        steps = reach * (2 * torch.rand(6, generator=random) - 1)
        start = AffineTransform(stepped(true.matrix, steps.double(), axes))
        before = projection_error(start, true, corners, view).mean().item()
        for name in methods:
            if (name, str(reach), str(number)) in known:
                continue
            since = time.process_time()
            found = METHODS[name].register(pair, start).transform
            spent = time.process_time() - since
            error = projection_error(found, true, corners, view).mean().item()
            with ROWS.open("a", newline="") as file:
                row = (name, reach, number, f"{before:.2f}", f"{error:.3f}", f"{spent:.1f}")
                csv.writer(file).writerow(row)


def rows() -> list[dict[str, str]]:
    if not ROWS.is_file():
        ROWS.write_text(",".join(COLUMNS) + "\n")
    with ROWS.open(newline="") as file:
        return list(csv.DictReader(file))


def table():
    """Successes by the reach of the starts and by their mTREproj."""
    spans = [f"{a} to {b} mm" for a, b in zip(BINS, BINS[1:])]
    print(
        f"| method | reach | starts | success % | median mm | {' | '.join(spans)} | processor s |"
    )
    print("|---|---|---|---|---|" + "---|" * len(spans) + "---|")
    reaches = sorted({int(row["reach"]) for row in rows()})
    for reach in reaches:
        for name in METHODS:
            found = [r for r in rows() if (r["method"], r["reach"]) == (name, str(reach))]
            if found:
                print(f"| {name} | {reach} | {len(found)} | {_cells(found)} |")


def _cells(found: list[dict[str, str]]) -> str:
    start, error, spent = (
        torch.tensor([float(row[key]) for row in found])
        for key in ("start_mm", "error_mm", "seconds")
    )
    good = error < SUCCESS_MM
    bins = [(start >= low) & (start < high) for low, high in zip(BINS, BINS[1:])]
    counts = [f"{int(good[b].sum())} of {int(b.sum())}" if b.any() else "–" for b in bins]
    rate = 100 * good.double().mean()
    return f"{rate:.0f} | {error.median():.2f} | {' | '.join(counts)} | {spent.median():.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=0)
    parser.add_argument("--reach", type=int, default=10, help="mm and degrees")
    parser.add_argument("--method", choices=tuple(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.starts:
        run([given.method] if given.method else list(METHODS), given.starts, given.reach)
    table()
