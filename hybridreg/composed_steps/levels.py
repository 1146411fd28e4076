"""Resolution levels: both images at each voxel size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.kernels.sampling import Placement, sample
from hybridreg.kernels.smoothing import downsampled
from hybridreg.transforms import AffineTransform

_FEWEST = 4  # voxels along an axis, where the image has them
_SHOWN = 0.02  # of the range of intensities: larger differences from the border are foreground
_MARGIN = 8  # finest voxels around the foreground
_LOOKED_AT_MM = 4.0  # spacing at which the foreground is determined


@dataclass(frozen=True, eq=False)
class Side:
    """One image of a level. data: (C, *grid.shape). weight: of each voxel, (1, *grid.shape),
    or None.
    """

    data: Tensor
    weight: Tensor | None
    grid: Grid

    def coarser(self, spacing: Sequence[float]) -> Side:
        if tuple(spacing) == self.grid.spacing:
            return self
        factors = tuple(new / old for new, old in zip(spacing, self.grid.spacing, strict=True))
        weight = None if self.weight is None else downsampled(self.weight, factors)
        return Side(downsampled(self.data, factors), weight, self.grid.with_spacing(spacing))

    @classmethod
    def of(cls, image: Image, mask: LabelMap | None, device: str, *, ends: bool = False) -> Side:
        """ends: give the outermost voxels no weight, since values repeat beyond them."""
        weight = None if mask is None else (mask.data != 0)[None].float()
        if ends:
            weight = torch.ones(1, *image.grid.shape) if weight is None else weight
            for axis in range(1, weight.ndim):
                weight.narrow(axis, 0, 1).zero_()
                weight.narrow(axis, weight.shape[axis] - 1, 1).zero_()
        return cls(image.data.to(device), None if weight is None else weight.to(device), image.grid)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Side:
        cut = (slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))
        weight = None if self.weight is None else self.weight[cut].contiguous()
        return Side(self.data[cut].contiguous(), weight, self.grid.crop(start, stop))


@dataclass(frozen=True, eq=False)
class Level:
    """Both images at one spacing, and the affine placement of fixed voxels in the moving image.

    Displacements are in mm along the axes of the fixed grid: a fixed voxel x corresponds to A(x +
    u(x)).
    """

    fixed: Side
    moving: Side
    size_mm: float
    placement: Placement

    def moved(self, displacement: Tensor) -> Tensor:
        return sample(self.moving.data, displacement, self.placement)

    def weight(self, displacement: Tensor) -> Tensor | None:
        """Of each fixed voxel (*shape): inside both masks and the moving field of view."""
        weight = None if self.fixed.weight is None else self.fixed.weight[0]
        if self.moving.weight is None:
            return weight
        seen = sample(self.moving.weight, displacement, self.placement)[0]
        return seen if weight is None else seen * weight


def levels(
    pair: ImagePair, affine: AffineTransform, finest_mm: float, count: int, device: str
) -> list[Level]:
    """From coarse to fine, each in voxels twice as large as the next one's.

    finest_mm: spacing of the last level, but along no axis finer than the fixed image's. Levels
    that would not be coarser than the next are left out.
    """
    sees_all = bool(pair.moving.grid.contains(affine(pair.fixed.grid.corners())).all())
    fixed = Side.of(pair.fixed, pair.fixed_mask, device)
    moving = Side.of(pair.moving, pair.moving_mask, device, ends=not sees_all)
    size = max(finest_mm, min(fixed.grid.spacing))
    fixed = fixed.crop(*_box(fixed, moving, affine, _MARGIN * size))
    found: list[Level] = []
    for _ in range(count):
        spacing = [_spacing(size, *axis) for axis in zip(fixed.grid.spacing, fixed.grid.extent)]
        coarse = fixed.coarser(spacing)
        if found and coarse.grid == found[-1].fixed.grid:
            break
        moving = moving.coarser(
            [_spacing(size, *axis) for axis in zip(moving.grid.spacing, moving.grid.extent)]
        )
        fixed = coarse
        placement = placed(fixed.grid, moving.grid, affine)
        found.append(Level(fixed, moving, size, placement))
        size *= 2
    return found[::-1]


def _spacing(size: float, voxel: float, extent: float) -> float:
    return max(voxel, min(size, extent / _FEWEST))


def placed(at: Grid, of: Grid, affine: AffineTransform) -> Placement:
    """The placement A(x + u) in a grid, for the voxels x of another and u in mm along its axes."""
    axes = torch.tensor(at.direction, dtype=torch.float64)
    linear = of.physical_to_voxel()[:-1, :-1] @ affine.linear @ axes
    total = of.physical_to_voxel() @ affine.matrix @ at.voxel_to_physical()
    steps = linear * torch.tensor(at.spacing, dtype=torch.float64)
    rows = [tuple(map(tuple, matrix.tolist())) for matrix in (steps, linear)]
    return Placement(tuple(total[:-1, -1].tolist()), *rows)


def between(at: Grid, of: Grid) -> Placement:
    """The placement of the voxels of a grid in another with the same axes."""
    identity = AffineTransform(torch.eye(at.dimension + 1))
    return placed(at, of, identity)


def _box(
    fixed: Side, moving: Side, affine: AffineTransform, margin_mm: float
) -> tuple[list[int], list[int]]:
    """The range of fixed voxels with the foreground of both images, and a margin."""
    spacing = [max(_LOOKED_AT_MM, s) for s in fixed.grid.spacing]
    grid = fixed.grid.with_spacing(spacing)
    shown = torch.zeros(grid.shape, dtype=torch.bool, device=fixed.data.device)
    for side, placement in (
        (fixed, between(grid, fixed.grid)),
        (moving, placed(grid, moving.grid, affine)),
    ):
        seen = sample(side.data, None, placement, grid.shape)
        for channel in seen:
            span = channel.max() - channel.min()
            shown |= (channel - channel.flatten()[0]).abs() > _SHOWN * span
    start, stop = [], []
    for axis, (count, voxel) in enumerate(zip(fixed.grid.shape, fixed.grid.spacing[::-1])):
        others = [a for a in range(shown.ndim) if a != axis]
        places = shown.sum(others).nonzero().flatten()
        coarse = grid.spacing[::-1][axis]
        reach = margin_mm + coarse  # what is shown may begin before the coarse voxel that shows it
        first, last = (
            (places[0].item(), places[-1].item()) if len(places) else (0, shown.shape[axis])
        )
        offset = ((count - 1) * voxel - (shown.shape[axis] - 1) * coarse) / 2
        start.append(max(0, round((offset + first * coarse - reach) / voxel)))
        stop.append(min(count, round((offset + last * coarse + reach) / voxel) + 1))
    return start, stop
