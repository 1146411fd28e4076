"""The gradient of samples with respect to the affine map that places them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import loops, over_slabs, vector_volume, volume
from hybridreg.kernels.sampling import Placement, pulled_back


def placement_gradient(
    values: Tensor,
    displacement: Tensor | None,
    placement: Placement,
    adjoint: Tensor,
    *,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the sum of samples times an adjoint (C, *shape): by ``first``, ``steps`` and ``scales``.

    Shapes (D,), (D, D) and (D, D), float64; the samples are those of ``sampling.sample``.
    """
    dimension = adjoint.ndim - 1
    given = [] if displacement is None else [displacement]
    if compiled := loops("affine", values, adjoint, *given):
        v, a = volume(values), volume(adjoint)
        vectors = vector_volume(displacement) if given else np.empty((0, 1, 1, 1), np.float32)
        arguments = v.reshape(len(v), -1), np.array(v.shape[1:]), vectors, *placement.arrays, a
        parts = over_slabs(compiled.gradient, a.shape[1:], *arguments, threads=threads)
        kept = np.array([0, 1, 2] if dimension == 3 else [0, 2])
        sums = np.sum(parts, 0)[kept]
        return sums[:, 0], sums[:, 1 + kept], sums[:, 4 + kept]
    return _by_torch(values, displacement, placement, adjoint)


def _by_torch(
    values: Tensor, displacement: Tensor | None, placement: Placement, adjoint: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slope at every voxel, in indices, then its products with what the numbers multiply."""
    shape, dimension = adjoint.shape[1:], adjoint.ndim - 1
    if displacement is None:
        displacement = adjoint.new_zeros(dimension, *shape)
    matrix = torch.tensor(placement.scales).to(displacement)
    in_voxels = torch.einsum("ab,b...->a...", matrix, displacement)
    ones = tuple(map(tuple, np.eye(dimension).tolist()))
    slopes = pulled_back(
        values, in_voxels, Placement(placement.first, placement.steps, ones), adjoint
    )
    slopes = slopes.double()
    axes = [torch.arange(n, dtype=torch.float64, device=slopes.device) for n in shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])  # (x, y, z)
    products = [
        torch.einsum("a...,b...->ab", slopes, factor) for factor in (index, displacement.double())
    ]
    return slopes.flatten(1).sum(1).cpu().numpy(), *(p.cpu().numpy() for p in products)
