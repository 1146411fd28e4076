"""Images in the voxels that a network was trained with, and its output in the voxels of the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.intensity import to_unit_fast
from hybridreg.io.checkpoints import Card
from hybridreg.kernels.sampling import Placement, sample
from hybridreg.kernels.smoothing import downsampled
from hybridreg.transforms import IDENTITY
from hybridreg.warping import warp

_COARSEST = 3.0  # voxels may be larger than in training by this factor
_SAME = 1e-3  # relative difference of spacings that needs no resampling

Network = Callable[[Tensor], Tensor]  # (1, *shape) -> (C, *shape)


@dataclass(frozen=True)
class TrainedLattice:
    """The input of a network, as in its card: dimension, voxels in mm and the intensity rule.

    upright: with the axes that are nearest to the patient's, for networks that know left from
        right.
    """

    dimension: int
    spacing_mm: float
    intensity: str
    upright: bool = False

    def check(self, grid: Grid):
        """Refuses images of another dimension and voxels too coarse for the network
        (ValueError).
        """
        if grid.dimension != self.dimension:
            raise ValueError(
                f"it is {grid.dimension}D and the weights of the descriptor are for "
                f"{self.dimension}D "
                "images: choose other weights, or train some"
            )
        if max(grid.spacing) > _COARSEST * self.spacing_mm:
            raise ValueError(
                f"its voxels measure up to {max(grid.spacing):g} mm and the descriptor was trained "
                f"with {self.spacing_mm:g} mm: use a descriptor that needs no training, "
                "such as mind, "
                "or train one with such voxels"
            )

    def described(self, image: Image, network: Network) -> list[Tensor]:
        """The network's output (C, *shape) for each channel of an image, on the image's grid."""
        self.check(image.grid)
        return [self._of_channel(Image(c, image.grid), network) for c in image.data]

    def _of_channel(self, image: Image, network: Network) -> Tensor:
        order, turned = self._axes(image.grid)
        grid = image.grid.with_axes(order, turned)
        values = self.values(image)
        found = network(values)
        factors = self._factors(grid)
        if factors is not None:
            found = _sampled_back(found, grid, factors)
        return found.flip([a + 1 for a in turned]).permute(0, *_inverse(order)).contiguous()

    def values(self, image: Image) -> Tensor:
        """The input of the network for an image of one channel: (1, *shape), in [0, 1]."""
        order, turned = self._axes(image.grid)
        data = to_unit_fast(image, self.intensity).data
        data = data.permute(0, *(a + 1 for a in order)).flip([a + 1 for a in turned]).contiguous()
        factors = self._factors(image.grid.with_axes(order, turned))
        return data if factors is None else downsampled(data, factors)

    def labels(self, labels: LabelMap) -> Tensor:
        """A label map in the voxels of ``values``, (*shape), by nearest neighbor."""
        grid = labels.grid.with_axes(*self._axes(labels.grid))
        if self._factors(grid) is not None:
            grid = grid.with_spacing([self.spacing_mm] * self.dimension)
        return warp(labels, IDENTITY, onto=grid).data

    def _axes(self, grid: Grid) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return grid.upright_axes() if self.upright else (tuple(range(grid.dimension)), ())

    def _factors(self, grid: Grid) -> tuple[float, ...] | None:
        factors = tuple(self.spacing_mm / s for s in grid.spacing)
        return None if all(abs(f - 1) < _SAME for f in factors) else factors


def lattice_of(card: Card, dimension: int, *, upright: bool = False) -> TrainedLattice:
    """The lattice of the weights that a card describes (ValueError for a card without voxel
    size).
    """
    if not (card.spacing_mm or 0) > 0:
        raise ValueError(
            f"the card of these {card.kind} weights has no spacing_mm: train them again"
        )
    return TrainedLattice(dimension, card.spacing_mm, card.intensity_rule, upright)


def _sampled_back(values: Tensor, grid: Grid, factors: tuple[float, ...]) -> Tensor:
    """Values on a lattice with the center of a grid and voxels larger by factors, on that grid."""
    counts = values.shape[:0:-1]
    firsts = [
        (count - 1) / 2 - (n - 1) / 2 / f
        for n, count, f in zip(grid.size, counts, factors, strict=True)
    ]
    steps = [1 / f for f in factors]
    placement = Placement.along_axes(firsts, steps, [0.0] * len(steps))
    return sample(values.contiguous(), None, placement, grid.shape)


def _inverse(order: tuple[int, ...]) -> list[int]:
    return [order.index(axis) + 1 for axis in range(len(order))]


def over_slabs(values: Tensor, network: Network, *, reach: int, voxels: int = 1 << 22) -> Tensor:
    """A local network (1, *shape) -> (C, *shape), run slab by slab to limit its memory.

    reach: voxels to each side that one output voxel depends on. voxels: of a slab, without reach.
    """
    count, rows = values.shape[1], max(1, voxels // math.prod(values.shape[2:]))
    found = []
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        low = max(0, min(start - reach, count - 2 * reach - 1))  # as much as one output needs
        high = min(count, max(stop + reach, low + 2 * reach + 1))
        found.append(network(values[:, low:high])[:, start - low : stop - low])
    return torch.cat(found, 1)
