"""The verdict on a registration: whether it is plausible, and reasons with what to try."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from hybridreg.cases import ImagePair, compared_volumes
from hybridreg.checks import different_extents
from hybridreg.decomposition import Decomposition
from hybridreg.preprocessing import outliers, pair_without_outliers
from hybridreg.quality.alternatives import Finding, doubts
from hybridreg.quality.similarity import Similarity
from hybridreg.transforms import Transform, rigid

Findings = Iterator[Finding]

# Correlation in the foreground; measurements in examples/benchmarks/verdicts.md.
_SAME_CONTRAST = 0.5, 0.2  # doubt (a fault beside doubts of the alignment); fault
_SAME_SCAN = 0.8

# Ratio of the largest to the smallest scale of the affine part; two adults' brains reach 1.11. In a
# field of view of one small organ its shape is what is scaled: two hippocampi reach 1.29.
_UNEVEN = 1.2, 1.6  # doubt, fault
_UNEVEN_ORGAN = 1.3
_ORGAN_MM = 80.0  # mean (geometric) side of the field of view


@dataclass(frozen=True)
class Intent:
    """The intended use of a preset; None if not stated.

    same_subject: one person, so sizes must not change. same_contrast: both images have the same
    contrast, so they must correlate.
    """

    same_subject: bool | None = None
    same_contrast: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a result is plausible, and all reasons for doubt with what to try."""

    status: Literal["pass", "warn", "fail"]
    reasons: tuple[str, ...] = ()


def judge(
    pair: ImagePair,
    transform: Transform,
    *,
    similarity: tuple[Similarity, Similarity],
    folding_percent: float,
    affine: Decomposition,
    start: Decomposition,
    intent: Intent = Intent(),
    of_method: Sequence[str] = (),
) -> Verdict:
    """The verdict on a registration, without labels.

    similarity: before and after. folding_percent: of the fixed foreground. affine: of the affine
    nearest to the transform; start: the same of the initial transform, relative to which rotations
    and scales are measured. of_method: doubts that the method itself has (``RegistrationResult``).
    """
    of_alignment = [*_plausible(pair, affine, start, intent)]
    if similarity[1].mutual_information is not None:
        ordinary = pair_without_outliers(pair)
        of_alignment += doubts(ordinary, transform, same_subject=bool(intent.same_subject))
    findings = [
        *_extents(pair),
        *_overlap(pair, similarity[1]),
        *_gain(*similarity),
        *_correlation(similarity[1], intent, doubted=bool(of_alignment)),
        *_folding(folding_percent),
        *of_alignment,
        *(("warn", doubt) for doubt in of_method),
    ]
    if findings:
        findings += _outliers(pair)
    statuses = {status for status, _ in findings}
    status = "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"
    return Verdict(status, tuple(text for _, text in findings))


def _outliers(pair: ImagePair) -> Findings:
    """Outliers, a possible cause of other findings; harmless alone."""
    for side, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        if words := outliers(image):
            yield (
                "warn",
                f"the {side} image has {words}, which misleads methods that do not clip it: "
                'correct the image, use a preset, or put the method "clipped" around yours',
            )


def _extents(pair: ImagePair) -> Findings:
    sizes = different_extents(pair.fixed.grid, pair.moving.grid)
    if sizes:
        yield (
            "warn",
            f"{sizes}: if one is a part of the other, crop the larger one to what both show; if "
            "not, a spacing is wrong: correct the header",
        )


def _overlap(pair: ImagePair, after: Similarity) -> Findings:
    """Relative to the smaller field of view or mask: a few slices may lie inside a whole head."""
    fixed, moving = compared_volumes(pair)
    fraction = min(after.overlap * max(1.0, fixed / moving), 1.0)
    if pair.moving_mask is None and after.overlap < 0.5:
        # A part of the fixed image covers no more wherever it starts from.
        start = "" if fraction > 0.9 else "start from --initial centers, or "
        yield (
            "fail" if fraction < 0.2 else "warn",
            f"the moved image covers only {after.overlap:.0%} of the fixed one: {start}crop the "
            "fixed image to what both show",
        )
    elif fraction < 0.5:
        yield (
            "fail" if fraction < 0.2 else "warn",
            f"the moved mask and what it is compared with share only {fraction:.0%} of the "
            "smaller of them: start from --initial mass, or draw both masks around the same thing",
        )


def _gain(before: Similarity, after: Similarity) -> Findings:
    if after.mutual_information is None:
        yield "fail", "the images no longer overlap: start from --initial centers"
        return
    # Over little overlap the start's similarity says nothing to compare with.
    comparable = before.mutual_information is not None and before.overlap > 0.8 * after.overlap
    if comparable and after.mutual_information < 0.95 * before.mutual_information:
        yield (
            "fail",
            f"the images fit worse than at the start (mutual information "
            f"{after.mutual_information:.3g} after {before.mutual_information:.3g}): give masks, "
            "or another initial transform",
        )


def _correlation(after: Similarity, intent: Intent, *, doubted: bool) -> Findings:
    """Fat, a bias field or a removed face lower it too, so by itself a low one is a doubt."""
    correlation = after.correlation
    if not intent.same_contrast or correlation is None or correlation > _SAME_SCAN:
        return
    correlate = f"these do by {correlation:.2f}"
    if correlation < _SAME_CONTRAST[0]:
        failed = doubted or correlation < _SAME_CONTRAST[1]
        yield (
            "fail" if failed else "warn",
            f"images of the same contrast should correlate in the foreground, {correlate}: wrong "
            "images, or a wrong optimum; try --initial centers or a method for two contrasts",
        )
    elif intent.same_subject:
        yield (
            "warn",
            f"two scans of one person in one contrast should correlate closely, {correlate}: are "
            "they of the same person? Check left and right and the spacing in both headers",
        )


def _folding(percent: float) -> Findings:
    if percent > 0.01:
        yield (
            "fail" if percent > 1.0 else "warn",
            f"{percent:.2g} % of the voxels are folded: use a coarser control grid or a larger "
            "weight of the bending penalty",
        )


def _plausible(
    pair: ImagePair, affine: Decomposition, start: Decomposition, intent: Intent
) -> Findings:
    if affine.reflects != start.reflects:
        yield "fail", "the transform mirrors the image: check left and right in both headers"
    largest, smallest = affine.scales[0] / start.scales[0], affine.scales[-1] / start.scales[-1]
    expected, possible = (1.08, 1.25) if intent.same_subject else (1.4, 2.0)
    factor, uneven = max(largest, 1 / smallest), largest / smallest
    if factor > expected:
        one = " one person's images" if intent.same_subject else " bodies"
        yield (
            "fail" if factor > possible else "warn",
            f"the transform scales by {smallest:.2f} to {largest:.2f}, more than{one} differ: "
            "check the spacing in both headers, or use a rigid preset",
        )
    elif uneven > (_UNEVEN_ORGAN if _shows_an_organ(pair) else _UNEVEN[0]):
        yield (
            "fail" if uneven > _UNEVEN[1] else "warn",
            f"the transform stretches one axis {uneven:.2f} times as much as another, more than "
            "bodies differ: check the spacing in both headers, or use a rigid preset",
        )
    turn = _angle_between(affine, start)
    if turn > 30:
        yield (
            "fail" if turn > 60 else "warn",
            f"the transform turns by {turn:.0f} degrees: check the orientation in both headers; "
            "if it is right, give an initial transform",
        )


def _shows_an_organ(pair: ImagePair) -> bool:
    grid = pair.fixed.grid
    return math.prod(grid.extent) ** (1 / grid.dimension) < _ORGAN_MM


def _angle_between(a: Decomposition, b: Decomposition) -> float:
    zero = [0.0] * len(a.translation_mm)
    turned, from_there = (rigid(d.rotation_deg, zero, zero).linear for d in (a, b))
    turn = turned @ from_there.T
    cosine = turn[0, 0] if len(zero) == 2 else (torch.trace(turn) - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).item()
