"""What each part of PEHL is worth on the phantom implant: one left out at a time, as in Miao 2016.

    python examples/benchmarks/pehl_ablation.py --steps 300 --samples 1000 --poses 40

Every variant has the same small budget, so only their order means something. Starts, successes and
backgrounds are those of ``pehl.py``, of random tissue and with other seeds than its test poses.
Adds a row for each variant to ``pehl_ablation.csv``, in which finished ones are kept; ``--variant``
runs one alone.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from pehl import CENTER, SUCCESS_MM, VALIDATION, error_mm, scenes
from torch import Generator, Tensor, nn

from hybridreg.config import load_training
from hybridreg.io.radiographs import read_geometry
from hybridreg.methods.pehl import Pehl, method
from hybridreg.methods.pehl.network import PehlNetwork
from hybridreg.methods.pehl.placement import GROUPS
from hybridreg.methods.pehl.task import PehlTask
from hybridreg.phantoms.implant import implant, implant_grid

ROWS = Path(__file__).with_name("pehl_ablation.csv")
RECIPE = Path(__file__).parents[1] / "training" / "pehl-implant.toml"
COLUMNS = ("variant", "samples", "steps", "poses", "success", "median_mm")
VARIANTS = {
    "all parts": "",
    "without the CNN": "a linear function of residuals averaged over 4 x 4 pixels",
    "without local residuals": "one region of 150 mm, of as many pixels as the 16 together",
    "without the hierarchy": "all six parameters by one network",
    "without zones": "one network for 180 x 180 degrees",
}


class Linear(nn.Module):
    """In place of ``network.Regressor``."""

    def __init__(self, points: int, pixels: int, outputs: int):
        super().__init__()
        self.layer = nn.Linear(points * (pixels // 4) ** 2, outputs)

    def forward(self, residuals: Tensor) -> Tensor:
        return self.layer(F.avg_pool2d(residuals, 4).flatten(1))


@dataclass(frozen=True, eq=False)
class LinearTask(PehlTask):
    """With linear regressors."""

    def network(self, generator: Generator) -> PehlNetwork:
        network = super().network(generator)
        for regressors in network.regressors:
            for group, outputs in GROUPS.items():
                regressors[group] = Linear(self.how.points, self.how.pixels, len(outputs))
        return network


def task_of(variant: str, samples: int) -> PehlTask:
    """The recipe of the packaged weights, changed. Run once in a process:
    the hierarchy is global.
    """
    how = load_training("pehl", RECIPE)
    ct, arm = implant(implant_grid()), read_geometry(how.geometry)
    how = replace(how, samples=samples, backgrounds=90, decay=4e-3, cache=None)
    points = PehlTask(ct, arm, how).points
    if variant == "without local residuals":
        points = CENTER.double()[None, None]
        how = replace(how, points=1, width_mm=150.0, pixels=4 * how.pixels)
    if variant == "without zones":
        how = replace(how, zone_deg=180.0)
    if variant == "without the hierarchy":
        GROUPS.clear()
        GROUPS["all"] = (0, 1, 2, 3, 4, 5)
        how = replace(how, ranges=replace(how.ranges, errors=how.ranges.errors[:1]))
    kind = LinearTask if variant == "without the CNN" else PehlTask
    task = kind(ct, arm, how)
    # those of all parts, also where they would be chosen otherwise
    task.__dict__["points"] = points
    return task


def trained(task: PehlTask, steps: int) -> PehlNetwork:
    random = Generator().manual_seed(0)
    network = task.network(random)
    optimizer, schedule = task.optimizer(network)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(task.losses(network, task.batch(random)).values()).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def run(variant: str, samples: int, steps: int, poses: int):
    network = trained(task_of(variant, samples), steps)
    method.trained_network = lambda _: network
    errors = []
    for case, start in scenes(poses, anatomy=False, seed=VALIDATION):
        errors.append(error_mm(Pehl().register(case.pair, start).transform, case))
    found = torch.tensor(errors)
    row = (variant, samples, steps, poses, f"{(found < SUCCESS_MM).double().mean():.3f}")
    with ROWS.open("a", newline="") as file:
        csv.writer(file).writerow((*row, f"{found.median():.3f}"))


def rows() -> dict[str, dict[str, str]]:
    if not ROWS.is_file():
        ROWS.write_text(",".join(COLUMNS) + "\n")
    with ROWS.open(newline="") as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def table():
    print("| variant | in its place | success % | median mm |\n|---|---|---|---|")
    for variant, row in rows().items():
        rate = 100 * float(row["success"])
        print(f"| {variant} | {VARIANTS[variant]} | {rate:.0f} | {float(row['median_mm']):.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=tuple(VARIANTS))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--poses", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.variant:
        run(given.variant, given.samples, given.steps, given.poses)
    else:
        sizes = [f"--{name}={getattr(given, name)}" for name in ("samples", "steps", "poses")]
        for name in VARIANTS:
            if name not in rows():
                subprocess.run([sys.executable, __file__, "--variant", name, *sizes], check=True)
        table()
