"""The descriptor of a trained stacked autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hybridreg.descriptors.autoencoder.network import KIND, StackedAutoencoder, autoencoder_of
from hybridreg.descriptors.base import image_of
from hybridreg.descriptors.trained_lattice import TrainedLattice, lattice_of
from hybridreg.descriptors.unit import unit
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.checkpoints import Checkpoint, read_checkpoint

_FLAT = 0.02  # of the descriptor of a patch less that of an empty one


@dataclass(frozen=True)
class Autoencoder:
    """What the patch around each voxel looks like, learned without labels (Wu 2016).

    The descriptor of an empty patch is subtracted, so that air has none. Centered and of unit norm.
    weights: packaged ones, or a file that ``hybridreg train sae`` has written. ValueError for
    images of another dimension, or of voxels much larger than in training.
    """

    weights: str = "sae-brain"

    def __post_init__(self):
        _ = self._checkpoint  # errors before any work

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return read_checkpoint(self.weights, kind=KIND)

    @cached_property
    def _network(self) -> StackedAutoencoder:
        return self._checkpoint.built(autoencoder_of)

    @property
    def _lattice(self) -> TrainedLattice:
        dimension = self._checkpoint.card.arguments.get("dimension", 3)
        return lattice_of(self._checkpoint.card, dimension)

    def check(self, grid: Grid):
        """Refuses images on grids that the weights were not trained for (ValueError)."""
        self._lattice.check(grid)

    def __call__(self, image: Image) -> Image:
        network = self._network
        empty = network.dense_of_empty()
        found = self._lattice.described(image, lambda v: unit(network.dense(v) - empty, flat=_FLAT))
        return image_of([unit(vectors, flat=_FLAT) for vectors in found], image)
