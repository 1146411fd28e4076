"""The dissimilarity of a pair under a linear transform, its gradient, and the matrix that minimizes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.affine import placement_gradient
from hybridreg.kernels.sampling import Placement, sample
from hybridreg.methods.base import RegistrationError
from hybridreg.methods.linear.levels import Level, placement
from hybridreg.methods.linear.optimizer import minimized
from hybridreg.methods.linear.parameters import Family
from hybridreg.similarity import Measure

_MIN_OVERLAP = 0.25  # of the smaller image, as elastix requires of the fixed image
_SCALE, _PENALTY = np.log(1.4), 10.0
_ROUNDS = 3  # of weights; the second and third begin at the optimum, or nearly
_CHANGED = 0.002  # mean change of the weights that requires another round

Report = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class Dissimilarity:
    """Of fixed(x) and moving(M A(x)), with M a homogeneous matrix in LPS mm and A what comes
    before.
    """

    level: Level
    measure: Measure
    threads: int | None = None

    def at(self, matrix: np.ndarray) -> Weighted | None:
        """With each voxel weighted as both images see it under a matrix; None where too few do."""
        level = self.level
        if self._all_inside(matrix):
            return Weighted(self, level.weight, 1.0)
        seen = self._sampled(level.seen, matrix, border=1)[0]
        weight = seen if level.weight is None else seen * level.weight
        fixed, moving = self.volumes
        both = weight.sum().item() * math.prod(level.fixed_grid.spacing)
        if both < _MIN_OVERLAP * min(fixed, moving):
            return None
        return Weighted(self, weight, both / fixed)

    def value(self, matrix: np.ndarray) -> float:
        """The measure in the overlap; outside, the moving image counts as constant."""
        weighted = self.at(matrix)
        return np.inf if weighted is None else weighted.value(matrix)

    def _all_inside(self, matrix: np.ndarray) -> bool:
        if self.level.masked or self.level.displacement is not None:
            return False
        corners = self.level.fixed_grid.corners().numpy()
        moved = torch.from_numpy(corners @ matrix[:-1, :-1].T + matrix[:-1, -1])
        return bool(self.level.moving_grid.contains(moved).all())

    def _sampled(self, values: Tensor, matrix: np.ndarray, border: int = 0) -> Tensor:
        level = self.level
        into = self._placement(matrix, border)
        shape = level.fixed_grid.shape
        return sample(values, level.displacement, into, shape, threads=self.threads)

    def _placement(self, matrix: np.ndarray, border: int = 0) -> Placement:
        """Of the fixed voxels in the moving ones, around which lies a border of so many."""
        to_mm, to_voxel = self.frames
        inner = to_voxel @ matrix
        total = inner @ to_mm
        total[:-1, -1] += border
        return placement(total, inner[:-1, :-1])

    @cached_property
    def volumes(self) -> tuple[float, float]:
        """That are compared of the fixed and of the moving image, mm^D."""
        level = self.level
        fixed = (
            math.prod(level.fixed_grid.shape) if level.weight is None else level.weight.sum().item()
        )
        return (
            fixed * math.prod(level.fixed_grid.spacing),
            level.seen.sum().item() * math.prod(level.moving_grid.spacing),
        )

    @cached_property
    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """Fixed voxels to LPS mm, LPS mm to moving voxels."""
        level = self.level
        grids = level.fixed_grid.voxel_to_physical(), level.moving_grid.physical_to_voxel()
        return tuple(matrix.numpy() for matrix in grids)


@dataclass(frozen=True, eq=False)
class Weighted:
    """The dissimilarity with fixed weights, which makes it smooth in the matrix.

    overlap: the part of the fixed image's weight that the moving one sees.
    """

    whole: Dissimilarity
    weight: Tensor | None
    overlap: float

    def value(self, matrix: np.ndarray) -> float:
        """See ``Dissimilarity.value``."""
        level, measure = self.whole.level, self.whole.measure
        moved = self.whole._sampled(level.moving, matrix)
        found = measure(level.fixed, moved, self.weight).item()
        if self.overlap > 0.999:
            return found
        nothing = measure(level.fixed, torch.zeros_like(moved), self.weight).item()
        return self.overlap * found + (1 - self.overlap) * nothing

    def value_and_gradient(self, matrix: np.ndarray) -> tuple[float, np.ndarray]:
        """The measure, and its gradient by the first D rows of the matrix, shape (D, D+1)."""
        level = self.whole.level
        moved = self.whole._sampled(level.moving, matrix).requires_grad_()
        found = self.whole.measure(level.fixed, moved, self.weight)
        (adjoint,) = torch.autograd.grad(found, moved)
        into = self.whole._placement(matrix)
        first, steps, scales = placement_gradient(
            level.moving, level.displacement, into, adjoint, threads=self.whole.threads
        )
        to_mm, to_voxel = self.whole.frames
        inner = to_voxel[:-1, :-1].T
        gradient = inner @ np.concatenate([steps, first[:, None]], 1) @ to_mm.T
        gradient[:, :-1] += inner @ scales
        return found.item(), gradient

    def differs(self, other: Weighted) -> bool:
        if self.weight is None or other.weight is None:
            return abs(self.overlap - other.overlap) > _CHANGED
        change = (self.weight - other.weight).abs().mean() / self.weight.mean()
        return change.item() > _CHANGED


def fitted(
    dissimilarity: Dissimilarity,
    family: Family,
    start: np.ndarray,
    *,
    since: np.ndarray,
    iterations: int,
    tolerance: float,
    report: Report | None = None,
) -> np.ndarray:
    """The matrix of minimum dissimilarity, from a start, by BFGS over the family's parameters.

    since: the reference matrix for scales; beyond a factor of 1.4 they are penalized. tolerance: in
    voxels of the level. Weights are those of the start, and again of what was found from there.
    """
    tolerance_mm = tolerance * min(dissimilarity.level.fixed_grid.spacing)
    longest = 2 * max(dissimilarity.level.fixed_grid.spacing)
    parameters, weighted = np.zeros(family.count), dissimilarity.at(start)
    if weighted is None:
        raise RegistrationError(
            f"under the initial transform the overlap is less than {_MIN_OVERLAP:.0%} of the "
            "foreground of the smaller image (inside the masks, if any): they do not overlap "
            'enough; give another initial transform, search="always" or other masks'
        )
    done = 0

    def noted(_: int, value: float):
        nonlocal done
        done += 1
        if report is not None:
            report(done, value)

    for _ in range(_ROUNDS):

        def objective(parameters: np.ndarray, weighted=weighted) -> tuple[float, np.ndarray]:
            step = family.matrix(parameters)
            if np.linalg.det(step) <= 0:
                return np.inf, np.zeros(len(parameters))
            value, by_matrix = weighted.value_and_gradient(step @ start)
            if family.kind != "rigid":
                penalty, by_linear = _scale_penalty(step @ start, since)
                value += penalty
                by_matrix[:, :-1] += by_linear
            return value, family.gradient(parameters, by_matrix @ start.T)

        parameters = minimized(
            objective,
            parameters,
            iterations=iterations,
            tolerance=tolerance_mm,
            longest=longest,
            report=noted,
        )
        before, weighted = weighted, dissimilarity.at(family.matrix(parameters) @ start)
        if weighted is None or not weighted.differs(before):
            break
    return family.matrix(parameters) @ start


def _scale_penalty(matrix: np.ndarray, since: np.ndarray) -> tuple[float, np.ndarray]:
    """For principal scales beyond 1.4 and 1 / 1.4,
    and its gradient by the linear part of the matrix.
    """
    inverse = np.linalg.inv(since[:-1, :-1])
    left, scales, right = np.linalg.svd(matrix[:-1, :-1] @ inverse)
    logs = np.log(scales)
    beyond = np.sign(logs) * np.maximum(np.abs(logs) - _SCALE, 0)
    slopes = left @ np.diag(2 * _PENALTY * beyond / scales) @ right
    return _PENALTY * float(beyond @ beyond), slopes @ inverse.T
