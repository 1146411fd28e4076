"""Where LDDMM computes, from coarse to fine: images on their lattices, the momentum on its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from scipy import ndimage
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.lattice import Lattice, Resampling

MARGIN_MM = 12.0  # around what the images show: maps end there, and the other side begins
_SHOWN = 0.02  # of the range of intensities: what differs by more from the border is shown


@dataclass(frozen=True, eq=False)
class Level:
    """Images of one resolution, and where the momentum lies then.

    fixed, moving: shape (C, *shape), on lattices that share their axes and their zero.
    weight: of each fixed voxel, or None. seen: of each moving voxel, or None.
    momentum: its lattice, and ``grid`` the same in space; all levels' cover the same box.
    """

    fixed: Tensor
    moving: Tensor
    at: Lattice
    of: Lattice
    weight: Tensor | None
    seen: Tensor | None
    momentum: Lattice
    grid: Grid

    def to(self, device: str) -> Level:
        moved = {
            name: value.to(device)
            for name in ("fixed", "moving", "weight", "seen")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


def box_of(pair: ImagePair) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The voxels, from and to, of the fixed grid outside of which neither image shows anything.

    Both images on one grid.
    """
    shown = torch.zeros(pair.fixed.grid.shape, dtype=torch.bool)
    for image in (pair.fixed, pair.moving):
        for channel in image.data:
            border = channel.flatten()[0]
            span = channel.max() - channel.min()
            shown |= (channel - border).abs() > _SHOWN * span
    if not shown.any():
        shown[:] = True
    start, stop = [], []
    for axis in range(shown.ndim):
        others = tuple(a for a in range(shown.ndim) if a != axis)
        places = shown.any(others[0]) if len(others) == 1 else shown.amax(others)
        places = places.nonzero().flatten()
        start.append(int(places[0]))
        stop.append(int(places[-1]) + 1)
    return tuple(start), tuple(stop)


def momentum_grid(box: Grid, spacing_mm: float, coarsest_mm: float) -> tuple[Grid, tuple[int, ...]]:
    """The finest grid of the momentum, over a box and its margin, and by how much it can be halved.

    Along each axis as fine as asked for, or as the image is; the second value says how many voxels
    of it, along each axis (array order), the coarsest one joins.
    """
    spacing, count, joined = [], [], []
    for voxel, extent in zip(box.spacing, box.extent, strict=True):
        fine = max(spacing_mm, voxel)
        halvings = max(0, math.floor(math.log2(max(coarsest_mm / fine, 1.0)) + 1e-6))
        join = 2**halvings
        cells = math.ceil((extent + 2 * MARGIN_MM) / (fine * join))
        spacing.append(fine)
        joined.append(join)
        count.append(_fit_for_fourier(max(cells, 4)) * join)
    half = (torch.tensor(count, dtype=torch.float64) - 1) / 2 * torch.tensor(spacing).double()
    origin = box.center - torch.tensor(box.direction, dtype=torch.float64) @ half
    grid = Grid(tuple(count[::-1]), tuple(spacing), tuple(origin.tolist()), box.direction)
    return grid, tuple(joined[::-1])


def _fit_for_fourier(count: int) -> int:
    """The next even number without a prime factor above 13: transforms of that are as fast."""
    while True:
        rest = count
        for prime in (2, 3, 5, 7, 11, 13):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and count % 2 == 0:
            return count
        count += 1


def coarser(grid: Grid, factors: Sequence[int]) -> Grid:
    """The grid over the same box with so many voxels (array order) made one."""
    spacing = [s * f for s, f in zip(grid.spacing, reversed(factors), strict=True)]
    return grid.with_spacing(spacing)


def levels(
    pair: ImagePair, image_mm: Sequence[float], momentum_mm: Sequence[float]
) -> Iterator[Level]:
    """From coarse to fine; pair: both images on the fixed grid. Levels that repeat are left out.

    image_mm, momentum_mm: spacing at each level. Where images are twice as coarse as they are asked for,
    so is the momentum, and so on.
    """
    zero = pair.fixed.grid
    start, stop = box_of(pair)
    box = zero.crop(start, stop)
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
    """With an even number of voxels along the first axis, which is divided among the cores."""
    return grid.crop((0,) * grid.dimension, (grid.shape[0] + grid.shape[0] % 2, *grid.shape[1:]))


def _coarse_grid(grid: Grid, spacing: Sequence[float]) -> Grid:
    return grid if tuple(spacing) == grid.spacing else _even(grid.with_spacing(spacing))


def _onto(data: Tensor, of: Grid, at: Grid, zero: Grid) -> Tensor:
    """An image (C, ...) smoothed as its new spacing needs and resampled; beyond its border, its border."""
    sigma = [
        0.5 * math.sqrt(max((new / old) ** 2 - 1, 0.0))
        for new, old in zip(at.spacing, of.spacing, strict=True)
    ]
    if any(sigma):
        smooth = [ndimage.gaussian_filter(c, sigma[::-1], mode="nearest") for c in data.numpy()]
        data = torch.stack([torch.from_numpy(c) for c in smooth])
    if of.matches(at):
        return data
    return Resampling(Lattice.of(of, zero), Lattice.of(at, zero))(data).contiguous()
