"""Targets that a registration method found: its deformation as displacements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hybridreg.cases import Case, ImagePair
from hybridreg.config import describe_method, with_settings
from hybridreg.decomposition import decompose, fitted_affine
from hybridreg.evaluation import evaluate
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.quality import Intent, judge, similarity
from hybridreg.targets.target import Target, residual_mm, split
from hybridreg.transforms import DisplacementField, Transform, compose
from hybridreg.warping import jacobian_determinant


@dataclass(frozen=True)
class Field:
    """The deformation that a method finds, sampled on the fixed grid, apart from its affine part.

    intent: the intended use of the method, on which the verdict on every result is based.
    """

    method: RegistrationMethod
    intent: Intent = Intent()
    uses_fixed: ClassVar[bool] = True

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"method": describe_method(self.method)}

    def __call__(self, pair: ImagePair, initial: Transform, *, seed: int) -> Target:
        result = with_settings(self.method, seed=seed).register(pair, initial)
        grid = pair.fixed.grid
        affine, rest = split(result.transform, grid)
        field = DisplacementField.sampled(rest, grid)
        total = DisplacementField.sampled(compose(affine, field), grid)
        facts = {
            "residual_mm": residual_mm(rest, field, grid),
            **verdict_facts(pair, initial, total, self.intent),
            **energy(result),
        }
        return Target(pair, grid, affine, {"displacement": field.vectors}, facts)


def verdict_facts(
    pair: ImagePair, initial: Transform, total: DisplacementField, intent: Intent
) -> dict[str, Any]:
    """The verdict on a transform as sampled on the fixed grid, with the values it is based on."""
    grid = pair.fixed.grid
    jacobian = evaluate(Case(pair), total, jacobian=jacobian_determinant(total, grid)).jacobian
    fit = similarity(pair, initial), similarity(pair, total)
    start = DisplacementField.sampled(initial, grid.with_spacing([e / 8 for e in grid.extent]))
    verdict = judge(
        pair,
        total,
        similarity=fit,
        folding_percent=jacobian.folding_percent,
        affine=decompose(fitted_affine(total), grid.center),
        start=decompose(fitted_affine(start), grid.center),
        intent=intent,
    )
    return {
        "verdict": {"status": verdict.status, "reasons": list(verdict.reasons)},
        "similarity": {"before": asdict(fit[0]), "after": asdict(fit[1])},
        "folding_percent": jacobian.folding_percent,
    }


def energy(result: RegistrationResult) -> dict[str, Any]:
    """The final loss terms of the method, if its trace has them."""
    if not result.trace:
        return {}
    last = result.trace[-1]
    return {"energy": {"stage": last.stage, **last.terms}}
