"""The pose of an object in a radiograph, by regression of local image residuals (PEHL, Miao 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hybridreg import progress
from hybridreg.drr import Projector, attenuation, coarser
from hybridreg.exposure import saturated
from hybridreg.methods.base import RegistrationError, RegistrationResult, TraceEntry
from hybridreg.methods.pehl.body import Body, check_body, check_c_arm
from hybridreg.methods.pehl.network import PehlNetwork, trained_network
from hybridreg.methods.pehl.placement import GROUPS, Placement, corrected
from hybridreg.methods.pehl.residuals import (
    covering,
    crops,
    regions,
    residual,
    shifted,
)
from hybridreg.poses import rigid_matrix
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Radiograph
from hybridreg.transforms import IDENTITY, AffineTransform, Transform


@dataclass(frozen=True)
class Pehl:
    """Estimates the error of a pose from residuals at points of the object, group by group.

    weights: of a ``pehl`` training: a file, or packaged weights by name. They know one object in
        one C-arm.
    iterations: of all groups; more converge further, each from a pose nearer to the true one.
    """

    weights: str = "pehl-implant"
    iterations: int = 3
    accepts: ClassVar[type] = ProjectionPair

    def __post_init__(self):
        if self.iterations < 1:
            raise ValueError(f"iterations are 1 or more, found {self.iterations}")

    def register(self, pair: ProjectionPair, initial: Transform = IDENTITY) -> RegistrationResult:
        """initial: the pose to start from, C-arm mm to CT mm; rigid (ValueError)."""
        matrix = rigid_matrix(initial)
        if len(pair.fixed) > 1:
            raise ValueError(
                f"regressors look at one radiograph and there are {len(pair.fixed)}: give "
                "one, or take the "
                "method projection"
            )
        network = trained_network(self.weights)
        mu = attenuation(pair.moving)
        check_body(Body.of(mu), network)
        check_c_arm(pair.fixed[0].detector, network.seen)
        estimator = _Estimator.of(network, pair.fixed[0], Projector(mu))
        parameters = estimator.placement.parameters(matrix)
        trace, count = [], self.iterations * len(GROUPS)
        for step in range(count):
            group = list(GROUPS)[step % len(GROUPS)]
            progress.report(step / count, "estimating")
            parameters, terms = estimator.improved(parameters, group)
            trace.append(TraceEntry("pehl", 0, step, terms))
        found = AffineTransform(estimator.placement.matrices(parameters))
        return RegistrationResult(found, found.inverse(), trace=tuple(trace))


@dataclass(frozen=True, eq=False)
class _Estimator:
    """Regressors, the radiograph in the pixels of the training, and the object in front of it."""

    network: PehlNetwork
    radiograph: Radiograph
    projector: Projector
    placement: Placement

    @classmethod
    def of(cls, network: PehlNetwork, radiograph: Radiograph, projector: Projector) -> _Estimator:
        factor = network.seen.pixel_mm / min(radiograph.grid.spacing[:2])
        coarse = coarser(radiograph, max(1.0, factor))
        placement = Placement(coarse.detector, network.center, network.axes)
        return cls(network, coarse, projector, placement)

    @torch.no_grad()
    def improved(self, parameters: Tensor, group: str) -> tuple[Tensor, dict[str, float]]:
        """Parameters (6,) with those of the group corrected, and terms for the trace."""
        zone = self.network.zone_of(parameters)
        points, seen = self.network.points[zone], self.network.seen
        size = {"width_mm": seen.width_mm, "pixels": self.network.pixels}
        at = regions(self.placement, parameters[None], points, **size)
        part = covering(self.radiograph.detector, at)
        if part is None:
            raise RegistrationError(
                "the object lies outside the radiograph: start from a pose nearer to the true one"
            )
        drawn = self.projector(part, self.placement.matrices(parameters))
        projected = crops(
            saturated(drawn, seen.scatter), shifted(at, self.radiograph.detector, part)
        )
        found = residual(projected, crops(self.radiograph.data[:1], at))
        error = self.network.errors(found, zone=zone, group=group)[0]
        errors = torch.zeros_like(parameters)
        errors[list(GROUPS[group])] = error.double()
        parameters = corrected(parameters, errors)
        away = (parameters[4:] - self.network.middles[zone]).abs().max().item()
        terms = {
            "residual": found.square().mean().sqrt().item(),
            "outside_deg": max(0.0, away - seen.zone_deg / 2),
        }
        return parameters, terms
