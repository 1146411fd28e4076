"""Comparison of a result with other alignments of the same two images, which must fit less well.

Alignments are compared by mutual information over the points inside the fixed foreground that both
cover. The thresholds are from the table in examples/benchmarks/verdicts.md.
Between two persons left and right cannot be distinguished: brains are too symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.initialization import center_of_mass
from hybridreg.preprocessing import foreground
from hybridreg.quality.similarity import Bins, ComparedPoints, moving_at, mutual_information
from hybridreg.transforms import IDENTITY, AffineTransform, Transform, compose, rigid
from hybridreg.warping import warp

_POINTS = 30_000
_STEP = 0.05  # of the fixed image's mean (geometric) side: 9 mm of a brain
_STEP_DEG = 10.0
_STRETCH = 0.08
_AXES = ("x (left to right)", "y (front to back)", "z (down to up)")

_ASIDE = 1.05
_FAR_BETTER = 1.25  # for another alignment: the images have much in common, but not as aligned
_FLAT = 0.82
_TURNED = 1.25
_STRETCHED = 1.12
_MIRRORED = 1.1

Finding = tuple[str, str]  # "warn" or "fail", and why


@dataclass(frozen=True, eq=False)
class Alignment:
    """The alignment that was found, for comparison with others."""

    pair: ImagePair
    transform: Transform
    fixed: ComparedPoints
    moving: np.ndarray
    covered: np.ndarray
    bins: tuple[tuple[Bins, Bins], ...]  # of each channel: fixed, moving

    @classmethod
    def of(cls, pair: ImagePair, transform: Transform) -> Alignment:
        """On a moving image at the spacing of the points, since it is sampled many times."""
        pair = _inside_patient(pair)
        step = (np.prod(pair.fixed.grid.extent) / _POINTS) ** (1 / pair.dimension)
        coarse = [max(s, step / 2) for s in pair.moving.grid.spacing]
        grid = pair.moving.grid.with_spacing(coarse)
        moving, mask = pair.moving, pair.moving_mask
        moving = warp(moving, IDENTITY, onto=grid)
        mask = mask and warp(mask, IDENTITY, onto=grid)
        pair, mask = replace(pair, moving=moving, moving_mask=mask), pair.fixed_mask
        fraction = 1.0 if mask is None else mask.data.count_nonzero().item() / mask.data.numel()
        fixed = ComparedPoints.over(pair, round(_POINTS / max(fraction, 0.05)))
        moving, covered = moving_at(pair, transform(fixed.points))
        bins = tuple((Bins.of(f), Bins.of(m[covered])) for f, m in zip(fixed.values, moving))
        return cls(pair, transform, fixed, moving, covered, bins)

    def gain(self, aside: Transform) -> float:
        """Ratio of mutual information with the fixed image displaced and without.

        Over the points that both cover, so that a loss of field of view is not a change of fit;
        0 if that is less than half of them.
        """
        moving, covered = moving_at(self.pair, self.transform(aside(self.fixed.points)))
        both = covered & self.covered
        if both.sum() < 0.5 * self.covered.sum():
            return 0.0
        return self._information(moving, both) / max(self._information(self.moving, both), 1e-9)

    def _information(self, moving: np.ndarray, where: np.ndarray) -> float:
        channels = zip(self.fixed.values, moving, self.bins, strict=True)
        return sum(
            mutual_information(of_fixed(f[where]), of_moving(m[where]))
            for f, m, (of_fixed, of_moving) in channels
        )


def doubts(pair: ImagePair, transform: Transform, *, same_subject: bool) -> Iterator[Finding]:
    """Reasons why an alignment may not be the best one, and what to try."""
    found = Alignment.of(pair, transform)
    center = center_of_mass(pair.fixed, found.pair.fixed_mask)
    if turned := [*_turned(found, center)]:  # then it explains all other irregularities
        yield from turned
        return
    gains = [(found.gain(step), words) for words, step in _steps_aside(pair)]
    best, words = max(gains)
    flat = np.mean([gain for gain, _ in gains]) > _FLAT
    if best > _ASIDE:
        yield (
            "fail",
            f"the images fit better {words} from here ({_more(best)}): the search stopped "
            "too early; try --initial mass or centers",
        )
    if flat and best < _FAR_BETTER:
        yield (
            "warn",
            "the images fit hardly better here than some way aside, so they show little in common: "
            "are they of the same part of the body? A mask may help",
        )
    if same_subject:
        yield from _stretched(found, center)
        yield from _mirrored(found, center)


def _inside_patient(pair: ImagePair) -> ImagePair:
    """The pair with a mask of the fixed foreground, if it has none.

    Surrounding air matches almost as well when displaced, and hides the fit of the rest.
    """
    if pair.fixed_mask is not None:
        return pair
    try:
        return replace(pair, fixed_mask=foreground(pair.fixed))
    except ValueError:  # no foreground: then the whole image is compared
        return pair


def _more(gain: float) -> str:
    return f"mutual information {gain - 1:.0%} higher"


def _steps_aside(pair: ImagePair) -> Iterator[tuple[str, Transform]]:
    grid = pair.fixed.grid
    center, dimension = grid.center, grid.dimension
    step = _STEP * math.prod(grid.extent) ** (1 / dimension)
    for sign in (-1.0, 1.0):
        for axis in range(dimension):
            shift = [0.0] * dimension
            shift[axis] = sign * step
            name = ("left", "back", "up")[axis] if sign > 0 else ("right", "front", "down")[axis]
            yield f"{step:.0f} mm to the {name}", rigid(_angles(dimension), shift, center)
        for axis in _turning_axes(dimension):
            turn = rigid(_angles(dimension, axis, sign * _STEP_DEG), [0.0] * dimension, center)
            yield f"turned by {_STEP_DEG:.0f} degrees about {_AXES[axis]}", turn


def _turned(found: Alignment, center: Tensor) -> Iterator[Finding]:
    """Rotations by right angles, as from a header with wrong axes.

    About the center, and with the center of the moving image brought there: a header that turns an
    image also puts it elsewhere.
    """
    dimension, gains = len(center), {}
    lost = center_of_mass(found.pair.moving, found.pair.moving_mask) - found.transform(center)
    for axis in _turning_axes(dimension):
        for angle in (90.0, 180.0, 270.0):
            name = f"{angle:.0f} degrees about {_AXES[axis]}"
            for shift in ([0.0] * dimension, lost.tolist()):
                turn = rigid(_angles(dimension, axis, angle), shift, center)
                gains[name] = max(gains.get(name, 0.0), found.gain(turn))
    words = max(gains, key=gains.__getitem__)
    if gains[words] > _TURNED:
        yield (
            "fail",
            f"the images fit better turned by {words} ({_more(gains[words])}): check the "
            "orientation in both headers, or give an initial transform",
        )


def _stretched(found: Alignment, center: Tensor) -> Iterator[Finding]:
    gains = {}
    for axis in range(len(center)):
        for factor in (1 + _STRETCH, 1 / (1 + _STRETCH)):
            scales = torch.ones(len(center), dtype=torch.float64)
            scales[axis] = factor
            linear = torch.diag(scales)
            stretch = AffineTransform.from_parts(linear, [0.0] * len(center), center)
            gains[_AXES[axis]] = max(gains.get(_AXES[axis], 0.0), found.gain(stretch))
    words = max(gains, key=gains.__getitem__)
    if gains[words] > _STRETCHED:
        yield (
            "warn",  # no more, since a chest that breathes between two scans does the same
            f"the images fit better stretched along {words} ({_more(gains[words])}), which those "
            "of one person at rest do not: check the spacing in both headers; for two persons, or "
            "one who breathed, use an affine or deformable preset",
        )


def _mirrored(found: Alignment, center: Tensor) -> Iterator[Finding]:
    place = [0.0, 0.0, 0.0]
    best = found.gain(_mirror(center, place))
    # The mirror plane is searched, in mm and degrees: a head may be rotated by 15 degrees, which
    # mirroring doubles.
    for step in (16.0, 8.0, 4.0, 2.0):
        for knob in (0, 1, 2) if len(center) == 3 else (0, 2):
            for sign in (-1.0, 1.0):
                other = [v + sign * step * (k == knob) for k, v in enumerate(place)]
                gain = found.gain(_mirror(center, other))
                if gain > best:
                    best, place = gain, other
    if best > _MIRRORED:
        yield (
            "fail",
            f"the images fit better with left and right exchanged ({_more(best)}): one of them is "
            "mirrored; check left and right in both headers and how the files were converted",
        )


def _mirror(center: Tensor, place: list[float]) -> Transform:
    """Left and right exchanged at a plane. place: its shift in mm, its turns about y and z."""
    dimension = len(center)
    linear = torch.eye(dimension, dtype=torch.float64)
    linear[0, 0] = -1.0
    flip = AffineTransform.from_parts(linear, [0.0] * dimension, center)
    shift, about_y, about_z = place
    angles = [0.0, about_y, about_z] if dimension == 3 else [about_z]
    return compose(rigid(angles, [shift] + [0.0] * (dimension - 1), center), flip)


def _turning_axes(dimension: int) -> tuple[int, ...]:
    return (0, 1, 2) if dimension == 3 else (2,)


def _angles(dimension: int, axis: int = 0, degrees: float = 0.0) -> list[float]:
    """For ``rigid``: the angles about x, y and z, or in 2D the one about z."""
    if dimension == 2:
        return [degrees]
    return [degrees * (a == axis) for a in range(3)]
