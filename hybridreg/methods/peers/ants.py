"""ANTs' SyN (Avants 2008), by its Python package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers.peer import Peer
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class AntsSyn(Peer):
    """ANTs' symmetric diffeomorphic registration after an affine.

    stages: "SyNOnly" for the deformable one, "SyN" with ANTs' own affine before it, "Rigid" for a
    rigid transform alone. metric: "mattes" for any two contrasts, "CC" for one, slower and closer.
    sampling: bins of mattes, radius in voxels of CC. iterations: per level, coarse to fine; the
    last is at full resolution. affine, python: see ``Peer``.
    """

    stages: Literal["SyNOnly", "SyN", "Rigid"] = "SyNOnly"
    metric: Literal["mattes", "CC"] = "mattes"
    sampling: int = 32
    iterations: tuple[int, ...] = (40, 20, 0)
    affine: str = "mi"
    seed: int = 1
    threads: int | None = None
    python: str = ""
    package: ClassVar[str] = "antspyx"

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        job = {
            "type_of_transform": self.stages,
            "initial_transform": "Identity" if self.stages == "SyNOnly" else None,
            "syn_metric": self.metric,
            "syn_sampling": self.sampling,
            "reg_iterations": self.iterations,
            "random_seed": self.seed,
        }
        return self.register_by("run_ants", job, pair, initial)
