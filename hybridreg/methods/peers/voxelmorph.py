"""VoxelMorph (Balakrishnan 2019) with the user's weights, by its package for torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.checks import check_pair
from hybridreg.io.transforms import read_transform
from hybridreg.io.working_folder import working_folder
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers import process
from hybridreg.methods.peers.weights import without_weights
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class VoxelMorph:
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
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def missing(self) -> str:
        """What to install or to name before it can run; empty if nothing."""
        where = "those of its authors are linked on the page of the package voxelmorph"
        absent = process.not_installed("voxelmorph", self.python)
        return absent or without_weights(self.weights, where)

    def versions(self) -> dict[str, str]:
        return {"voxelmorph": process.installed("voxelmorph", self.python)}

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        start = process.affine_start(pair, initial, self.affine, self.threads)
        job = {
            "weights": str(Path(self.weights).absolute()),
            "features": self.features,
            "orientation": self.orientation,
            "steps": self.steps,
        }
        with working_folder("hybridreg-voxelmorph-") as folder:
            process.write_pair(warp_pair(pair, start), folder)
            answer = process.run_script(
                "run_voxelmorph", folder, job, python=self.python, threads=self.threads
            )
            return RegistrationResult(read_transform(answer["field"])).after(start)
