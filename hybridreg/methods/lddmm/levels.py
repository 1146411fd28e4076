"""The resolution levels of LDDMM: the lattices of the images and of the momentum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.lattice import Lattice, Resampling
from hybridreg.momentum import coarser, momentum_grid
from hybridreg.network_inputs import shown_box
from hybridreg.preprocessing import antialiased


@dataclass(frozen=True, eq=False)
class Level:
    """Images at one resolution, and the lattice of the momentum.

    fixed, moving: shape (C, *shape), on lattices that share their axes and their zero.
    weight, moving_weight: of each fixed and each moving voxel, or None.
    momentum: its lattice, and ``grid`` the same in physical space; all levels cover the same box.
    """

    fixed: Tensor
    moving: Tensor
    at: Lattice
    of: Lattice
    weight: Tensor | None
    moving_weight: Tensor | None
    momentum: Lattice
    grid: Grid

    def to(self, device: str) -> Level:
        moved = {
            name: value.to(device)
            for name in ("fixed", "moving", "weight", "moving_weight")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


def levels(
    pair: ImagePair, image_mm: Sequence[float], momentum_mm: Sequence[float]
) -> Iterator[Level]:
    """From coarse to fine; pair: both images on the fixed grid. Levels that repeat are left out.

    image_mm, momentum_mm: spacing at each level. If images are twice as coarse as requested,
    so is the momentum, and so on.
    """
    zero = pair.fixed.grid
    box = shown_box(pair)
    voxel = min(zero.spacing)
    momentum_mm = [
        momentum * 2.0 ** math.floor(math.log2(max(1.0, voxel / image)) + 1e-6)
        for image, momentum in zip(image_mm, momentum_mm, strict=True)
    ]
    finest, joined = momentum_grid(box, momentum_mm[-1], max(momentum_mm))
    done = set()
    for image_spacing, momentum_spacing in zip(image_mm, momentum_mm, strict=True):
        factors = [
            min(join, max(1, 2 ** round(math.log2(max(momentum_spacing / fine, 1.0)))))
            for join, fine in zip(joined, reversed(finest.spacing), strict=True)
        ]
        momentum = coarser(finest, factors)
        spacing = tuple(max(image_spacing, s) for s in zero.spacing)
        if (spacing, momentum.shape) in done:
            continue
        done.add((spacing, momentum.shape))
        at, of = (_coarse_grid(grid, spacing) for grid in (_even(box), zero))
        masks = [
            None if mask is None else _onto((mask.data != 0)[None].float(), zero, grid, zero)[0]
            for mask, grid in ((pair.fixed_mask, at), (pair.moving_mask, of))
        ]
        yield Level(
            _onto(pair.fixed.data, zero, at, zero),
            _onto(pair.moving.data, zero, of, zero),
            Lattice.of(at, zero),
            Lattice.of(of, zero),
            *masks,
            Lattice.of(momentum, zero),
            momentum,
        )


def _even(grid: Grid) -> Grid:
    """The grid with an even number of voxels along the first axis, which the cores divide."""
    return grid.crop((0,) * grid.dimension, (grid.shape[0] + grid.shape[0] % 2, *grid.shape[1:]))


def _coarse_grid(grid: Grid, spacing: Sequence[float]) -> Grid:
    return grid if tuple(spacing) == grid.spacing else _even(grid.with_spacing(spacing))


def _onto(data: Tensor, of: Grid, at: Grid, zero: Grid) -> Tensor:
    """An image (C, ...) smoothed as its new spacing needs and resampled; beyond its border,
    its border.
    """
    data = antialiased(data, [new / old for new, old in zip(at.spacing, of.spacing, strict=True)])
    if of.matches(at):
        return data
    return Resampling(Lattice.of(of, zero), Lattice.of(at, zero))(data).contiguous()
