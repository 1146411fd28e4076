"""Correspondences of critical points, from soft to hard, and the smooth step that follows them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.kernels.matching import differences
from hybridreg.kernels.smoothing import smoothed

_SOFT_TO_HARD = (0.5, 0.25, 0.12, 0.0)  # temperature, in units of the costs' typical contrast
_COUPLING = (0.0, 0.5, 1.0, 2.0)  # of a candidate's distance from the smooth step, in radii squared
_SPREADS = 2.0  # robust standard deviations: matches that differ more from the step are outliers
_FLOOR = 0.05  # of the mean density of points: below it a step fades


@dataclass(frozen=True, eq=False)
class Side:
    """Critical points of one image and their candidates in the other, in voxels of the level.

    points: (N, D), array order. offsets: (M, D), the same for all. costs: (N, M).
    way: 1 for points of the fixed image, -1 for those of the moved one.
    """

    points: Tensor
    offsets: Tensor
    costs: Tensor
    way: int

    @classmethod
    def of(cls, here: Tensor, there: Tensor, points: Tensor, reach: int, radius: int, way: int):
        dimension = here.ndim - 1
        offsets = ball(reach, dimension).to(points)
        around = cube(radius, dimension).to(points)
        costs = differences(here, there, points, offsets, around)
        return cls(points, offsets, costs / _contrast(costs), way)

    def matched(self, step: Tensor, softness: float, coupling: float) -> Tensor:
        """The offset of each point (N, D): the mean of its candidates, weighted by their likeness.

        With a softness of 0 the most similar candidate, to a fraction of a voxel. step: what the
        smooth step is at each point, (N, D).
        """
        offsets = self.offsets.to(step)
        reach = offsets.square().sum(1).max().clamp(min=1)
        expected = self.way * step
        squares = (
            offsets.square().sum(1)
            - 2 * expected @ offsets.T
            + expected.square().sum(1, keepdim=True)
        )
        costs = self.costs + coupling / reach * squares
        return torch.softmax(-costs / softness, 1) @ offsets if softness else self._best(costs)

    def _best(self, costs: Tensor) -> Tensor:
        """The offset of the least cost, and the vertex of a parabola through it along each axis."""
        best = costs.argmin(1)
        found = self.offsets[best].to(costs)
        beside = _neighbors(self.offsets)[:, :, best]  # (D, 2, N)
        least = costs.gather(1, best[:, None])[:, 0]
        for axis, (before, after) in enumerate(beside):
            low, high = (costs.gather(1, b.clamp(min=0)[:, None])[:, 0] for b in (before, after))
            curve = low - 2 * least + high
            shift = torch.where(curve > 0, (low - high) / (2 * curve), 0.0)
            found[:, axis] += torch.where((before < 0) | (after < 0), 0.0, shift)
        return found


@dataclass(frozen=True, eq=False)
class Matched:
    """Points and their offsets (N, D) in voxels, array order; kept: which are no outliers."""

    points: Tensor
    offsets: Tensor
    kept: Tensor


def match(
    sides: tuple[Side, Side], shape: tuple[int, ...], sigma: tuple[float, ...]
) -> tuple[Tensor, tuple[Matched, Matched]]:
    """The smooth step (D, *shape) of x -> x + v(x), and the matches behind it; in voxels.

    Components in array order. It follows the points of the fixed image to their matches and the
    matches of the moved image's points back to these. sigma: voxels along x, y (and z).
    """
    step = sides[0].costs.new_zeros(len(shape), *shape)
    kept = [s.costs.new_ones(len(s.points), dtype=torch.bool) for s in sides]
    for softness, coupling in zip(_SOFT_TO_HARD, _COUPLING, strict=True):
        offsets = [s.matched(_at(step, s.points).T, softness, coupling) for s in sides]
        step = _interpolated(sides, offsets, kept, shape, sigma)
        kept = [
            _agreeing(s.way * o - _at(step, _start(s, o)).T)
            for s, o in zip(sides, offsets, strict=True)
        ]
        step = _interpolated(sides, offsets, kept, shape, sigma)
    found = (Matched(s.points, o, k) for s, o, k in zip(sides, offsets, kept, strict=True))
    return step, tuple(found)


def ball(reach: int, dimension: int) -> Tensor:
    """Whole offsets within a distance of ``reach``, (M, D)."""
    offsets = cube(reach, dimension)
    return offsets[offsets.square().sum(1) <= reach**2]


def cube(radius: int, dimension: int) -> Tensor:
    """Whole offsets of a cube, (K, D)."""
    side = torch.arange(-radius, radius + 1)
    return torch.cartesian_prod(*[side] * dimension)


def _neighbors(offsets: Tensor) -> Tensor:
    """Which candidate is one voxel before and after each along each axis, -1 for none; (D, 2,
    M).
    """
    rows = []
    for axis in range(offsets.shape[1]):
        for way in (-1, 1):
            there = offsets.clone()
            there[:, axis] += way
            same = (there[:, None] == offsets[None]).all(-1)
            rows.append(torch.where(same.any(1), same.int().argmax(1), -1))
    return torch.stack(rows).reshape(-1, 2, len(offsets))


def _contrast(costs: Tensor) -> Tensor:
    """What distinguishes the candidates of a point, typically: the mean cost above the least."""
    if not costs.numel():
        return costs.new_ones(())
    return (costs.mean(1) - costs.amin(1)).mean().clamp(min=1e-12)


def _start(side: Side, offsets: Tensor) -> Tensor:
    """Where in the fixed image a match starts: at its point, or at the match of a moved one's."""
    return side.points if side.way > 0 else (side.points + offsets).round().long()


def _interpolated(sides, offsets, kept, shape, sigma) -> Tensor:
    """Normalized Gaussian interpolation of the kept matches, (D, *shape)."""
    dimension, size = len(shape), offsets[0].new_tensor(shape)
    sums = offsets[0].new_zeros(dimension + 1, size.prod().long().item())
    for side, found, good in zip(sides, offsets, kept, strict=True):
        start = _start(side, found)[good]
        start = torch.minimum(start.clamp(min=0), (size - 1).long())
        index = start[:, 0]
        for axis in range(1, dimension):
            index = index * shape[axis] + start[:, axis]
        values = torch.cat([side.way * found[good].T, found.new_ones(1, len(index))])
        sums.index_add_(1, index, values)
    sums = smoothed(sums.reshape(-1, *shape), sigma)
    density = sums[-1]
    shown = density > 0
    floor = _FLOOR * density[shown].mean() if shown.any() else 1.0
    return sums[:-1] / (density + floor)


def _agreeing(difference: Tensor) -> Tensor:
    """Which matches differ from the step no more than most do; difference: (N, D)."""
    if not len(difference):
        return difference.new_ones(0, dtype=torch.bool)
    length = difference.norm(dim=1)
    return length <= _SPREADS * 1.4826 * length.median() + 0.1


def _at(field: Tensor, points: Tensor) -> Tensor:
    """(D, N) values of a field at whole voxels."""
    places = [p.clamp(0, n - 1) for p, n in zip(points.T, field.shape[1:], strict=True)]
    return field[(slice(None), *places)]
