"""Displacements inverted, safeguarded: no voxel gets worse from one iteration to the next."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import along_axes, flat_vectors, loops, over_slabs, vector_volume
from hybridreg.kernels.jacobians import slope
from hybridreg.kernels.sampling import Placement, sample

_ITERATIONS = 20
_MIN_DETERMINANT = 0.05  # determinant under which a step follows the error itself


def inverted(
    displacement: Tensor,
    spacing: tuple[float, ...],
    *,
    tolerance: float = 0.01,
    threads: int | None = None,
) -> Tensor:
    """The displacement w of the inverse of x + u(x): w(y) + u(y + w(y)) = 0.

    Both have shape (D, *shape), in mm.

    For a whole lattice of displacements, without a start, in float32 and by compiled loops. Other
    transforms, and points in space, have ``transforms.NumericalInverse``.

    tolerance: in voxels; most errors are far smaller. Where the map folds, or leaves the lattice,
    the best that was found.
    """
    scale = displacement.new_tensor(spacing).reshape(-1, *[1] * (displacement.ndim - 1))
    if compiled := loops("inversion", displacement):
        vectors = vector_volume(displacement)
        u = np.zeros((*vectors.shape[1:], 4), np.float32)
        for component, (given, step) in enumerate(zip(vectors, along_axes(spacing), strict=True)):
            np.divide(given, step, out=u[..., component])
        out, numbers = np.empty_like(vectors), (np.float32(tolerance), _ITERATIONS)
        over_slabs(compiled.inverted, out.shape[1:], u, out, *numbers, threads=threads)
        return flat_vectors(out, len(displacement)).mul_(scale)
    return _by_torch(displacement / scale, tolerance) * scale


def _by_torch(u: Tensor, tolerance: float) -> Tensor:
    """Newton's method on all voxels at once; a step that makes a voxel worse is halved there."""
    placement = Placement.of_spacing((1.0,) * len(u))
    slopes = torch.cat([slope(u, u.ndim - 1 - axis, 1.0) for axis in range(len(u))])
    w = -u
    error = -(w + sample(u, w, placement))
    step = _newton(sample(slopes, w, placement), error)
    for _ in range(2 * _ITERATIONS):
        square = error.square().sum(0)
        if not (square > tolerance**2).any():
            break
        step = step / step.norm(dim=0).clamp(min=1)
        trial = w + step
        after = -(trial + sample(u, trial, placement))
        better = after.square().sum(0) < square
        w, error = torch.where(better, trial, w), torch.where(better, after, error)
        step = torch.where(better, _newton(sample(slopes, w, placement), error), step / 2)
    return w


def _newton(slopes: Tensor, error: Tensor) -> Tensor:
    """step with (1 + slopes) step = error; slopes (axis, component) first."""
    dimension = len(error)
    matrix = slopes.unflatten(0, (dimension, dimension)).movedim((1, 0), (-2, -1))
    matrix = matrix + torch.eye(dimension).to(matrix)
    steep = torch.linalg.det(matrix) < _MIN_DETERMINANT
    matrix = torch.where(steep[..., None, None], torch.eye(dimension).to(matrix), matrix)
    return torch.linalg.solve(matrix, error.movedim(0, -1)).movedim(-1, 0)
