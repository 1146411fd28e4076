"""The descriptor of a trained anatomy encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hybridreg.descriptors.anatomy.network import KIND, AnatomyEncoder, encoder_of
from hybridreg.descriptors.base import image_of
from hybridreg.descriptors.trained_lattice import TrainedLattice, lattice_of
from hybridreg.descriptors.unit import unit
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.checkpoints import Checkpoint, read_checkpoint


@dataclass(frozen=True)
class Anatomy:
    """Which anatomical structure each voxel belongs to, as a unit vector; learned from labels.

    Needs no label of the images. For whole brains, stripped of the skull, in about the usual
    orientation. weights: packaged ones, or a file that ``hybridreg train anatomy`` has written.
    ValueError for 2D images, and for voxels much larger than in training.
    """

    weights: str = "anatomy-brain"

    def __post_init__(self):
        _ = self._checkpoint  # errors before any work

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return read_checkpoint(self.weights, kind=KIND)

    @cached_property
    def _network(self) -> AnatomyEncoder:
        return self._checkpoint.built(encoder_of)

    @property
    def _lattice(self) -> TrainedLattice:
        return lattice_of(self._checkpoint.card, 3, upright=True)

    def check(self, grid: Grid):
        """Refuses images on grids that the weights were not trained for (ValueError)."""
        self._lattice.check(grid)

    def __call__(self, image: Image) -> Image:
        found = self._lattice.described(image, self._network.dense)
        return image_of([unit(vectors) for vectors in found], image)
