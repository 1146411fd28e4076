"""All measures of one registration at once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from hybridreg.cases import Case
from hybridreg.evaluation.deformation import (
    JacobianStatistics,
    jacobian_statistics,
)
from hybridreg.evaluation.distances import (
    Distances,
    inverse_consistency,
    rotation_between,
    target_registration_error,
    transform_error,
)
from hybridreg.evaluation.labels import dice, overall_dice, surface_distances
from hybridreg.geometry import apply_matrix
from hybridreg.images import Image, LabelMap
from hybridreg.kernels.enclosing import enclosed
from hybridreg.preprocessing import without_outliers
from hybridreg.transforms import IDENTITY, Transform, affine_of
from hybridreg.warping import jacobian_determinant, warp

_BINS = 256  # of the histogram for Otsu's threshold
_POINTS = 50_000  # approximate number of points at which transforms are compared


@dataclass(frozen=True)
class DiceScores:
    """Dice over all labels of the fixed map; those that the moved map lacks count as 0.

    mean: with equal weight for each label. overall: with equal weight for each voxel.
    missing_labels: how many labels the moved map lacks.
    """

    mean: float
    overall: float
    missing_labels: int


@dataclass(frozen=True)
class SurfaceScores:
    """Means of ``surface_distances`` over the labels in both maps; how many labels are missing."""

    mean_hd95_mm: float | None
    mean_mm: float | None
    missing_labels: int


@dataclass(frozen=True)
class LabelScore:
    """One label of the fixed map; its distances are None where the moved map lacks it."""

    label: int
    name: str
    dice: float
    hd95_mm: float | None
    mean_surface_mm: float | None


@dataclass(frozen=True)
class LandmarkScores(Distances):
    """Target registration error |T(fixed) - moving|.

    untransformed_mean_mm: mean of |fixed - moving|. improved_percent: percentage of landmarks with
    a smaller error than without any transform.
    """

    untransformed_mean_mm: float
    improved_percent: float


@dataclass(frozen=True)
class TruthScores(Distances):
    """|T(x) - true(x)| over the region of the fixed image.

    Where both are affine also the two parts of the error: rotation_deg, the angle of the rotation
    in true^-1 T, and center_mm, |T(c) - true(c)| at the center c of the fixed field of view.
    """

    rotation_deg: float | None = None
    center_mm: float | None = None


@dataclass(frozen=True)
class Scores:
    """All measures of one registration; None where there was nothing to measure.

    region: where in the fixed image Jacobian and truth were evaluated. labels: one row for each
    label of the fixed map. projected: distances on the detector between true and found projections.
    """

    region: str
    dice: DiceScores | None = None
    surface: SurfaceScores | None = None
    landmarks: LandmarkScores | None = None
    truth: TruthScores | None = None
    jacobian: JacobianStatistics | None = None
    inverse_consistency: Distances | None = None
    labels: tuple[LabelScore, ...] = ()
    projected: Distances | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scores as dictionaries, lists and numbers for JSON."""
        found = asdict(self)
        return {**found, "labels": list(found["labels"])}


def evaluate(
    case: Case,
    transform: Transform,
    *,
    inverse: Transform | None = None,
    jacobian: Image | None = None,
    moved_labels: LabelMap | None = None,
    region: tuple[str, LabelMap] | None = None,
) -> Scores:
    """All measures of a transform (fixed -> moving) for which the case has data.

    inverse: moving -> fixed; only with it is inverse consistency measured. jacobian: the
    transform's determinant on the fixed grid; moved_labels: the moving labels through the transform
    on the grid of the fixed ones. region: what ``evaluated_region`` gives. These three are computed
    if missing.
    """
    name, inside = region or evaluated_region(case.pair.fixed, case.pair.fixed_mask)
    dices, surface, labels = _label_scores(case, transform, moved_labels)
    return Scores(
        region=name,
        dice=dices,
        surface=surface,
        landmarks=landmark_scores(case, transform),
        truth=_truth_scores(case, transform, inside),
        jacobian=_jacobian_scores(transform, inside, jacobian),
        inverse_consistency=(
            None if inverse is None else _inverse_scores(case, transform, inverse)
        ),
        labels=labels,
    )


def _label_scores(
    case: Case, transform: Transform, moved: LabelMap | None
) -> tuple[DiceScores | None, SurfaceScores | None, tuple[LabelScore, ...]]:
    fixed, moving = case.fixed_labels, case.moving_labels
    if fixed is None or (moving is None and moved is None):
        return None, None, ()
    if moved is None:
        moved = warp(moving, transform, onto=fixed.grid)
    overlap, surfaces = dice(fixed, moved), surface_distances(fixed, moved)
    if not overlap:
        return None, None, ()
    known = [s for s in surfaces.values() if s is not None]
    missing = len(surfaces) - len(known)
    names = {**moved.names, **fixed.names}
    rows = tuple(
        LabelScore(
            label,
            names.get(label, str(label)),
            overlap[label],
            hd95_mm=surface and surface.hd95_mm,
            mean_surface_mm=surface and surface.mean_mm,
        )
        for label, surface in surfaces.items()
    )
    return (
        DiceScores(_mean(overlap.values()), overall_dice(fixed, moved), missing),
        SurfaceScores(_mean(s.hd95_mm for s in known), _mean(s.mean_mm for s in known), missing),
        rows,
    )


def landmark_scores(case: Case, transform: Transform) -> LandmarkScores | None:
    """Of the landmarks of a case; None where it has none."""
    fixed, moving = case.fixed_landmarks, case.moving_landmarks
    if fixed is None or moving is None or len(fixed.points) == 0:
        return None
    error = target_registration_error(transform, fixed, moving)
    untransformed = target_registration_error(IDENTITY, fixed, moving)
    return LandmarkScores.of(
        error,
        untransformed_mean_mm=untransformed.mean().item(),
        improved_percent=100 * (error < untransformed).double().mean().item(),
    )


def _truth_scores(case: Case, transform: Transform, inside: LabelMap) -> TruthScores | None:
    if case.true_transform is None:
        return None
    error = transform_error(transform, case.true_transform, _lattice(inside))
    affine = [affine_of(t, inside.grid.dimension) for t in (transform, case.true_transform)]
    if None in affine:
        return TruthScores.of(error)
    center = transform_error(*affine, inside.grid.center)
    return TruthScores.of(error, rotation_deg=rotation_between(*affine), center_mm=center.item())


def _jacobian_scores(
    transform: Transform, inside: LabelMap, jacobian: Image | None
) -> JacobianStatistics:
    if jacobian is None:
        jacobian = jacobian_determinant(transform, inside.grid)
    return jacobian_statistics(jacobian, mask=inside)


def _inverse_scores(case: Case, transform: Transform, inverse: Transform) -> Distances | None:
    """Over the foreground of the moving image, where the inverse maps into the fixed image.

    Of affines at the corners of the moving image, where they differ most.
    """
    affine = [affine_of(t, case.pair.dimension) for t in (transform, inverse)]
    if None not in affine:
        return Distances.of(inverse_consistency(*affine, case.pair.moving.grid.corners()))
    _, inside = evaluated_region(case.pair.moving, case.pair.moving_mask)
    points = _lattice(inside)
    seen = case.pair.fixed.grid.contains(inverse(points))
    return Distances.of(inverse_consistency(transform, inverse, points[seen]))


def evaluated_region(image: Image, mask: LabelMap | None = None) -> tuple[str, LabelMap]:
    """The region of evaluation, by name and as a mask, without the air around the patient.

    mask: that of the image, which is the region if there is one.

    The foreground is the set of voxels that lie between ones above Otsu's threshold along every
    axis, so it includes sinuses and ventricles. ``preprocessing.foreground``, inside which the
    verdict compares, takes ten times as long and moves errors by up to 1 %; compared inside this
    region, two real pairs are doubted for wrong reasons.
    """
    if mask is not None:
        return "mask", mask
    values = without_outliers(image).data[0]
    low, high = (end.item() for end in values.aminmax())
    if low == high:
        return "whole image", LabelMap(torch.ones(image.grid.shape), image.grid)
    scale = _BINS / (high - low)
    counts = sum(  # slice by slice, for little memory; NumPy's histogram takes ten times as long
        torch.bincount(
            ((part - low) * scale).clamp(0, _BINS - 1).to(torch.uint8).flatten(), minlength=_BINS
        )
        for part in values
    ).numpy()
    centers = low + (high - low) / _BINS * (np.arange(_BINS) + 0.5)
    inside = enclosed(values.numpy() > threshold_otsu(hist=(counts, centers)))
    return "foreground", LabelMap(torch.from_numpy(inside), image.grid)


def _lattice(inside: LabelMap) -> Tensor:
    """About ``_POINTS`` points (N, D) in mm, every n-th along each axis of the voxels inside."""
    excess = max(int((inside.data != 0).sum()) / _POINTS, 1.0)
    step = math.ceil(excess ** (1 / inside.grid.dimension))
    steps = (slice(None, None, step),) * inside.grid.dimension
    voxels = (inside.data[steps] != 0).nonzero().flip(-1) * step
    return apply_matrix(inside.grid.voxel_to_physical(), voxels.double())


def _mean(values) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None
