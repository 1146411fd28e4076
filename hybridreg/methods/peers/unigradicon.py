"""uniGradICON (Tian 2024) with the user's weights, by its package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers.peer import Peer
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class UniGradIcon(Peer):
    """The uniGradICON network after an affine, without instance optimization unless asked for.

    weights: their file, as published. modality: how its package scales intensities. steps: of its
    instance optimization; 0 for none. affine: the measure of hybridreg's affine before it; empty
    for none. python: see the package.
    """

    weights: str = ""
    modality: Literal["mri", "ct"] = "mri"
    steps: int = 0
    affine: str = "mi"
    threads: int | None = None
    python: str = ""
    package: ClassVar[str] = "unigradicon"
    weights_from: ClassVar[str] = (
        "they are published as unigradicon_weights with the sources of uniGradICON"
    )
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        weights = str(Path(self.weights).absolute())
        job = {"weights": weights, "modality": self.modality, "steps": self.steps}
        return self.register_by("run_unigradicon", job, pair, initial)
