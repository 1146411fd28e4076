"""One network taught three things about the same targets: the momentum, its velocity, and the map.

The same layers, patches, steps and seed for each; each of its targets over their mean size. The
network's output is made a map by shooting (momentum; velocity v as the momentum L v) or is one
(displacement). All learn from the mean absolute difference; the momentum, which is rough, also from
the smoothed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from quicksilver import LDDMM_2D, SLICES, add, done, fit, seen_by, slices, test_slices
from torch import Generator, Tensor

from hybridreg.geodesics import Kernel
from hybridreg.geometry import Grid
from hybridreg.io.target_store import StoredTarget, TargetStore
from hybridreg.lattice import Lattice
from hybridreg.methods.quicksilver.orientation import upright
from hybridreg.methods.quicksilver.prediction import Predictor, upright_grid
from hybridreg.methods.quicksilver.task import MomentumTask, Stated, Steps
from hybridreg.methods.quicksilver.training import split
from hybridreg.momentum import along_axes, shot, to_lps
from hybridreg.shooting import Operator
from hybridreg.transforms import DisplacementField, Transform, compose, parts_of

ARMS = {
    "momentum": ("momentum", "smoothed"),
    "momentum, absolute loss": ("momentum", "absolute"),
    "velocity": ("velocity", "absolute"),
    "displacement": ("displacement", "absolute"),
}
WIDTH, BATCH, PATCH, LEARNING_RATE = 8, 8, 31, 1e-3


@dataclass(frozen=True)
class Instead:
    """Puts the velocity or the displacement in place of the momentum of a stored case."""

    what: str
    kernel: Kernel
    shooting: dict

    def __call__(self, case: StoredTarget, values: dict[str, Tensor]) -> dict[str, Tensor]:
        values, grid = upright(case, values), upright_grid(case.grid)
        momentum = values["momentum"]
        if self.what == "velocity":
            momentum = Operator(self.kernel, Lattice.of(grid)).sharp(momentum)
        if self.what == "displacement":
            lps = to_lps(momentum, grid)
            found = shot(lps, self.kernel, grid, onto=grid, **self.shooting).field.vectors
            momentum = along_axes(found, grid)
        return {**values, "momentum": momentum.contiguous()}

    def map_of(self, output: Tensor, grid: Grid, onto: Grid) -> Transform:
        """The network's output as a transform of the images on its grid."""
        if self.what == "displacement":
            return DisplacementField(to_lps(output, grid), grid)
        if self.what == "velocity":
            output = Operator(self.kernel, Lattice.of(grid)).flat(output)
        return shot(to_lps(output, grid), self.kernel, grid, onto=onto, **self.shooting)


def taught(store: TargetStore, arm: str, steps: int) -> tuple[Predictor, Instead]:
    what, loss = ARMS[arm]
    train, validation = split(store, ["s6*"], [])
    attributes = store.read(train[0]).attributes
    instead = Instead(what, Kernel(**attributes["kernel"]), dict(attributes["shooting"]))
    stated = Stated("slices", "", "")
    how = {"width": WIDTH, "patch": PATCH, "loss": loss, "mirror": True, "prepare": instead}
    task = MomentumTask(store, train, validation, Steps(BATCH), stated, **how)
    network = task.network(Generator().manual_seed(0))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 if step < 0.7 * steps else 0.3)
        optimizer.zero_grad()
        sum(task.losses(network, task.batch(Generator().manual_seed(step))).values()).backward()
        optimizer.step()
        if step % 100 == 0:
            print(arm, step, flush=True)
    return Predictor(network.eval(), task.card()), instead


def regressions(store: Path, steps: int, count: int):
    pairs = [pair for pair in test_slices(count) if not done("regression", "{}-{}".format(*pair))]
    known = [(pair, SLICES.register(slices(*pair)).transform) for pair in pairs]
    targets = [LDDMM_2D.register(slices(*pair), start).transform for pair, start in known]
    scores = {}
    for arm in ARMS:
        predictor, instead = taught(TargetStore.open(store), arm, steps)
        for (pair, start), target in zip(known, targets, strict=True):
            images = slices(*pair)
            seen, _ = seen_by(predictor, images, start, parts_of(target)[-1])
            output = predictor.momentum(predictor.network, seen.fixed.data, seen.moving.data)
            found = compose(start, instead.map_of(output, seen.fixed.grid, images.fixed.grid))
            scores[pair, arm] = fit(images, found, target)
    for (pair, start), target in zip(known, targets, strict=True):
        name = "{}-{}".format(*pair)
        add("regression", name, "affine", **fit(slices(*pair), start, target))
        for arm in ARMS:
            add("regression", name, arm, **scores[pair, arm])
