"""How well two images fit under a transform, judged without labels: similarity and a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.decomposition import Decomposition
from hybridreg.images import LabelMap
from hybridreg.transforms import Transform, compose, interpolate, rigid

_POINTS = 100_000
_PROBE_POINTS = 30_000


@dataclass(frozen=True)
class Similarity:
    """Agreement of the fixed image with the moving one seen through a transform.

    overlap: share of the fixed field of view (or mask) that the moving image covers, 0 to 1.
    mutual_information: in nats, of 32-bin histograms between robust limits; higher is better.
    correlation: Pearson's, -1 to 1, meant for images of the same contrast.
    The last two are None without overlap; of several channels they are the mean.
    """

    overlap: float
    mutual_information: float | None
    correlation: float | None


def similarity(pair: ImagePair, transform: Transform, *, points: int = _POINTS) -> Similarity:
    """Compares at about so many points of a regular lattice over the fixed image (and its mask)."""
    grid = pair.fixed.grid
    step = max((np.prod(grid.extent) / points) ** (1 / grid.dimension), min(grid.spacing))
    x = grid.with_spacing([step] * grid.dimension).points().flatten(0, -2)
    fixed, inside = interpolate(pair.fixed.data, grid, x)
    y = transform(x)
    moving, covered = interpolate(pair.moving.data, pair.moving.grid, y)
    for mask, where in ((pair.fixed_mask, x), (pair.moving_mask, y)):
        if mask is not None:
            inside &= _within(mask, where)
    used = inside & covered
    overlap = used.sum().item() / max(inside.sum().item(), 1)
    if used.sum() < 100:
        return Similarity(overlap, None, None)
    pairs = [(f[used].numpy(), m[used].numpy()) for f, m in zip(fixed, moving, strict=True)]
    return Similarity(
        overlap,
        float(np.mean([_mutual_information(f, m) for f, m in pairs])),
        float(np.mean([_correlation(f, m) for f, m in pairs])),
    )


def _within(mask: LabelMap, points: Tensor) -> Tensor:
    share, inside = interpolate((mask.data != 0)[None].float(), mask.grid, points)
    return inside & (share[0] > 0.5)


def _mutual_information(a: np.ndarray, b: np.ndarray, bins: int = 32) -> float:
    limits = [np.percentile(values, [0.1, 99.9]) for values in (a, b)]
    clipped = [np.clip(v, *limit) for v, limit in zip((a, b), limits, strict=True)]
    joint, _, _ = np.histogram2d(*clipped, bins=bins)
    joint /= joint.sum()
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / expected[filled])).sum())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


@dataclass(frozen=True)
class Intent:
    """What a preset is meant for; None where it says nothing.

    same_subject: one person, so nothing may shrink or grow. same_contrast: both images show tissue
    alike, so they must correlate.
    """

    same_subject: bool | None = None
    same_contrast: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a result looks sound, and every reason to doubt it with what to try."""

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
) -> Verdict:
    """The verdict on a registration, without labels.

    similarity: before and after. folding_percent: of the fixed foreground. affine: of the affine
    nearest to the transform; start: the same of the initial transform, from which turns and scales
    are measured.
    """
    findings = [
        *_overlap(similarity[1]),
        *_gain(*similarity, intent),
        *_folding(folding_percent),
        *_plausible(affine, start, intent),
    ]
    if similarity[1].mutual_information is not None:
        findings += _peak(pair, transform)
    statuses = {status for status, _ in findings}
    status = "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"
    return Verdict(status, tuple(text for _, text in findings))


Findings = Iterator[tuple[str, str]]


def _overlap(after: Similarity) -> Findings:
    if after.overlap < 0.2:
        status = "fail"
    elif after.overlap < 0.5:
        status = "warn"
    else:
        return
    yield (
        status,
        f"the moved image covers only {after.overlap:.0%} of the fixed one: start from "
        "--initial centers, or crop the fixed image to what both show",
    )


def _gain(before: Similarity, after: Similarity, intent: Intent) -> Findings:
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
    if intent.same_contrast and after.correlation < 0.3:
        yield (
            "fail",
            f"images of the same contrast should correlate, these do by {after.correlation:.2f}: "
            "wrong images, or lost on the way; try --initial centers or a method for two contrasts",
        )


def _folding(percent: float) -> Findings:
    if percent > 0.01:
        yield (
            "fail" if percent > 1.0 else "warn",
            f"{percent:.2g} % of the voxels are folded: use a coarser control grid or a larger "
            "weight of the bending penalty",
        )


def _plausible(affine: Decomposition, start: Decomposition, intent: Intent) -> Findings:
    if affine.reflects != start.reflects:
        yield "fail", "the transform mirrors the image: check left and right in both headers"
    largest, smallest = affine.scales[0] / start.scales[0], affine.scales[-1] / start.scales[-1]
    expected, possible = (1.08, 1.25) if intent.same_subject else (1.4, 2.0)
    factor = max(largest, 1 / smallest)
    if factor > expected:
        one = " one person's images" if intent.same_subject else " bodies"
        yield (
            "fail" if factor > possible else "warn",
            f"the transform scales by {smallest:.2f} to {largest:.2f}, more than{one} differ: "
            "check the spacing in both headers, or use a rigid preset",
        )
    turn = _angle_between(affine, start)
    if turn > 30:
        yield (
            "fail" if turn > 60 else "warn",
            f"the transform turns by {turn:.0f} degrees: check the orientation in both headers; "
            "if it is right, give an initial transform",
        )


def _angle_between(a: Decomposition, b: Decomposition) -> float:
    zero = [0.0] * len(a.translation_mm)
    turned, from_there = (rigid(d.rotation_deg, zero, zero).linear for d in (a, b))
    turn = turned @ from_there.T
    cosine = turn[0, 0] if len(zero) == 2 else (torch.trace(turn) - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).item()


def _peak(pair: ImagePair, transform: Transform) -> Findings:
    """A found alignment is a peak: any larger step aside must fit worse."""
    here = similarity(pair, transform, points=_PROBE_POINTS).mutual_information
    for words, probe in _steps_aside(pair):
        found = similarity(pair, compose(transform, probe), points=_PROBE_POINTS)
        there = found.mutual_information
        if there is not None and found.overlap > 0.5 and there > 1.02 * here:
            yield (
                "fail",
                f"the images fit better {words} from here (mutual information {there:.3g} instead "
                f"of {here:.3g}): the search stopped too early; try --initial mass or centers",
            )
            return


def _steps_aside(pair: ImagePair) -> Iterator[tuple[str, Transform]]:
    grid = pair.fixed.grid
    center, dimension = grid.center, grid.dimension
    step = 0.05 * min(grid.extent)
    turns = 2 * dimension - 3
    for sign in (-1.0, 1.0):
        for axis in range(dimension):
            shift = [0.0] * dimension
            shift[axis] = sign * step
            name = ("left", "back", "up")[axis] if sign > 0 else ("right", "front", "down")[axis]
            yield f"{step:.0f} mm to the {name}", rigid([0.0] * turns, shift, center)
        for axis in range(turns):
            angles = [0.0] * turns
            angles[axis] = sign * 10.0
            where = ("x", "y", "z")[axis] if dimension == 3 else "z"
            yield f"turned by 10 degrees about {where}", rigid(angles, [0.0] * dimension, center)
