"""uniGradICON (Tian 2024) with the user's weights, by its package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.checks import check_pair
from hybridreg.io.transforms import read_transform
from hybridreg.io.working_folder import working_folder
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers import process
from hybridreg.methods.peers.weights import without_weights
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class UniGradIcon:
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
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def missing(self) -> str:
        """What to install or to name before it can run; empty if nothing."""
        where = "they are published as unigradicon_weights with the sources of uniGradICON"
        absent = process.not_installed("unigradicon", self.python)
        return absent or without_weights(self.weights, where)

    def versions(self) -> dict[str, str]:
        return {"unigradicon": process.installed("unigradicon", self.python)}

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        start = process.affine_start(pair, initial, self.affine, self.threads)
        weights = str(Path(self.weights).absolute())
        job = {"weights": weights, "modality": self.modality, "steps": self.steps}
        with working_folder("hybridreg-unigradicon-") as folder:
            process.write_pair(warp_pair(pair, start), folder)
            answer = process.run_script(
                "run_unigradicon", folder, job, python=self.python, threads=self.threads
            )
            return RegistrationResult(read_transform(answer["field"])).after(start)
