"""ConvexAdam (Siebert 2021): coupled convex search and Adam on MIND descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers.peer import Peer
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class ConvexAdam(Peer):
    """ConvexAdam's deformable registration after an affine, for any two contrasts.

    weight: of the smoothness of Adam's stage (lambda), larger for a smoother map. grid, search:
    voxels between the points of the convex search, and how many such steps it reaches. affine: the
    measure of hybridreg's affine before it; empty for none. python: see the package.
    """

    weight: float = 1.25
    grid: int = 6
    search: int = 4
    iterations: int = 80
    affine: str = "mi"
    threads: int | None = None
    python: str = ""
    package: ClassVar[str] = "convexAdam"
    dimensions: ClassVar[tuple[int, ...]] = (3,)

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        job = {
            "lambda_weight": self.weight,
            "grid_sp": self.grid,
            "disp_hw": self.search,
            "selected_niter": self.iterations,
        }
        return self.register_by("run_convex_adam", job, pair, initial)
