"""Assessment of the pose of a CT in radiographs: its projection, the agreement of edges, errors, verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hybridreg.assessment import Assessment, assess
from hybridreg.case_log import CaseLog
from hybridreg.cases import Case
from hybridreg.decomposition import decompose
from hybridreg.drr import Projector, attenuation, coarser
from hybridreg.evaluation import (
    Distances,
    Scores,
    TruthScores,
    landmark_scores,
    rotation_between,
    transform_error,
)
from hybridreg.exposure import saturated
from hybridreg.gradient_correlation import GradientCorrelation
from hybridreg.images import Image
from hybridreg.kernels.smoothing import smoothed
from hybridreg.methods.base import RegistrationError, RegistrationResult, TraceEntry
from hybridreg.methods.projection import Projection
from hybridreg.poses import PARAMETERS, pose_parameters, projection_error, rigid_matrix, stepped
from hybridreg.projection_pair import ProjectionPair
from hybridreg.quality import Intent, Verdict
from hybridreg.radiographs import Radiograph
from hybridreg.transforms import AffineTransform, Transform
from hybridreg.warping import Inverse

_SHOWN = 0.05  # of the largest integral: where the object is
_DENSE = 0.2  # of the largest attenuation
_PIXELS, _BLUR_PX = 160, 0.75  # of the radiograph as it is compared
_SCATTER = (0.0, 0.1)
_STEPS = ((3.0, "degrees"),) * 3 + ((2.0, "mm"),) * 2 + ((15.0, "mm in depth"),)
_REFINEMENT = Projection(
    optimizer="l-bfgs", pixels=(1.0,), scatter=(0.0, 0.03, 0.1, 0.3), iterations=15
)
_UNIT = {"r": "deg", "t": "mm"}


@dataclass(frozen=True)
class Agreement:
    """How a projection agrees with its radiograph; with several, on average.

    overlap: fraction of the CT's absorption that falls on the detector, by its box.
    gradient_correlation: of the derivatives where the projection shows something, -1 to 1; None
        where it shows nothing.
    """

    overlap: float
    gradient_correlation: float | None


class Move(NamedTuple):
    """How far corners of the object move on the detector, in the mean,
    and the object's diagonal.
    """

    apart_mm: float
    size_mm: float


@assess.register
def _(
    pair: ProjectionPair,
    case: Case,
    result: RegistrationResult,
    *,
    initial: Transform,
    intent: Intent,
    interpolation: str,
    log: CaseLog,
    without: Collection[str] = (),
) -> Assessment:
    start, found = (AffineTransform(rigid_matrix(t)) for t in (initial, result.transform))
    mu = attenuation(pair.moving)
    projector = Projector(mu)
    box = _box(mu)
    with log.timing("project"):
        shown = projector.radiograph(pair.fixed[0].detector, found)
    with log.timing("evaluate"):
        scores = _scores(case, start, box), _scores(case, found, box)
    with log.timing("similarity"):
        compared = [coarser(r, max(1.0, max(r.detector.shape) / _PIXELS)) for r in pair.fixed]
        fit = tuple(_agreement(compared, projector, t, box) for t in (start, found))
    verdict = None
    if "verdict" not in without:
        with log.timing("verdict"):
            beside = _beside(compared, projector, found)
            seen = fit[1].gradient_correlation is not None
            moves = _moves(replace(pair, fixed=tuple(compared)), found, box) if seen else None
            verdict = judged(fit, result.trace, beside=beside, moves=moves)
    return Assessment(
        moved=Image(shown.data[:, None], shown.grid),
        displacement=None,
        jacobian=None,
        moved_labels=None,
        inverse=Inverse(found.inverse(), 0.0, 0.0),
        similarity=fit,
        scores=scores,
        affine=decompose(found),
        verdict=verdict,
        pose=(_numbers(start, mu.grid.center), _numbers(found, mu.grid.center)),
    )


def judged(
    fit: tuple[Agreement, Agreement],
    trace: Sequence[TraceEntry],
    *,
    beside: tuple[float, str] | None = None,
    moves: Move | None = None,
) -> Verdict:
    """Whether a pose is plausible, by the agreement of edges and the range of the training.

    fit: before and after. beside: the best correlation of poses beside the found one, and the step
        there. moves: how far some steps along the gradient lead from it.
    """
    findings = list(_findings(*fit, trace, beside, moves))
    statuses = {status for status, _ in findings}
    status = "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"
    return Verdict(status, tuple(text for _, text in findings))


GOOD_EDGES, POOR_EDGES = 0.5, 0.25
BETTER_BESIDE = 0.005, 0.08  # warn, fail
FAR_MOVE = 0.0075  # of the object's size
"""Correlations of edges at right and wrong poses: examples/benchmarks/pehl.md."""


def _findings(
    before: Agreement,
    after: Agreement,
    trace: Sequence[TraceEntry],
    beside: tuple[float, str] | None,
    moves: Move | None,
) -> Iterator[tuple[str, str]]:
    if after.gradient_correlation is None:
        yield "fail", "the CT is projected beside the radiograph: start from another pose"
        return
    if after.overlap < 0.9:
        yield (
            "fail" if after.overlap < 0.3 else "warn",
            f"only {after.overlap:.0%} of the CT is projected onto the radiograph: is the pose "
            "right, and the "
            "geometry?",
        )
    if before.gradient_correlation is not None and (
        after.gradient_correlation < before.gradient_correlation - 0.02
    ):
        yield (
            "fail",
            "the edges agree less than at the start (correlation "
            f"{after.gradient_correlation:.2f} after "
            f"{before.gradient_correlation:.2f}): take another method, or another initial pose",
        )
    if after.gradient_correlation < GOOD_EDGES:
        yield (
            "fail" if after.gradient_correlation < POOR_EDGES else "warn",
            f"the edges of projection and radiograph correlate by {after.gradient_correlation:.2f} "
            "only: look at the "
            "edges in the report; start nearer to the true pose",
        )
    if beside is not None and beside[0] > after.gradient_correlation + BETTER_BESIDE[0]:
        better, step = beside
        far = better > after.gradient_correlation + BETTER_BESIDE[1]
        yield (
            "fail" if far else "warn",
            f"the edges agree better {step} beside (correlation {better:.2f}, here "
            f"{after.gradient_correlation:.2f}): "
            "refine the pose with projection or projection-hybrid, or start nearer to the true one",
        )
    elif moves is not None and moves.apart_mm > FAR_MOVE * moves.size_mm:
        yield (
            "warn",
            f"some steps along the gradient lead {moves.apart_mm:.1f} mm away on the detector "
            f"({moves.apart_mm / moves.size_mm:.1%} of the object's size): refine the pose with "
            "projection or "
            "projection-hybrid",
        )
    # A stage after the network does not depend on its training.
    outside = trace[-1].terms.get("outside_deg", 0.0) if trace else 0.0
    if outside > 0:
        yield (
            "warn",
            f"the pose is turned {outside:.1f} degrees beyond what the network was trained "
            "on: refine it "
            "(projection-hybrid), or train for these angles",
        )


def _numbers(pose: AffineTransform, center: Tensor) -> dict[str, float]:
    """The six numbers about the middle of the CT, with units in their names."""
    values = pose_parameters(pose, center.tolist()).tolist()
    return {f"{n}_{_UNIT[n[0]]}": v for n, v in zip(PARAMETERS, values, strict=True)}


def _agreement(
    radiographs: Sequence[Radiograph], projector: Projector, pose: AffineTransform, box: Tensor
) -> Agreement:
    back = pose.inverse()(_filled(box))
    inside = [r.grid.contains(r.detector.shadows(back)) for r in radiographs]
    overlap = torch.cat(inside).double().mean().item()
    return Agreement(overlap, _correlation(radiographs, projector, pose.matrix))


def _correlation(
    radiographs: Sequence[Radiograph], projector: Projector, matrix: Tensor
) -> float | None:
    """Of edges: with line integrals as they are, or leveled off, whichever agrees better."""
    found = []
    for radiograph in radiographs:
        drawn = projector(radiograph.detector, matrix)
        if not drawn.any():
            return None
        found.append(max(_edges(radiograph.data[:1], saturated(drawn, s)) for s in _SCATTER))
    return sum(found) / len(found)


def _edges(measured: Tensor, drawn: Tensor) -> float:
    """The correlation of derivatives around what the projection shows."""
    sigma = (_BLUR_PX,) * 2
    near = (smoothed((drawn > _SHOWN * drawn.max()).float(), (3.0, 3.0)) > 0.01).float()
    images = (smoothed(image, sigma) for image in (measured, drawn))
    return 1 - GradientCorrelation()(*images, near[0]).item()


def _beside(
    radiographs: Sequence[Radiograph], projector: Projector, pose: AffineTransform
) -> tuple[float, str]:
    """The best correlation of edges at poses a step away along the first detector,
    and that step.
    """
    axes = torch.tensor(radiographs[0].grid.direction, dtype=torch.float64)
    best = -1.0, ""
    for number, (size, unit) in enumerate(_STEPS):
        for way in (-1.0, 1.0):
            steps = torch.zeros(6, dtype=torch.float64)
            steps[number] = way * size
            at = stepped(pose.matrix, steps, axes)
            found = _correlation(radiographs, projector, at)
            best = max(best, (-1.0 if found is None else found, f"{size:g} {unit}"))
    return best


def _moves(pair: ProjectionPair, pose: AffineTransform, box: Tensor) -> Move | None:
    """Where gradient correlation leads from a pose; None where it cannot be followed."""
    try:
        better = _REFINEMENT.register(pair, pose).transform
    except RegistrationError:
        return None
    apart = [projection_error(better, pose, box, r.detector).mean() for r in pair.fixed]
    size = (box.amax(0) - box.amin(0)).norm()
    return Move(torch.stack(apart).mean().item(), size.item())


def _box(mu: Image) -> Tensor:
    """The corners, (8, 3) LPS mm, of the box along the CT's axes that holds what absorbs."""
    bright = mu.data[0] > _DENSE * mu.data.max()
    low, high = [], []
    for axis in range(3):
        shown = bright.amax([a for a in range(3) if a != axis]).nonzero()[:, 0]
        low.append(int(shown[0]))
        high.append(int(shown[-1]) + 1)
    return mu.grid.crop(low, high).corners()


def _filled(box: Tensor) -> Tensor:
    """A lattice of points in a box of 8 corners."""
    weights = torch.rand(200, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (weights / weights.sum(1, keepdim=True)) @ box


def _scores(case: Case, found: AffineTransform, box: Tensor) -> Scores:
    """Errors in space and on the detectors, at landmarks if there are any,
    else at the corners of a box.
    """
    scores = Scores(region="corners of the object", landmarks=landmark_scores(case, found))
    views = [radiograph.detector for radiograph in case.pair.fixed]
    if scores.landmarks is not None:
        back = found.inverse()(case.moving_landmarks.points)
        fixed = case.fixed_landmarks.points
        apart = [(v.shadows(back) - v.shadows(fixed)).norm(dim=-1) for v in views]
        return replace(scores, projected=Distances.of(torch.cat(apart)))
    if case.true_transform is None:
        return scores
    true = AffineTransform(rigid_matrix(case.true_transform))
    points = true.inverse()(box)
    truth = TruthScores.of(
        transform_error(found, true, points),
        rotation_deg=rotation_between(found, true),
        center_mm=transform_error(found, true, points.mean(0, keepdim=True)).item(),
    )
    apart = [projection_error(found, true, box, view) for view in views]
    return replace(scores, truth=truth, projected=Distances.of(torch.cat(apart)))
