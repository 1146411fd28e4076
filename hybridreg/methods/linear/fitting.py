"""The dissimilarity of a pair under a linear transform, its gradient, and quasi-Newton steps down it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from hybridreg.kernels.affine import placement_gradient
from hybridreg.kernels.sampling import sample
from hybridreg.methods.linear.levels import Level, placement
from hybridreg.methods.linear.parameters import Family
from hybridreg.similarity import Measure

_LEAST_OVERLAP = 0.25  # of the weight of the fixed image, as elastix asks for
_SCALE, _PENALTY = np.log(1.4), 10.0
_MEMORY = 12
_REFUSED = 1e6  # far above any measure: the line search turns back

Report = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class Dissimilarity:
    """Of fixed(x) and moving(M A(x)), with M a homogeneous matrix in LPS mm and A what comes before."""

    level: Level
    measure: Measure
    threads: int | None = None

    @property
    def _to_voxels(self) -> tuple[np.ndarray, np.ndarray]:
        """Fixed voxels to LPS mm, LPS mm to moving voxels."""
        return (
            self.level.fixed_grid.voxel_to_physical().numpy(),
            self.level.moving_grid.physical_to_voxel().numpy(),
        )

    def _placements(self, matrix: np.ndarray):
        """Into the moving image, and into what is seen of it, which has a border of one voxel."""
        to_mm, to_voxel = self._to_voxels
        total = to_voxel @ matrix @ to_mm
        scales = (to_voxel @ matrix)[:-1, :-1]
        bordered = total.copy()
        bordered[:-1, -1] += 1
        return placement(total, scales), placement(bordered, scales), total

    def _all_inside(self, total: np.ndarray) -> bool:
        if self.level.masked or self.level.displacement is not None:
            return False
        shape = np.array(self.level.fixed_grid.size) - 1.0
        corners = np.stack(np.meshgrid(*[(0.0, n) for n in shape]), -1).reshape(-1, len(shape))
        index = corners @ total[:-1, :-1].T + total[:-1, -1]
        last = np.array(self.level.moving_grid.size) - 1.0
        return bool(((index >= 0) & (index <= last)).all())

    def _weight(self, into_seen, total: np.ndarray) -> tuple[Tensor | None, float]:
        """Of each fixed voxel, and the part of the whole that is seen."""
        level = self.level
        if self._all_inside(total):
            return level.weight, 1.0
        shape = level.fixed_grid.shape
        seen = sample(level.seen, level.displacement, into_seen, shape, threads=self.threads)[0]
        if level.weight is None:
            return seen, seen.mean().item()
        weight = seen * level.weight
        return weight, (weight.sum() / level.weight.sum()).item()

    def value(self, matrix: np.ndarray) -> float:
        """The measure where both are seen; what is not seen counts as a moving image of one value."""
        level = self.level
        into, into_seen, total = self._placements(matrix)
        weight, overlap = self._weight(into_seen, total)
        if overlap < _LEAST_OVERLAP:
            return np.inf
        shape = level.fixed_grid.shape
        moved = sample(level.moving, level.displacement, into, shape, threads=self.threads)
        with torch.no_grad():
            found = self.measure(level.fixed, moved, weight).item()
            if overlap > 0.999:
                return found
            nothing = self.measure(level.fixed, torch.zeros_like(moved), weight).item()
        return overlap * found + (1 - overlap) * nothing

    def value_and_gradient(self, matrix: np.ndarray) -> tuple[float, np.ndarray]:
        """The measure where both are seen, and its gradient by the first D rows, shape (D, D+1).

        Infinite where too little is seen. The weights count as constant in the gradient.
        """
        level = self.level
        into, into_seen, total = self._placements(matrix)
        weight, overlap = self._weight(into_seen, total)
        d = len(matrix) - 1
        if overlap < _LEAST_OVERLAP:
            return np.inf, np.zeros((d, d + 1))
        shape = level.fixed_grid.shape
        moved = sample(level.moving, level.displacement, into, shape, threads=self.threads)
        moved.requires_grad_()
        found = self.measure(level.fixed, moved, weight)
        (adjoint,) = torch.autograd.grad(found, moved)
        first, steps, scales = placement_gradient(
            level.moving, level.displacement, into, adjoint, threads=self.threads
        )
        to_mm, to_voxel = self._to_voxels
        by_total = np.concatenate([steps, first[:, None]], 1)
        inner = to_voxel[:-1, :-1].T
        gradient = inner @ by_total @ to_mm.T
        gradient[:, :-1] += inner @ scales
        return found.item(), gradient


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
    """The matrix that is least dissimilar, from a start, by L-BFGS over the family's parameters.

    since: the matrix from which scales are counted; beyond 1.4 times they are penalized.
    """
    count = 0

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        step = family.matrix(parameters)
        value, by_matrix = dissimilarity.value_and_gradient(step @ start)
        if not np.isfinite(value) or np.linalg.det(step) <= 0:
            return _REFUSED, np.zeros(len(parameters))
        by_step = by_matrix @ start.T
        if family.kind != "rigid":
            penalty, by_linear = _scale_penalty(step @ start, since)
            value += penalty
            by_step[:, :-1] += by_linear @ start[:-1, :-1].T
        return value, family.gradient(parameters, by_step)

    def noted(intermediate_result):
        nonlocal count
        count += 1
        if report is not None:
            report(count, float(intermediate_result.fun))

    options = {"maxiter": iterations, "maxcor": _MEMORY, "ftol": tolerance, "gtol": 1e-7}
    found = minimize(
        objective, np.zeros(family.count), jac=True, method="L-BFGS-B", options=options, callback=noted
    )
    return family.matrix(found.x) @ start


def _scale_penalty(matrix: np.ndarray, since: np.ndarray) -> tuple[float, np.ndarray]:
    """For principal scales beyond 1.4 and 1 / 1.4, and its gradient by the linear part of the matrix."""
    inverse = np.linalg.inv(since[:-1, :-1])
    left, scales, right = np.linalg.svd(matrix[:-1, :-1] @ inverse)
    logs = np.log(np.maximum(scales, 1e-6))
    beyond = np.sign(logs) * np.maximum(np.abs(logs) - _SCALE, 0)
    slopes = left @ np.diag(2 * _PENALTY * beyond / np.maximum(scales, 1e-6)) @ right
    return _PENALTY * float(beyond @ beyond), slopes @ inverse.T
