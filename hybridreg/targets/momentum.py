"""Targets for networks that predict geodesics: the momentum at the moving image (Yang 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hybridreg.cases import ImagePair
from hybridreg.config import describe_method, with_settings
from hybridreg.geodesics import GeodesicTransform
from hybridreg.images import LabelMap
from hybridreg.methods.base import RegistrationMethod
from hybridreg.methods.combine import Chain
from hybridreg.methods.lddmm import Lddmm, Reproduction, momentum_of
from hybridreg.preprocessing import foreground
from hybridreg.quality import Intent
from hybridreg.targets.field import energy, verdict_facts
from hybridreg.targets.target import Target
from hybridreg.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    parts_of,
)


@dataclass(frozen=True)
class Momentum:
    """The momentum that LDDMM finds, after the affine that its earlier stages found.

    method: LDDMM, or stages that end in it. start: a method whose result is turned into a momentum
    first, from which LDDMM goes on; of ``method`` only the last stage is then used.
    """

    method: RegistrationMethod
    start: RegistrationMethod | None = None
    intent: Intent = Intent()
    uses_fixed: ClassVar[bool] = True

    def __post_init__(self):
        shooting_stage(self.method)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "method": describe_method(self.method),
            "start": self.start and describe_method(self.start),
        }

    def __call__(self, pair: ImagePair, initial: Transform, *, seed: int) -> Target:
        method, start = with_settings(self.method, seed=seed), initial
        if self.start is not None:
            method = shooting_stage(method)
            found = with_settings(self.start, seed=seed).register(pair, initial).transform
            start = reproduced(found, pair, method).transform
        result = method.register(pair, start)
        facts = {"residual_mm": {"mean": 0.0, "max": 0.0}, **energy(result)}
        facts["shooting"] = _shooting(shooting_stage(method))
        return _target(pair, initial, result.transform, self.intent, facts)


@dataclass(frozen=True)
class MomentumFromField:
    """The momentum whose geodesic is nearest to the transform of another method, such as elastix.

    method: its deformations must not fold. shooting: its kernel and momentum spacing are used.
    """

    method: RegistrationMethod
    shooting: Lddmm
    intent: Intent = Intent()
    uses_fixed: ClassVar[bool] = True

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "method": describe_method(self.method),
            "kernel": asdict(self.shooting.kernel),
            "momentum_mm": self.shooting.momentum_mm[-1],
        }

    def __call__(self, pair: ImagePair, initial: Transform, *, seed: int) -> Target:
        result = with_settings(self.method, seed=seed).register(pair, initial)
        again = reproduced(result.transform, pair, self.shooting)
        missed = again.residual.data[0][_where(pair).data != 0]
        facts = {
            "residual_mm": {
                "mean": missed.mean().item(),
                "median": missed.median().item(),
                "p95": missed.kthvalue(max(1, round(0.95 * len(missed)))).values.item(),
                "max": missed.max().item(),
            },
            "energy": {"stage": "momentum", **again.trace[-1].terms},
            "shooting": _shooting(self.shooting),
        }
        return _target(pair, initial, again.transform, self.intent, facts)


def shooting_stage(method: RegistrationMethod) -> Lddmm:
    """The LDDMM method itself, or the last stage of a chain that ends in it (else ValueError)."""
    last = method.stages[-1] if isinstance(method, Chain) else method
    if not isinstance(last, Lddmm):
        raise ValueError(
            f"momenta are found by lddmm, or by stages that end in it, not by {type(last).__name__}"
        )
    return last


def reproduced(transform: Transform, pair: ImagePair, shooting: Lddmm) -> Reproduction:
    """The nearest affine after a geodesic to a transform, within the mask or the foreground."""
    return momentum_of(
        transform,
        pair.fixed.grid,
        kernel=shooting.kernel,
        mask=_where(pair),
        spacing_mm=shooting.momentum_mm[-1],
        steps=shooting.steps,
        integrator=shooting.integrator,
    )


def _shooting(shooting: Lddmm) -> dict[str, Any]:
    """The time discretization: another one makes a slightly different map of the same momentum."""
    return {"steps": shooting.steps, "integrator": shooting.integrator}


def _where(pair: ImagePair) -> LabelMap:
    return foreground(pair.fixed) if pair.fixed_mask is None else pair.fixed_mask


def _target(
    pair: ImagePair,
    initial: Transform,
    transform: Transform,
    intent: Intent,
    facts: Mapping[str, Any],
) -> Target:
    affine, geodesic = _parts(transform)
    total = DisplacementField.sampled(transform, pair.fixed.grid)
    field = DisplacementField.sampled(geodesic, geodesic.grid)
    arrays = {"momentum": geodesic.momentum, "displacement": field.vectors}
    more = {"kernel": asdict(geodesic.kernel), **verdict_facts(pair, initial, total, intent)}
    return Target(pair, geodesic.grid, affine, arrays, {**facts, **more})


def _parts(transform: Transform) -> tuple[AffineTransform, GeodesicTransform]:
    """(A, phi^-1) of x -> A(phi^-1(x)); ValueError for anything else."""
    parts = parts_of(transform)
    match parts:
        case (AffineTransform() as affine, GeodesicTransform() as geodesic):
            return affine, geodesic
    kinds = ", ".join(type(part).__name__ for part in parts)
    raise ValueError(
        f"a momentum is stored with one affine part before it, found {kinds}: start with a linear "
        "method, and give the deformable method as `start`"
    )
