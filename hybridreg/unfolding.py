"""Removal of folds from B-spline deformations with minimal change."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from hybridreg.bsplines import weights
from hybridreg.kernels.matrices import determinant
from hybridreg.transforms import BSplineTransform, CompositeTransform, Transform, compose

logger = logging.getLogger(__name__)

_MIN_DETERMINANT, _AIM = 0.02, 0.06  # determinants below the first are increased to the second
_SAMPLES = 5  # per control interval and axis: the voxels of a 1 mm image under a 5 mm grid
_FRACTION = 0.5  # of a correction per round; a larger one converges faster and changes more
_ROUNDS = 500
_CHUNK = 4096  # cells at a time; their Jacobians then take some 20 MB


def unfolded(transform: Transform) -> Transform:
    """The transform with folds removed from every B-spline in it; everything else is unchanged.

    Wherever the Jacobian determinant of a spline, sampled five times per control interval and axis,
    is below 0.02, the control points around are moved by the smallest step that brings it to
    0.06 (projection onto the linearized constraint), repeatedly until none is left. A warning
    is logged if some remain after 500 rounds.
    """
    if isinstance(transform, CompositeTransform):
        return compose(*(unfolded(part) for part in transform.parts))
    return _unfolded_spline(transform) if isinstance(transform, BSplineTransform) else transform


def _unfolded_spline(spline: BSplineTransform) -> BSplineTransform:
    order, coefficients = spline.order, spline.coefficients.clone()
    basis = _derivatives(spline)
    number = torch.arange(coefficients[0].numel()).reshape(coefficients.shape[1:])
    number = _by_cell(number[None], order)
    active = torch.ones(number.shape[: coefficients.ndim - 1], dtype=torch.bool)
    for _ in range(_ROUNDS):
        low = torch.zeros_like(active)
        correction, count = torch.zeros_like(coefficients), torch.zeros_like(coefficients[0])
        table = _by_cell(coefficients, order)
        for where in active.nonzero().split(_CHUNK):
            cells = where.unbind(-1)
            folded, step = _corrections(table[cells].flatten(2), basis)
            low[cells] = folded
            points = number[cells][folded].flatten()
            fraction = step.square().sum(1)
            fraction = fraction / fraction.amax(1, keepdim=True)
            count.view(-1).index_add_(0, points, fraction.flatten())
            correction.flatten(1).index_add_(1, points, step.movedim(1, 0).flatten(1))
        if not low.any():
            return BSplineTransform(coefficients, spline.grid, order)
        coefficients = coefficients + _FRACTION * correction / count.clamp(min=1)
        active = _grown(_grown(low, order, padding=order), order, padding=0)
    logger.warning("%d cells of a control grid remain folded", int(low.sum()))
    return BSplineTransform(coefficients, spline.grid, order)


def _by_cell(values: Tensor, order: int) -> Tensor:
    """The control points that act in each cell: (C, *control grid) -> (*cells, C, *neighbors)."""
    for axis in range(1, values.ndim):
        values = values.unfold(axis, order + 1, 1)
    return values.movedim(0, values.ndim // 2)


def _corrections(neighbors: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Which cells are folded, and the correction of each at its worst sample.

    neighbors: (cells, D, N); basis: (N, samples, D). Gives (cells,) and (folded cells, D, N).
    """
    _, samples, dimension = basis.shape
    gradient = (neighbors @ basis.flatten(1)).unflatten(2, (samples, dimension)).transpose(1, 2)
    jacobian = gradient + torch.eye(dimension, dtype=gradient.dtype)
    smallest, worst = determinant(jacobian.movedim((-2, -1), (0, 1))).min(1)
    folded = smallest < _MIN_DETERMINANT
    worst = worst[folded]
    slope = torch.einsum("ncb,knb->nck", _cofactors(jacobian[folded, worst]), basis[:, worst])
    size = (_AIM - smallest[folded]) / slope.square().sum((1, 2))
    return folded, size[:, None, None] * slope


def _cofactors(m: Tensor) -> Tensor:
    """d det(m) / dm."""
    if m.shape[-1] == 2:
        rows = m.flip(-2).flip(-1)
        return rows * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=m.dtype)
    a, b, c = m.unbind(-2)
    cross = torch.linalg.cross
    return torch.stack([cross(b, c), cross(c, a), cross(a, b)], -2)


def _derivatives(spline: BSplineTransform) -> Tensor:
    """d(du/dx) / d(a neighbor's displacement) at a cell's samples: (neighbors, samples, D)."""
    order, dimension = spline.order, spline.grid.dimension
    offset = (order - 1) / 2 + torch.arange(_SAMPLES, dtype=torch.float64) / _SAMPLES
    values = weights(offset, order)  # (samples, neighbors)
    one = torch.ones(_SAMPLES, 1, dtype=torch.float64)
    lower = weights(offset - 0.5, order - 1) if order > 1 else one
    slopes = torch.nn.functional.pad(lower, (1, 0)) - torch.nn.functional.pad(lower, (0, 1))
    by_axis = []
    for derived in range(dimension):  # (x, y, z) order; arrays are (z, y, x)
        product = torch.ones(1, 1, dtype=torch.float64)
        for axis in reversed(range(dimension)):
            product = torch.kron(product, slopes if axis == derived else values)
        by_axis.append(product)
    index_by_mm = torch.linalg.inv(spline.grid.voxel_to_physical()[:-1, :-1])
    return torch.einsum("asn,ab->nsb", torch.stack(by_axis), index_by_mm)


def _grown(mask: Tensor, order: int, *, padding: int) -> Tensor:
    """Cells -> the control points that act in them (with padding), and back (without)."""
    pool = {2: torch.nn.functional.max_pool2d, 3: torch.nn.functional.max_pool3d}[mask.ndim]
    padded = torch.nn.functional.pad(mask[None, None].float(), [padding] * (2 * mask.ndim))
    return pool(padded, order + 1, stride=1)[0, 0] > 0
