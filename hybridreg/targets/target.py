"""A training target, and how a transform is split into its affine and deformable parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.decomposition import fitted_affine
from hybridreg.geometry import Grid
from hybridreg.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    compose,
    parts_of,
)

_POINTS = 20_000  # at which a residual is measured


@dataclass(frozen=True, eq=False)
class Target:
    """The truth about one pair: T(x) = affine(x + u(x)), fixed -> moving.

    pair: the images it is the truth of. arrays: on the grid, such as "displacement" (u in mm),
    shape (D, *grid.shape), float32. facts: further values for JSON, reproducible from run to run.
    """

    pair: ImagePair
    grid: Grid
    affine: AffineTransform
    arrays: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Kind(Protocol):
    """Makes targets of one kind. Its fields are its settings."""

    uses_fixed: bool
    """Whether it needs two images, or makes the fixed one from the moving one."""

    def __call__(self, pair: ImagePair, initial: Transform, *, seed: int) -> Target: ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings common to all targets of a store, ready for JSON."""
        ...


def split(transform: Transform, grid: Grid) -> tuple[AffineTransform, Transform]:
    """(A, R) with T(x) = A(R(x)).

    A is the affine at either end of the composition, from a method's linear stages; if
    there is none, the affine nearest to T over the grid.
    """
    parts = parts_of(transform)
    affines = [part for part in (parts[:1] + parts[-1:]) if isinstance(part, AffineTransform)]
    if not affines:
        coarse = grid.with_spacing([max(e / 32, s) for e, s in zip(grid.extent, grid.spacing)])
        affines = [fitted_affine(DisplacementField.sampled(transform, coarse))]
    return affines[0], compose(affines[0].inverse(), transform)


def residual_mm(truth: Transform, stored: Transform, grid: Grid) -> dict[str, float]:
    """Mean and maximum distance of two maps, between the voxels of a grid."""
    step = max(1, round((torch.tensor(grid.shape).prod().item() / _POINTS) ** (1 / grid.dimension)))
    stop = [max(2, n - 1) for n in grid.shape]
    points = grid.crop([0] * grid.dimension, stop).points()
    points = points[(slice(None, None, step),) * grid.dimension]
    half = grid.voxel_to_physical()[:-1, :-1] @ torch.full((grid.dimension,), 0.5).double()
    distance = (truth(points + half) - stored(points + half)).norm(dim=-1)
    return {"mean": distance.mean().item(), "max": distance.max().item()}
