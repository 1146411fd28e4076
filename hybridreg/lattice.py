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
from hybridreg.kernels.compiled import loops
from hybridreg.kernels.matrices import Matrix, determinant
from hybridreg.kernels.sampling import Placement, pulled_back
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
    if not values.requires_grad and loops("sampling", values, displacement):
        return _Sampled.apply(displacement, values, _placement(at, of))
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


class _Sampled(torch.autograd.Function):
    """Sampling by the compiled kernels, with the gradient by the displacement alone."""

    @staticmethod
    def forward(ctx, displacement: Tensor, values: Tensor, placement: Placement):
        ctx.save_for_backward(displacement, values)
        ctx.placement = placement
        return placed(values, displacement, placement)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint: Tensor) -> tuple[Tensor, None, None]:
        displacement, values = ctx.saved_tensors
        return pulled_back(values, displacement, ctx.placement, adjoint), None, None


@lru_cache(maxsize=32)
def _placement(at: Lattice, of: Lattice) -> Placement:
    spacings = list(zip(at.spacing, of.spacing, strict=True))
    shifts = zip(at.first, of.first, of.spacing, strict=True)
    return Placement.along_axes(
        [(a - b) / h for a, b, h in shifts], [a / b for a, b in spacings], [1 / b for _, b in spacings]
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
    """[component][axis]: central differences per mm along the axes (x, y, z), periodic at the border."""
    by_axis = [
        _CentralDifference.apply(vectors, vectors.ndim - 1 - axis, h)
        for axis, h in enumerate(spacing)
    ]
    return [[slope[component] for slope in by_axis] for component in range(len(vectors))]


def jacobian(displacement: Tensor, spacing: tuple[float, ...]) -> Matrix:
    """Jacobian matrix of x -> x + u(x): [component][axis]."""
    slopes = derivatives(displacement, spacing)
    return [[slope + float(i == j) for j, slope in enumerate(row)] for i, row in enumerate(slopes)]


def solved(m: Matrix, right: Tensor) -> Tensor:
    """x with M x = right at every voxel, by Cramer's rule; right and x of shape (D, *shape)."""
    columns = range(len(m))
    swapped = (
        [[right[i] if j == k else m[i][j] for j in columns] for i in columns] for k in columns
    )
    return torch.stack([determinant(part) for part in swapped]) / determinant(m)


def inverted(displacement: Tensor, start: Tensor, lattice: Lattice, *, iterations: int = 6) -> Tensor:
    """The displacement of the inverse of x -> x + u(x), by Newton's method from a nearby start.

    For maps whose inverse is known but for interpolation, as a geodesic's; on any device, in the
    precision of what is given. Without a start there is ``kernels.inversion``. Each voxel keeps its
    best iterate, so folds do not affect other voxels.
    """
    slopes = torch.cat([torch.stack(row) for row in jacobian(displacement, lattice.spacing)])
    best, found = start, start
    least = torch.full_like(start[0], torch.inf)
    for _ in range(iterations):
        left = found + sample(displacement, found, lattice)
        distance = left.square().sum(0)
        best = torch.where(distance < least, found, best)
        least = torch.minimum(distance, least)
        there = sample(slopes, found, lattice).unflatten(0, (lattice.dimension, -1))
        step = solved([list(row) for row in there], left)
        longest = step.norm(dim=0).clamp(min=1e-12)
        found = found - step * (max(lattice.spacing) / longest).clamp(max=1.0)
    left = (found + sample(displacement, found, lattice)).square().sum(0)
    return torch.where(left < least, found, best)


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
    def _matrices(self) -> list[Tensor]:
        """(voxels at, voxels of) for x, y and z."""
        matrices = []
        for axis in range(self.of.dimension):
            last = self.of.size[axis] - 1
            place = (self.at.positions(axis) - self.of.first[axis]) / self.of.spacing[axis]
            place = place.clamp(0, last)
            hats = 1 - (place[:, None] - torch.arange(last + 1, dtype=torch.float64)).abs()
            matrices.append(hats.clamp(min=0).to(self.dtype).to(self.device))
        return matrices
