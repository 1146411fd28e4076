"""IMPACT (Boussot 2025): deformable registration on the features of a network, by its ITK module."""

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
class Impact:
    """IMPACT's coarse search and Adam on the features of the user's network, after an affine.

    weights: a TorchScript model that gives a list of feature maps; such a file runs code, so trust it.
    layers: which of them are compared. voxel_mm: of the images as the network sees them. distance:
    of features, such as "L2", "NCC" or "Cosine". weight: of the smoothness, larger for a smoother map.
    grid, search: voxels between the points of the search, and how many such steps it reaches. affine:
    the measure of hybridreg's affine before it; empty for none. python: see the package; the module
    needs a version of torch of its own.
    """

    weights: str = ""
    layers: tuple[bool, ...] = (True,)
    voxel_mm: float = 1.0
    distance: str = "L2"
    weight: float = 1.25
    grid: int = 4
    search: int = 3
    iterations: int = 80
    affine: str = "mi"
    threads: int | None = None
    python: str = ""
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def missing(self) -> str:
        """What to install or to name before it can run; empty if nothing."""
        where = "those of its authors are linked on the page of the package itk-impact"
        absent = process.not_installed("itk-impact", self.python)
        return absent or without_weights(self.weights, where)

    def versions(self) -> dict[str, str]:
        return {"itk-impact": process.installed("itk-impact", self.python)}

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        start = process.affine_start(pair, initial, self.affine, self.threads)
        job = {
            "weights": str(Path(self.weights).absolute()),
            "layers": self.layers,
            "voxel_mm": self.voxel_mm,
            "both": {"Distance": [self.distance] * sum(self.layers)},
            "coarse": {"GridSpacing": self.grid, "DisplacementHalfWidth": self.search},
            "fine": {"NumberOfIterations": self.iterations, "RegularizationWeight": self.weight},
        }
        with working_folder("hybridreg-impact-") as folder:
            process.write_pair(warp_pair(pair, start), folder)
            answer = process.run_script(
                "run_impact", folder, job, python=self.python, threads=self.threads
            )
            return RegistrationResult(read_transform(answer["field"])).after(start)
