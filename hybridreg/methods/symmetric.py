"""Registration in both directions, and the map halfway between the two that are found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from hybridreg import progress
from hybridreg.cases import ImagePair, exchanged, warp_pair, with_field_of_view
from hybridreg.checks import check_pair
from hybridreg.composed_steps.folds import unfolded
from hybridreg.composed_steps.levels import placed
from hybridreg.composed_steps.run import in_space
from hybridreg.geometry import Grid
from hybridreg.kernels.inversion import inverted
from hybridreg.kernels.jacobians import determinants
from hybridreg.kernels.sampling import composed, sample
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    DisplacementField,
    Transform,
    affine_of,
    compose,
    parts_of,
)

_Ways = tuple[Transform, Transform]
"""A map and its inverse."""
_ROUNDS = 8  # of the square root; each error is about half as steep as the one before


@dataclass(frozen=True)
class Symmetric:
    """Runs every stage in both directions, each from the mean of the stage before.

    Of the maps T from fixed to moving and S back, the mean is T o sqrt(T^-1 o S^-1), with sqrt(D) o
    sqrt(D) = D. Its inverse is the mean of the exchanged pair, so which image is fixed makes no
    difference but for interpolation. What the two directions do not agree on, they lose half of.
    The total is an affine after displacements without folds, whose inverse is accurate to .01
    voxel.

    stages: such as affine, a deformable method, and a short one again. An initial transform that is
    not affine is applied to the moving image first, as if the resampled image were the original
    one.
    """

    stages: tuple[RegistrationMethod, ...]

    def __post_init__(self):
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise ValueError("symmetric needs at least one stage")

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        affine = affine_of(initial, pair.dimension)
        if affine is None:
            aligned = warp_pair(with_field_of_view(pair, initial), initial)
            return self.register(aligned).after(initial)
        mean = RegistrationResult(affine, affine.inverse())
        for number, stage in enumerate(self.stages):
            begin, middle, end = ((2 * number + i) / (2 * len(self.stages)) for i in range(3))
            starts = _starts(mean, affine, pair.moving.grid)
            there = _run(stage, pair, starts[0], begin, middle)
            back = _run(stage, exchanged(pair), starts[1], middle, end)
            found = _mean(there, back, affine, pair.fixed.grid)
            affine = affine_of(found.transform, pair.dimension) or affine
            trace = (*there.trace, *(e._replace(stage=f"{e.stage}, exchanged") for e in back.trace))
            doubts = dict.fromkeys((*mean.doubts, *there.doubts, *back.doubts))
            mean = replace(found, trace=mean.trace + trace, doubts=tuple(doubts))
        return mean


def _starts(mean: RegistrationResult, affine: AffineTransform, moving: Grid) -> list[_Ways]:
    """Where the two directions start: each on its own fixed grid,
    so that it does not end inside it.
    """
    there, back = mean.transform, mean.inverse
    if isinstance(there, AffineTransform):
        return [(there, back), (back, there)]
    field, _ = parts_of(back)
    placement = placed(moving, field.grid, affine.inverse())
    vectors = sample(field.vectors, None, placement, moving.shape)
    vectors = torch.einsum("ca,a...->c...", affine.linear.to(vectors), vectors)
    along = _without_folds(_along_axes(vectors, moving), moving)
    on_moving = compose(affine.inverse(), DisplacementField(in_space(along, moving), moving))
    return [(there, back), (on_moving, there)]


def _run(
    stage: RegistrationMethod, pair: ImagePair, start: _Ways, begin: float, end: float
) -> RegistrationResult:
    """From a map that is not affine, what is left of it on the image resampled through it."""
    there, back = start
    straight = isinstance(there, AffineTransform)
    with progress.within(begin, end):
        if straight:
            found = stage.register(pair, there)
        else:
            found = stage.register(warp_pair(with_field_of_view(pair, there), there))
    inverse = found.inverse or found.transform.inverse()
    if straight:
        return replace(found, inverse=inverse)
    total = compose(there, found.transform)
    return replace(found, transform=total, inverse=compose(inverse, back))


def _mean(
    there: RegistrationResult, back: RegistrationResult, affine: AffineTransform, grid: Grid
) -> RegistrationResult:
    """Halfway from the map there to the inverse of the map back,
    as displacements on the fixed grid.
    """
    straight = [affine_of(result.transform, grid.dimension) for result in (there, back)]
    if None not in straight:
        one, other = (a.matrix.double().numpy() for a in straight)
        half = sqrtm(np.linalg.inv(one) @ np.linalg.inv(other)).real
        mean = AffineTransform(torch.from_numpy(one @ half))
        return RegistrationResult(mean, mean.inverse())
    apart = compose(there.inverse, back.inverse)  # fixed -> fixed, near the identity
    half = DisplacementField(in_space(_half(_along(apart, grid), grid), grid), grid)
    along = _along(compose(affine.inverse(), there.transform, half), grid)
    along = _without_folds(along, grid)
    fields = (along, inverted(along, grid.spacing))
    forward, backward = (DisplacementField(in_space(u, grid), grid) for u in fields)
    return RegistrationResult(forward, backward).after(affine)


def _along(transform: Transform, grid: Grid) -> Tensor:
    """Displacements (D, *shape) in mm along the axes of a grid."""
    return _along_axes(DisplacementField.sampled(transform, grid).vectors, grid)


def _along_axes(vectors: Tensor, grid: Grid) -> Tensor:
    axes = torch.tensor(grid.direction, dtype=torch.float64).to(vectors)
    return torch.einsum("ca,c...->a...", axes, vectors).contiguous()


def _without_folds(along: Tensor, grid: Grid) -> Tensor:
    return unfolded(along, lambda u: determinants(u, grid.spacing))[0]


def _half(along: Tensor, grid: Grid) -> Tensor:
    """v with (id + v) o (id + v) = id + u."""
    half = along / 2
    for _ in range(_ROUNDS):
        half = half + (along - composed(half, half, grid.spacing)) / 2
    return half
