"""ANTs' SyN (Avants 2008), by its Python package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.checks import check_pair
from hybridreg.io.transforms import read_transform
from hybridreg.io.working_folder import working_folder
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers import process
from hybridreg.transforms import IDENTITY, Transform, compose


@dataclass(frozen=True)
class AntsSyn:
    """ANTs' symmetric diffeomorphic registration after an affine.

    stages: "SyNOnly" for the deformable one, "SyN" with ANTs' own affine before it. metric: "mattes" for any two contrasts, "CC" for one, slower and closer. sampling: bins of
    mattes, radius in voxels of CC. iterations: per level, coarse to fine. affine: the measure of
    hybridreg's affine before it; empty for none. python: see the package.
    """

    stages: Literal["SyNOnly", "SyN"] = "SyNOnly"
    metric: Literal["mattes", "CC"] = "mattes"
    sampling: int = 32
    iterations: tuple[int, ...] = (40, 20, 0)
    affine: str = "mi"
    seed: int = 1
    threads: int | None = None
    python: str = ""

    def missing(self) -> str:
        """What to install before it can run; empty if nothing."""
        return process.not_installed("antspyx", self.python)

    def versions(self) -> dict[str, str]:
        return {"antspyx": process.installed("antspyx", self.python)}

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        start = process.affine_start(pair, initial, self.affine, self.threads)
        settings = {
            "type_of_transform": self.stages,
            "initial_transform": "Identity" if self.stages == "SyNOnly" else None,
            "syn_metric": self.metric,
            "syn_sampling": self.sampling,
            "reg_iterations": self.iterations,
            "random_seed": self.seed,
        }
        job = {"settings": settings, "mask": pair.fixed_mask is not None}
        with working_folder("hybridreg-ants-") as folder:
            process.write_pair(warp_pair(pair, start), folder)
            answer = process.run_script(
                "run_ants", folder, job, python=self.python, threads=self.threads
            )
            found = compose(*[read_transform(path) for path in reversed(answer["transforms"])])
            return RegistrationResult(found).after(start)
