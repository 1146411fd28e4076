"""VoxelMorph (Balakrishnan 2019) with the user's weights, by its package for torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers.peer import Peer
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class VoxelMorph(Peer):
    """A trained VoxelMorph network (``VxmPairwise``) after an affine, on images scaled to [0, 1].

    weights: a file of its state, read without running code. features: of each level of its U-Net.
    orientation: to where the voxel axes point in the images that it was trained on. steps: of the
    integration; 0 for a network of displacements. affine: the measure of hybridreg's affine before
    it; empty for none. python: see the package.
    """

    weights: str = ""
    features: tuple[int, ...] = (16, 16, 16, 16, 16)
    orientation: str = "RAS"
    steps: int = 5
    affine: str = "lncc"
    threads: int | None = None
    python: str = ""
    package: ClassVar[str] = "voxelmorph"
    weights_from: ClassVar[str] = (
        "those of its authors are linked on the page of the package voxelmorph"
    )
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        job = {
            "weights": str(Path(self.weights).absolute()),
            "features": self.features,
            "orientation": self.orientation,
            "steps": self.steps,
        }
        return self.register_by("run_voxelmorph", job, pair, initial)
