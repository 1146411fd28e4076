"""The descriptor of a trained anatomy encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hybridreg.descriptors.anatomy.network import KIND, encoder_of
from hybridreg.descriptors.trained import TrainedDescriptor


@dataclass(frozen=True)
class Anatomy(TrainedDescriptor):
    """Which anatomical structure each voxel belongs to, as a unit vector; learned from labels.

    Needs no label of the images. For whole brains, stripped of the skull, in about the usual
    orientation. weights: packaged ones, or a file that ``hybridreg train anatomy`` has written.
    ValueError for 2D images, and for voxels much larger than in training.
    """

    weights: str = "anatomy-brain"

    KIND: ClassVar = KIND
    NETWORK: ClassVar = encoder_of
    UPRIGHT: ClassVar = True

    def _described(self, values: Tensor) -> Tensor:
        return self._network.dense(values)
