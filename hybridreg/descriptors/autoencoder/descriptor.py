"""The descriptor of a trained stacked autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hybridreg.descriptors.autoencoder.network import KIND, autoencoder_of
from hybridreg.descriptors.trained import TrainedDescriptor
from hybridreg.descriptors.unit import unit


@dataclass(frozen=True)
class Autoencoder(TrainedDescriptor):
    """What the patch around each voxel looks like, learned without labels (Wu 2016).

    The descriptor of an empty patch is subtracted, so that air has none. Centered and of unit norm.
    weights: packaged ones, or a file that ``hybridreg train sae`` has written. ValueError for
    images of another dimension, or of voxels much larger than in training.
    """

    weights: str = "sae-brain"

    KIND: ClassVar = KIND
    NETWORK: ClassVar = autoencoder_of
    FLAT: ClassVar = 0.02  # of the descriptor of a patch less that of an empty one

    def _described(self, values: Tensor) -> Tensor:
        return unit(self._network.dense(values) - self._network.dense_of_empty(), flat=self.FLAT)
