"""Assessment of a registration: moved image, Jacobian, inverse, scores, verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from hybridreg.case_log import CaseLog
from hybridreg.cases import Case, ImagePair
from hybridreg.decomposition import Decomposition, decompose, fitted_affine
from hybridreg.evaluation import Scores, evaluate, evaluated_region
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.methods.base import RegistrationResult
from hybridreg.preprocessing import without_outliers
from hybridreg.quality import Intent, Verdict, judge, similarity
from hybridreg.transforms import (
    DisplacementField,
    NumericalInverse,
    Transform,
    affine_of,
    parts_of,
)
from hybridreg.warping import Inverse, invert, jacobian_determinant, lowest, measured, warp

OPTIONAL = ("inverse", "verdict")  # can be left out in a comparison of many methods
_INVERSE_SAMPLES = 5e5  # at most, about: a deformation is smoother than the image it moves


@dataclass(frozen=True, eq=False)
class Assessment:
    """The results of a registration besides its transform.

    moved: the moving image on the fixed grid, resampled once through the total transform; for
    radiographs its projection. displacement: of every fixed voxel, None for an affine transform.
    jacobian: det(dT/dx) there; both None for a pose. pose: its numbers before and after, see
        ``poses``.
    affine: of the nearest affine, about the center of the fixed field of view.
    inverse: moving -> fixed, with its residual in mm. similarity, scores: before (through the
    initial transform) and after; similarity is a dataclass with an ``overlap``.
    verdict: whether the result is plausible, without labels, and why not.
    inverse and verdict are None if they were left out.
    """

    moved: Image
    displacement: DisplacementField | None
    jacobian: Image | None
    moved_labels: LabelMap | None
    inverse: Inverse | None
    similarity: tuple[Any, Any]
    scores: tuple[Scores, Scores]
    affine: Decomposition
    verdict: Verdict | None
    pose: tuple[Mapping[str, float], Mapping[str, float]] | None = None


@singledispatch
def assess(
    pair: Any,
    case: Case,
    result: RegistrationResult,
    *,
    initial: Transform,
    intent: Intent,
    interpolation: str,
    log: CaseLog,
    without: Collection[str] = (),
) -> Assessment:
    """Assesses a registration; dispatched on the type of the case's pair, which is given first.

    initial: its initial transform. without: parts of ``OPTIONAL`` that are left out.
    """
    raise TypeError(f"a {type(pair).__name__} cannot be assessed")


@assess.register
def _(
    pair: ImagePair,
    case: Case,
    result: RegistrationResult,
    *,
    initial: Transform,
    intent: Intent,
    interpolation: str,
    log: CaseLog,
    without: Collection[str] = (),
) -> Assessment:
    transform, onto = result.transform, pair.fixed.grid
    with log.timing("resample"):
        single = affine_of(transform, onto.dimension)
        displacement = None if single else DisplacementField.sampled(transform, onto)
        through = single or displacement
        how = {"interpolation": interpolation, "default": lowest(without_outliers(pair.moving))}
        moved = warp(pair.moving, through, onto=onto, **how)
        labels = case.moving_labels
        moved_labels = None if labels is None else warp(labels, through, onto=onto)
    with log.timing("jacobian"):
        jacobian = jacobian_determinant(through, onto)
    inverse = None
    if "inverse" not in without:
        with log.timing("invert"):
            inverse = _inverse(result, pair.moving.grid)
    with log.timing("evaluate"):
        region = evaluated_region(pair.fixed, pair.fixed_mask)
        scores = (
            evaluate(case, initial, region=region),
            evaluate(
                case,
                transform,
                region=region,
                inverse=inverse and inverse.transform,
                jacobian=jacobian,
                moved_labels=moved_labels,
            ),
        )
    with log.timing("similarity"):
        fit = similarity(pair, initial), similarity(pair, transform)
    with log.timing("decompose"):
        affine = decompose(single or fitted_affine(displacement), onto.center)
    verdict = None
    if "verdict" not in without:
        with log.timing("verdict"):
            verdict = judge(
                pair,
                transform,
                similarity=fit,
                folding_percent=scores[1].jacobian.folding_percent,
                affine=affine,
                start=_affine_part(initial, onto),
                intent=intent,
                of_method=result.doubts,
            )
    return Assessment(
        moved, displacement, jacobian, moved_labels, inverse, fit, scores, affine, verdict
    )


def _inverse(result: RegistrationResult, moving: Grid) -> Inverse:
    onto = _inverse_grid(moving)
    if result.inverse is None:
        return invert(result.transform, onto=onto)
    inverse = result.inverse
    if any(isinstance(part, NumericalInverse) for part in parts_of(inverse)):
        inverse = DisplacementField.sampled(inverse, onto)  # that of a deformable initial transform
    return measured(inverse, result.transform, onto=onto)


def _affine_part(transform: Transform, grid: Grid) -> Decomposition:
    """The affine part of a transform over a grid, from a few samples."""
    coarse = grid.with_spacing([max(e / 16, s) for e, s in zip(grid.extent, grid.spacing)])
    return decompose(fitted_affine(DisplacementField.sampled(transform, coarse)), grid.center)


def _inverse_grid(moving: Grid) -> Grid:
    volume = 1.0
    for length in moving.extent:
        volume *= length
    step = (volume / _INVERSE_SAMPLES) ** (1 / moving.dimension)
    if step <= min(moving.spacing):
        return moving
    return moving.with_spacing([max(s, step) for s in moving.spacing])
