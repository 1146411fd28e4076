"""Images sampled at displaced voxels, by linear interpolation; and displacements composed.

Where the voxels (x, y, z) of one lattice lie in another, and where they are displaced to, is a
``Placement``. Beyond the outermost voxels values repeat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.kernels.compiled import (
    along_axes,
    flat_vectors,
    loops,
    over_slabs,
    vector_volume,
    volume,
)


@dataclass(frozen=True)
class Placement:
    """index = first + steps i + scales u(i): of a displaced voxel i, in another lattice.

    first: D numbers; steps, scales: D rows of D; all in order (x, y, z).
    """

    first: tuple[float, ...]
    steps: tuple[tuple[float, ...], ...]
    scales: tuple[tuple[float, ...], ...]

    @classmethod
    def along_axes(cls, first, steps, scales) -> Placement:
        """Lattices of common axes: D numbers each."""
        matrices = (
            tuple(map(tuple, np.diag(np.asarray(v, float)).tolist())) for v in (steps, scales)
        )
        return cls(tuple(map(float, first)), *matrices)

    @classmethod
    def of_spacing(cls, spacing: tuple[float, ...]) -> Placement:
        """One lattice for both, and displacements in mm along its axes."""
        ones = [1.0] * len(spacing)
        return cls.along_axes([0.0] * len(spacing), ones, [1 / s for s in spacing])

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For the loops, which see volumes."""
        kept = [0, 1, 2] if len(self.first) == 3 else [0, 2]
        steps, scales = np.zeros((3, 3)), np.zeros((3, 3), np.float32)
        steps[np.ix_(kept, kept)], scales[np.ix_(kept, kept)] = self.steps, self.scales
        return np.array(along_axes(self.first, 0.0)), steps, scales


def sample(
    values: Tensor,
    displacement: Tensor | None,
    placement: Placement,
    shape: tuple[int, ...] | None = None,
    *,
    threads: int | None = None,
) -> Tensor:
    """Values (C, *their shape) at the displaced voxels of a lattice, shape (C, *shape).

    displacement: u, (D, *shape); None for none, and then ``shape`` is needed.
    """
    given = [] if displacement is None else [displacement]
    if compiled := loops("sampling", values, *given):
        return _looped(compiled, values, displacement, placement, shape, threads=threads)
    return _by_torch(values, displacement, placement, shape)


def composed(
    outer: Tensor, inner: Tensor, spacing: tuple[float, ...], *, threads: int | None = None
) -> Tensor:
    """The displacement of x -> outer(inner(x)): v + u(x + v), of u and v (D, *shape) in mm."""
    placement = Placement.of_spacing(spacing)
    if compiled := loops("sampling", outer, inner):
        return _looped(compiled, outer, inner, placement, added=True, threads=threads)
    return inner + _by_torch(outer, inner, placement, None)


def pulled_back(
    values: Tensor,
    displacement: Tensor,
    placement: Placement,
    adjoint: Tensor,
    *,
    threads: int | None = None,
) -> Tensor:
    """The gradient (D, *shape), by the displacement, of the samples (C,
    *shape) times an adjoint.
    """
    if compiled := loops("sampling", values, displacement, adjoint):
        vectors = vector_volume(displacement)
        out, v = np.empty_like(vectors), volume(values)
        arguments = v.reshape(len(v), -1), np.array(v.shape[1:]), vectors, *placement.arrays
        over_slabs(
            compiled.pulled_back, out.shape[1:], *arguments, volume(adjoint), out, threads=threads
        )
        return flat_vectors(out, displacement.ndim - 1)
    with torch.enable_grad():
        displacement = displacement.detach().requires_grad_()
        found = _by_torch(values.detach(), displacement, placement, None)
        return torch.autograd.grad(found, displacement, adjoint)[0]


def gradients(
    values: Tensor,
    displacement: Tensor,
    placement: Placement,
    adjoint: Tensor,
    *,
    threads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``pulled_back``, and the gradient by the values, (C, *their shape)."""
    if compiled := loops("scattering", values, displacement, adjoint):
        vectors, v = vector_volume(displacement), volume(values)
        out, by_values = np.empty_like(vectors), torch.zeros(values.shape)
        arguments = v.reshape(len(v), -1), np.array(v.shape[1:]), vectors, *placement.arrays
        parts = over_slabs(
            compiled.gradients,
            out.shape[1:],
            *arguments,
            volume(adjoint),
            out,
            least=LEAST_SCATTERED,
            threads=threads,
        )
        add_parts(parts, volume(by_values))
        return flat_vectors(out, displacement.ndim - 1), by_values
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in (displacement, values)]
        found = _by_torch(inputs[1], inputs[0], placement, None)
        return torch.autograd.grad(found, inputs, adjoint)


LEAST_SCATTERED = 8
"""Slices of a slab that adds to values: it also reaches into some slices before and after."""


def add_parts(parts: Iterable[tuple[np.ndarray, int]], out: np.ndarray):
    """Adds to (C, z, y, x) what each slab found for some slices, given with their first."""
    for part, first in parts:
        out[:, first : first + part.shape[1]] += part


def _looped(
    compiled,
    values: Tensor,
    displacement: Tensor | None,
    placement: Placement,
    shape: tuple[int, ...] | None = None,
    *,
    added: bool = False,
    threads: int | None = None,
) -> Tensor:
    if displacement is None:
        vectors = np.empty((0, 1, 1, 1), np.float32)
    else:
        vectors, shape = vector_volume(displacement), displacement.shape[1:]
    v = vector_volume(values) if added else volume(values)
    size = tuple(shape) if len(shape) == 3 else (shape[0], 1, shape[1])
    out = np.empty((len(v), *size), np.float32)
    arguments = v.reshape(len(v), -1), np.array(v.shape[1:]), vectors, *placement.arrays
    over_slabs(compiled.sample, size, *arguments, added, out, threads=threads)
    if added:
        return flat_vectors(out, len(shape))
    return torch.from_numpy(out.reshape(len(v), *shape))


def _by_torch(
    values: Tensor,
    displacement: Tensor | None,
    placement: Placement,
    shape: tuple[int, ...] | None,
) -> Tensor:
    shape = tuple(displacement.shape[1:] if displacement is not None else shape)
    dimension = len(shape)
    size = values.shape[:0:-1]  # (x, y, z) order
    coordinates = []
    for axis in range(dimension):
        index = values.new_full((), placement.first[axis])
        for along, step in enumerate(placement.steps[axis]):
            where = [1] * dimension
            where[dimension - 1 - along] = -1
            steps = torch.arange(shape[dimension - 1 - along], device=values.device)
            index = index + (steps.to(torch.float64) * step).to(values).reshape(where)
        if displacement is not None:
            scales = placement.scales[axis]
            index = index + sum(s * u for s, u in zip(scales, displacement, strict=True) if s)
        coordinates.append((2 * index + 1) / size[axis] - 1)
    grid = torch.stack(torch.broadcast_tensors(*coordinates), -1).expand(*shape, dimension)
    found = F.grid_sample(
        values[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[0]
