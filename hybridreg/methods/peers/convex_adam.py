"""ConvexAdam (Siebert 2021): coupled convex search and Adam on MIND descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.checks import check_pair
from hybridreg.io.working_folder import working_folder
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers import process
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class ConvexAdam:
    """ConvexAdam's deformable registration after an affine, for any two contrasts.

    weight: of the smoothness of Adam's stage (lambda), larger for a smoother map. grid, search: voxels
    between the points of the convex search, and how many such steps it reaches. affine: the measure
    of hybridreg's affine before it; empty for none. python: see the package.
    """

    weight: float = 1.25
    grid: int = 6
    search: int = 4
    iterations: int = 80
    affine: str = "mi"
    threads: int | None = None
    python: str = ""
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def missing(self) -> str:
        """What to install before it can run; empty if nothing."""
        return process.not_installed("convexAdam", self.python)

    def versions(self) -> dict[str, str]:
        return {"convexAdam": process.installed("convexAdam", self.python)}

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        start = process.affine_start(pair, initial, self.affine, self.threads)
        job = {
            "lambda_weight": self.weight,
            "grid_sp": self.grid,
            "disp_hw": self.search,
            "selected_niter": self.iterations,
        }
        with working_folder("hybridreg-convex-adam-") as folder:
            process.write_pair(warp_pair(pair, start), folder)
            process.run_script(
                "run_convex_adam", folder, job, python=self.python, threads=self.threads
            )
            field = process.field_in_voxels(folder / "field.npy", pair.fixed.grid)
            return RegistrationResult(field).after(start)
