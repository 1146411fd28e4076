"""What descriptors by trained networks share: weights with a card, and the images these are for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from hybridreg.descriptors.base import image_of
from hybridreg.descriptors.trained_lattice import TrainedLattice, lattice_of
from hybridreg.descriptors.unit import unit
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.checkpoints import Checkpoint, read_checkpoint


@dataclass(frozen=True)
class TrainedDescriptor:
    """Abstract: a network's output at every voxel, centered and of unit norm.

    KIND: of the weights' card. NETWORK: makes the network of the card's arguments. FLAT: see
        ``unit``.
    UPRIGHT: see ``TrainedLattice``.
    """

    weights: str

    KIND: ClassVar[str]
    NETWORK: ClassVar[Callable[..., Any]]
    FLAT: ClassVar[float] = 1e-6
    UPRIGHT: ClassVar[bool] = False

    def __post_init__(self):
        _ = self._checkpoint  # errors before any work

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return read_checkpoint(self.weights, kind=self.KIND)

    @cached_property
    def _network(self):
        return self._checkpoint.built(type(self).NETWORK)

    @property
    def _lattice(self) -> TrainedLattice:
        card = self._checkpoint.card
        return lattice_of(card, card.arguments.get("dimension", 3), upright=self.UPRIGHT)

    def check(self, grid: Grid):
        """Refuses images on grids that the weights were not trained for (ValueError)."""
        self._lattice.check(grid)

    def __call__(self, image: Image) -> Image:
        found = self._lattice.described(image, self._described)
        return image_of([unit(vectors, flat=self.FLAT) for vectors in found], image)

    def _described(self, values: Tensor) -> Tensor:
        """(1, *shape) in the voxels of the training -> (C, *shape)."""
        return unit(self._network.dense(values), flat=self.FLAT)
