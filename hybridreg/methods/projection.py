"""2D/3D registration: the pose of a CT relative to radiographs, by comparison with its projections.

The pose has six parameters along the axes of the first detector, about the isocenter: in its plane,
out of it and in depth, so that depth, which one radiograph hardly determines, is a separate
parameter. Mutual information and then gradient correlation, each by Powell's method, is a ``Chain``
of two of these (``CASCADE``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from hybridreg import progress
from hybridreg.drr import Projector, attenuation, coarser, matched
from hybridreg.exposure import saturated
from hybridreg.gradient_correlation import GradientCorrelation
from hybridreg.methods.base import RegistrationError, RegistrationResult, TraceEntry
from hybridreg.poses import rigid_matrix, stepped
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Radiograph
from hybridreg.similarity import MI, Measure
from hybridreg.transforms import IDENTITY, AffineTransform, Transform


@dataclass(frozen=True)
class Projection:
    """Minimizes a measure of dissimilarity between radiographs and projections of the CT.

    optimizer: "powell" needs no derivatives and goes further (Powell 1964); "l-bfgs" follows the
        gradient through the renderer, in fewer steps, from near by.
    pixels: how many times larger pixels are at each level; the CT is made coarser alike.
    step_deg, step_mm, depth_mm: the first steps of turns, of shifts along the detector and in
        depth; larger ones reach further and may leap over the optimum.
    iterations: at most, a level; one of Powell's is a search along six lines.
    calcium: contrast of bone, as in ``drr.attenuation``. scatter: of the projection, as in
        ``exposure.saturated``; above 0 for metal, whose line integrals a detector does not show. Of
        several the one that agrees best at the start of a level is taken.
    """

    measure: Measure = field(default_factory=GradientCorrelation)
    optimizer: Literal["powell", "l-bfgs"] = "powell"
    pixels: tuple[float, ...] = (4.0, 2.0)
    step_deg: float = 2.0
    step_mm: float = 2.0
    depth_mm: float = 10.0
    iterations: int = 20
    calcium: float = 1.0
    scatter: tuple[float, ...] = (0.0,)
    accepts: ClassVar[type] = ProjectionPair

    def __post_init__(self):
        if self.optimizer not in ("powell", "l-bfgs"):
            raise ValueError(f"the optimizer is powell or l-bfgs; found {self.optimizer!r}")
        if not self.scatter or not all(0 <= s < float("inf") for s in self.scatter):
            raise ValueError(f"scatter is 0 or more, or several of these; found {self.scatter}")
        if not self.pixels or min(self.pixels) < 1:
            raise ValueError(f"pixels grow by factors of 1 or more; found {self.pixels}")

    def register(self, pair: ProjectionPair, initial: Transform = IDENTITY) -> RegistrationResult:
        """initial: the pose to start from, C-arm mm to CT mm; rigid (ValueError)."""
        matrix = rigid_matrix(initial)
        trace: list[TraceEntry] = []
        mu = attenuation(pair.moving, calcium=self.calcium)
        for level, factor in enumerate(self.pixels):
            coarse = [coarser(radiograph, factor) for radiograph in pair.fixed]
            projector = Projector(matched(mu, coarse[0]))
            parts = coarse, projector, self.measure, self._scales()
            scenes = [_Scene(*parts, scatter) for scatter in self.scatter]
            scene = min(scenes, key=lambda s: s.measured(matrix, torch.zeros(6)).item())  # noqa: B023
            with progress.within(level / len(self.pixels), (level + 1) / len(self.pixels)):
                matrix = self._descended(scene, matrix, level, trace)
        found = AffineTransform(matrix)
        return RegistrationResult(found, found.inverse(), trace=tuple(trace))

    def _descended(self, scene: _Scene, start: Tensor, level: int, trace: list) -> Tensor:
        if not any(image.any() for image in scene.images(start)):
            raise ValueError("no ray meets the CT at the initial pose: give one nearer to the true")

        def note(steps: np.ndarray):
            done = sum(entry.level == level for entry in trace)
            value = scene.measured(start, torch.from_numpy(steps)).item()
            trace.append(TraceEntry("projection", level, done, {"measure": value}))
            progress.report(min(1.0, (done + 1) / self.iterations), "projecting")

        note(np.zeros(6))
        options = {"maxiter": self.iterations}
        if self.optimizer == "powell":
            loss, jac, name = scene.loss(start), False, "Powell"
            options |= {"xtol": 1e-2, "ftol": 1e-4}
        else:
            loss, jac, name = scene.loss_and_gradient(start), True, "L-BFGS-B"
            options |= {"ftol": 1e-6}  # to 1e-9 takes twice as long and ends at the same errors
        found = minimize(loss, np.zeros(6), jac=jac, method=name, callback=note, options=options)
        if not np.isfinite(found.fun):
            raise RegistrationError(
                "the measure became undefined: the projection of the CT left the "
                "radiograph; start nearer"
            )
        return scene.stepped(start, torch.from_numpy(found.x)).detach()

    def _scales(self) -> Tensor:
        steps = [self.step_deg] * 3 + [self.step_mm] * 2 + [self.depth_mm]
        return torch.tensor(steps, dtype=torch.float64)


CASCADE = (Projection(MI()), Projection(GradientCorrelation()))
"""The stages of the comparator MI_GC_Powell (Miao 2016), for a ``Chain``."""


@dataclass(frozen=True, eq=False)
class _Scene:
    """Radiographs and a projector at one level."""

    radiographs: list[Radiograph]
    projector: Projector
    measure: Measure
    scales: Tensor
    scatter: float

    def stepped(self, start: Tensor, steps: Tensor) -> Tensor:
        """The pose after steps, in scales, along the axes of the first detector."""
        axes = torch.tensor(self.radiographs[0].grid.direction, dtype=torch.float64)
        return stepped(start, steps * self.scales, axes)

    def images(self, matrix: Tensor) -> list[Tensor]:
        return [
            saturated(self.projector(r.detector, matrix), self.scatter) for r in self.radiographs
        ]

    def measured(self, start: Tensor, steps: Tensor) -> Tensor:
        images = self.images(self.stepped(start, steps))
        parts = [self.measure(r.data, i) for r, i in zip(self.radiographs, images, strict=True)]
        return torch.stack(parts).mean()

    def loss(self, start: Tensor) -> Callable[[np.ndarray], float]:
        return lambda steps: self.measured(start, torch.from_numpy(steps)).item()

    def loss_and_gradient(self, start: Tensor) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        def loss(steps: np.ndarray) -> tuple[float, np.ndarray]:
            free = torch.tensor(steps, requires_grad=True)
            value = self.measured(start, free)
            (slope,) = torch.autograd.grad(value, free)
            return value.item(), slope.numpy()

        return loss
