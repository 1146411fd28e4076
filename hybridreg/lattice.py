"""Vectors and images on lattices with common axes: sampling, derivatives and resampling.

For methods that process all voxels many times: float32 or float64, multithreaded, differentiable.
Displacements are (D, *shape), components (x, y, z) along the voxel axes, in mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.geometry import Grid
from hybridreg.kernels import refined
from hybridreg.kernels.compiled import loops
from hybridreg.kernels.matrices import Matrix
from hybridreg.kernels.refined import Knots
from hybridreg.kernels.sampling import Placement, gradients, pulled_back
from hybridreg.kernels.sampling import sample as placed


@dataclass(frozen=True)
class Lattice:
    """Voxels along common axes.

    shape: array order. spacing: mm, (x, y, z) order. first: mm along each axis from a common origin
    to the first voxel, (x, y, z) order.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    first: tuple[float, ...]

    @classmethod
    def of(cls, grid: Grid, zero: Grid | None = None) -> Lattice:
        """The lattice of a grid, relative to the first voxel of another grid with the same axes."""
        origin, start, axes = (
            torch.tensor(values, dtype=torch.float64)
            for values in (grid.origin, (zero or grid).origin, grid.direction)
        )
        first = (origin - start) @ axes
        return cls(grid.shape, grid.spacing, tuple(first.tolist()))

    @property
    def dimension(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> tuple[int, ...]:
        return self.shape[::-1]

    def positions(self, axis: int) -> Tensor:
        """mm along axis 0 (x), 1 (y) or 2 (z) of every voxel, float64."""
        steps = torch.arange(self.size[axis], dtype=torch.float64)
        return self.first[axis] + self.spacing[axis] * steps


def sample(values: Tensor, displacement: Tensor, at: Lattice, of: Lattice | None = None) -> Tensor:
    """Linear interpolation of values (C, *of.shape) at x + u(x) for the voxels x of a lattice.

    displacement: u, shape (D, *at.shape). of: the lattice of the values, by default the same.
    Border values repeat outside.
    """
    of = of or at
    if loops("sampling", values, displacement):
        return _Sampled.apply(displacement, values, placement(at, of))
    scales, bases = _normalized(at, of, displacement.dtype, displacement.device)
    coordinates = [
        torch.add(base, shift, alpha=scale)
        for shift, scale, base in zip(displacement, scales, bases, strict=True)
    ]
    grid = torch.stack(coordinates, -1)
    # In 3D only the batch is split over the cores (torch 2.13), so the lattice is split into one.
    parts = torch.get_num_threads() if at.dimension == 3 else 1
    if at.shape[0] % parts:
        parts = 1
    found = F.grid_sample(
        values.expand(parts, *values.shape),
        grid.unflatten(0, (parts, -1)),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return found.movedim(0, 1).reshape(len(values), *at.shape)


def sample_through(
    values: Tensor, displacement: Tensor, to_fine: Resampling, of: Lattice
) -> Tensor:
    """As ``sample`` at the lattice ``to_fine.at``, by the displacement of a coarser one,
    ``to_fine.of``.
    """
    if not values.requires_grad and loops("refined", values, displacement):
        return _SampledThrough.apply(displacement, values, to_fine.knots, placement(to_fine.at, of))
    return sample(values, to_fine(displacement), to_fine.at, of)


class _SampledThrough(torch.autograd.Function):
    """Sampling by the compiled kernels, with the gradient by the displacement alone."""

    @staticmethod
    def forward(ctx, displacement: Tensor, values: Tensor, knots: Knots, placement: Placement):
        ctx.save_for_backward(displacement, values)
        ctx.knots, ctx.placement = knots, placement
        return refined.sample(values, displacement, knots, placement)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint: Tensor) -> tuple[Tensor, None, None, None]:
        displacement, values = ctx.saved_tensors
        found = refined.gradient(values, displacement, ctx.knots, ctx.placement, adjoint)
        return found, None, None, None


class _Sampled(torch.autograd.Function):
    """Sampling by the compiled kernels."""

    @staticmethod
    def forward(ctx, displacement: Tensor, values: Tensor, placement: Placement):
        ctx.save_for_backward(displacement, values)
        ctx.placement = placement
        return placed(values, displacement, placement)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint: Tensor) -> tuple[Tensor, Tensor | None, None]:
        displacement, values = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            return *gradients(values, displacement, ctx.placement, adjoint), None
        return pulled_back(values, displacement, ctx.placement, adjoint), None, None


@lru_cache(maxsize=32)
def placement(at: Lattice, of: Lattice) -> Placement:
    """Of the voxels of a lattice in another, with displacements in mm."""
    spacings = list(zip(at.spacing, of.spacing, strict=True))
    shifts = zip(at.first, of.first, of.spacing, strict=True)
    return Placement.along_axes(
        [(a - b) / h for a, b, h in shifts],
        [a / b for a, b in spacings],
        [1 / b for _, b in spacings],
    )


@lru_cache(maxsize=32)
def _normalized(
    at: Lattice, of: Lattice, dtype: torch.dtype, device: torch.device
) -> tuple[list[float], list[Tensor]]:
    """Normalized units per mm along (x, y, z), and normalized coordinates of a lattice's voxels."""
    scales = [2 / (count * spacing) for count, spacing in zip(of.size, of.spacing, strict=True)]
    bases = []
    for axis, scale in enumerate(scales):
        base = (at.positions(axis) - of.first[axis]) * scale + 1 / of.size[axis] - 1
        where = [1] * at.dimension
        where[at.dimension - 1 - axis] = -1
        bases.append(base.to(device, dtype).reshape(where))
    return scales, bases


def derivatives(vectors: Tensor, spacing: tuple[float, ...]) -> list[list[Tensor]]:
    """[component][axis]: central differences per mm along the axes (x, y, z),
    periodic at the border.
    """
    by_axis = [
        _CentralDifference.apply(vectors, vectors.ndim - 1 - axis, h)
        for axis, h in enumerate(spacing)
    ]
    return [[slope[component] for slope in by_axis] for component in range(len(vectors))]


def jacobian(displacement: Tensor, spacing: tuple[float, ...]) -> Matrix:
    """Jacobian matrix of x -> x + u(x): [component][axis]."""
    slopes = derivatives(displacement, spacing)
    return [[slope + float(i == j) for j, slope in enumerate(row)] for i, row in enumerate(slopes)]


class _CentralDifference(torch.autograd.Function):
    """(f(x + h) - f(x - h)) / 2h, periodic, so minus its own adjoint."""

    @staticmethod
    def forward(ctx, values: Tensor, axis: int, h: float) -> Tensor:
        ctx.axis, ctx.h = axis, h
        out, count = torch.empty_like(values), values.shape[axis]
        rows, into = values.movedim(axis, 0), out.movedim(axis, 0)
        torch.sub(rows[2:], rows[:-2], out=into[1:-1])
        into[0] = rows[1 % count] - rows[-1]
        into[-1] = rows[0] - rows[-2 % count]
        return out.mul_(1 / (2 * h))

    @staticmethod
    def backward(ctx, adjoint: Tensor) -> tuple[Tensor, None, None]:
        return -_CentralDifference.apply(adjoint.contiguous(), ctx.axis, ctx.h), None, None


@dataclass(frozen=True, eq=False)
class Resampling:
    """Separable linear interpolation from one lattice to another.

    Each axis is one small matrix, so the gradient is exact and equally fast. Border values repeat
    outside.
    """

    of: Lattice
    at: Lattice
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __call__(self, values: Tensor) -> Tensor:
        """Values (C, *of.shape) to (C, *at.shape)."""
        x, y, *z = self._matrices
        values = torch.matmul(y, torch.matmul(values, x.T))
        if z:
            rows = torch.matmul(z[0], values.flatten(-2))
            values = rows.unflatten(-1, values.shape[-2:])
        return values

    @cached_property
    def knots(self) -> Knots:
        axes = range(self.of.dimension)
        return Knots(tuple(self._places(axis).numpy() for axis in axes), self.of.size)

    def _places(self, axis: int) -> Tensor:
        """Continuous indices into the lattice ``of`` along an axis."""
        return (self.at.positions(axis) - self.of.first[axis]) / self.of.spacing[axis]

    @cached_property
    def _matrices(self) -> list[Tensor]:
        """(voxels at, voxels of) for x, y and z."""
        matrices = []
        for axis in range(self.of.dimension):
            last = self.of.size[axis] - 1
            place = self._places(axis).clamp(0, last)
            hats = 1 - (place[:, None] - torch.arange(last + 1, dtype=torch.float64)).abs()
            matrices.append(hats.clamp(min=0).to(self.dtype).to(self.device))
        return matrices
