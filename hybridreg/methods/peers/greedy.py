"""greedy (Yushkevich 2016): diffeomorphic registration on the processor, by its Python package."""

from __future__ import annotations

from dataclasses import dataclass

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.checks import check_pair
from hybridreg.io.transforms import read_transform
from hybridreg.io.working_folder import working_folder
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers import process
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class Greedy:
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

    def missing(self) -> str:
        """What to install before it can run; empty if nothing."""
        return process.not_installed("picsl_greedy", self.python)

    def versions(self) -> dict[str, str]:
        return {"picsl_greedy": process.installed("picsl_greedy", self.python)}

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        start = process.affine_start(pair, initial, self.affine, self.threads)
        dimension = pair.dimension
        job = {
            "dimension": dimension,
            "metric": self.metric if dimension == 3 else self.metric.replace("2x2x2", "2x2"),
            "iterations": self.iterations,
            "threads": self.threads,
        }
        with working_folder("hybridreg-greedy-") as folder:
            process.write_pair(warp_pair(pair, start), folder)
            job["mask"] = pair.fixed_mask is not None
            answer = process.run_script(
                "run_greedy", folder, job, python=self.python, threads=self.threads
            )
            return RegistrationResult(read_transform(answer["field"])).after(start)
