"""IMPACT (Boussot 2025): deformable registration on the features of a network, by its ITK module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers.peer import Peer
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class Impact(Peer):
    """IMPACT's coarse search and Adam on the features of the user's network, after an affine.

    weights: a TorchScript model that gives a list of feature maps; such a file runs code, so trust
        it.
    layers: which of them are compared. voxel_mm: of the images as the network sees them. distance:
    of features, such as "L2", "NCC" or "Cosine". weight: of the smoothness, larger for a smoother
    map.
    grid, search: voxels between the points of the search, and how many such steps it reaches.
    affine: the measure of hybridreg's affine before it; empty for none. python: see the package;
    the module needs a version of torch of its own.
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
    package: ClassVar[str] = "itk-impact"
    weights_from: ClassVar[str] = (
        "those of its authors are linked on the page of the package itk-impact"
    )
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        job = {
            "weights": str(Path(self.weights).absolute()),
            "layers": self.layers,
            "voxel_mm": self.voxel_mm,
            "both": {"Distance": [self.distance] * sum(self.layers)},
            "coarse": {"GridSpacing": self.grid, "DisplacementHalfWidth": self.search},
            "fine": {"NumberOfIterations": self.iterations, "RegularizationWeight": self.weight},
        }
        return self.register_by("run_impact", job, pair, initial)
