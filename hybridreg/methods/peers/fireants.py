"""FireANTs (Jena 2024) on the processor: greedy diffeomorphic registration with Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationError, RegistrationResult
from hybridreg.methods.peers.peer import Peer
from hybridreg.transforms import IDENTITY, Transform

_SHORTEST = 32  # voxels, to which it enlarges coarser levels


@dataclass(frozen=True)
class FireAnts(Peer):
    """FireANTs' greedy deformable registration after an affine.

    loss: "cc" for images of one contrast, "mi" for any two. scales, iterations: of each level,
    coarse to fine. affine: the measure of hybridreg's affine before it; empty for none. python: see
    the package; its pinned SimpleITK needs an environment of its own.
    """

    loss: str = "cc"
    scales: tuple[int, ...] = (4, 2, 1)
    iterations: tuple[int, ...] = (200, 100, 50)
    affine: str = "lncc"
    threads: int | None = None
    python: str = ""
    package: ClassVar[str] = "fireants"
    dimensions: ClassVar[tuple[int, ...]] = (3,)  # its files of 2D fields cannot be written

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        if min(pair.fixed.grid.shape) < _SHORTEST:
            raise RegistrationError(
                f"FireANTs takes no image shorter than {_SHORTEST} voxels, and the fixed one has "
                f"{' x '.join(map(str, pair.fixed.grid.shape[::-1]))}: leave the method out"
            )
        job = {"scales": self.scales, "iterations": self.iterations, "loss_type": self.loss}
        return self.register_by("run_fireants", job, pair, initial)
