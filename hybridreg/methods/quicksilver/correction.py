"""What the correction network learns: the momentum that a prediction missed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridreg.images import Image
from hybridreg.io.target_store import StoredTarget
from hybridreg.methods.quicksilver.orientation import upright
from hybridreg.methods.quicksilver.prediction import Predictor, upright_grid
from hybridreg.warping import warp


@dataclass(frozen=True, eq=False)
class Residual:
    """Stored cases as the correction network sees them (Yang 2017).

    The fixed image is warped back by the predicted geodesic, so both images are in the space of the
    moving one; the momentum is that of the case less the predicted one.
    """

    predictor: Predictor

    def __call__(self, case: StoredTarget, values: dict[str, Tensor]) -> dict[str, Tensor]:
        values, grid = upright(case, values), upright_grid(case.grid)
        momentum = self.predictor.momentum(
            self.predictor.network, values["fixed"], values["moving"]
        )
        found = self.predictor.shot(momentum, grid, grid)
        back = warp(Image(values["fixed"], grid), found.inverse(), onto=grid)
        return {**values, "fixed": back.data, "momentum": values["momentum"] - momentum}
