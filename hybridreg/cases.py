"""The input of a method (ImagePair) and of its evaluation (Case)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from hybridreg.images import Image, LabelMap, LandmarkSet, check_kind, corresponding
from hybridreg.transforms import (
    Transform,
)
from hybridreg.warping import warp

_LARGEST = 1e18  # the squares of larger values leave float32


@dataclass(frozen=True, eq=False)
class ImagePair:
    """The input of a registration method: two images, masks and guidance points.

    fixed_mask, moving_mask: where to compare; nonzero is inside; on the grid of their image.
    fixed_points, moving_points: corresponding points given as guidance, the i-th to the i-th; the
        moving ones are put into this order by their names (``images.corresponding``).
        (Landmarks for evaluation belong to the Case.)
    """

    fixed: Image
    moving: Image
    fixed_mask: LabelMap | None = None
    moving_mask: LabelMap | None = None
    fixed_points: LandmarkSet | None = None
    moving_points: LandmarkSet | None = None

    def __post_init__(self):
        check_kind("the fixed image", self.fixed, Image)
        check_kind("the moving image", self.moving, Image)
        if self.fixed_points is not None and self.moving_points is not None:
            ordered = corresponding(self.fixed_points, self.moving_points, what="points")
            object.__setattr__(self, "moving_points", ordered)

    @property
    def dimension(self) -> int:
        return self.fixed.grid.dimension


@dataclass(frozen=True, eq=False)
class Case:
    """One registration problem with its ground truth for evaluation.

    name: of the case; subject: of the person, for statistics.
    Labels and landmarks are for evaluation, in corresponding pairs (landmarks by name, like the
    points of a pair); moving labels alone are only warped. true_transform maps fixed to moving.
    """

    pair: ImagePair
    name: str = "case"
    subject: str = ""
    fixed_labels: LabelMap | None = None
    moving_labels: LabelMap | None = None
    fixed_landmarks: LandmarkSet | None = None
    moving_landmarks: LandmarkSet | None = None
    true_transform: Transform | None = None

    def __post_init__(self):
        # Moving labels alone are an atlas to be warped; anything else alone cannot be evaluated.
        for given, missing in (
            ("fixed_labels", "moving_labels"),
            ("fixed_landmarks", "moving_landmarks"),
            ("moving_landmarks", "fixed_landmarks"),
        ):
            if getattr(self, given) is not None and getattr(self, missing) is None:
                given, missing = given.replace("_", " "), missing.replace("_", " ")
                raise ValueError(f"{given} can only be evaluated together with {missing}")
        if self.fixed_landmarks is not None:
            ordered = corresponding(self.fixed_landmarks, self.moving_landmarks, what="landmarks")
            object.__setattr__(self, "moving_landmarks", ordered)


def compared_volumes(pair: ImagePair) -> tuple[float, float]:
    """The compared fixed and moving volumes in mm^dimension: the masks or the fields of view."""
    return _volume(pair.fixed, pair.fixed_mask), _volume(pair.moving, pair.moving_mask)


def _volume(image: Image, mask: LabelMap | None) -> float:
    voxel = math.prod(image.grid.spacing)
    return voxel * (math.prod(image.grid.size) if mask is None else int((mask.data != 0).sum()))


def warp_pair(pair: ImagePair, initial: Transform) -> ImagePair:
    """The pair with its moving side resampled onto the fixed grid through ``initial``.

    For methods that cannot start from a transform: register this pair, then ``result.after``.
    """
    onto = pair.fixed.grid
    moved_mask = pair.moving_mask and warp(pair.moving_mask, initial, onto=onto)
    points = pair.moving_points
    if points is not None:
        points = replace(points, points=initial.inverse()(points.points))
    return replace(
        pair,
        moving=warp(pair.moving, initial, onto=onto),
        moving_mask=moved_mask,
        moving_points=points,
    )


def exchanged(pair: ImagePair) -> ImagePair:
    """The pair with its moving side as the fixed one."""
    return ImagePair(
        pair.moving,
        pair.fixed,
        pair.moving_mask,
        pair.fixed_mask,
        pair.moving_points,
        pair.fixed_points,
    )


def with_field_of_view(pair: ImagePair, initial: Transform) -> ImagePair:
    """The pair with a mask of the moving field of view, if that does not cover the fixed one.

    An existing mask is not changed: it lies inside the field of view.
    """
    grid = pair.moving.grid
    if pair.moving_mask is not None or grid.contains(initial(pair.fixed.grid.points())).all():
        return pair
    return replace(pair, moving_mask=LabelMap(torch.ones(grid.shape, dtype=torch.int32), grid))
