"""greedy (Yushkevich 2016): diffeomorphic registration on the processor, by its Python package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers.peer import Peer
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class Greedy(Peer):
    """greedy's deformable stage after an affine.

    metric, iterations: as its options -m and -n, coarse to fine; the default is that of its own
    documentation for brains, for images of one contrast. affine: the measure of hybridreg's affine
    before it; empty for none. python: see the package.
    """

    metric: str = "NCC 2x2x2"
    iterations: str = "100x50x10"
    affine: str = "lncc"
    threads: int | None = None
    python: str = ""
    package: ClassVar[str] = "picsl_greedy"

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        dimension = pair.dimension
        job = {
            "dimension": dimension,
            "metric": self.metric if dimension == 3 else self.metric.replace("2x2x2", "2x2"),
            "iterations": self.iterations,
            "threads": self.threads,
        }
        return self.register_by("run_greedy", job, pair, initial)
