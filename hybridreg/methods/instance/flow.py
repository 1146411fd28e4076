"""Gradient descent by small steps, each composed with the map so far (compositive updates).

For u <- u o (id + v) + v the gradient at v = 0 is that of the measure by the moved image, times the
gradient of the moved image itself: the moving image is sampled once an iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.composed_steps.levels import Level
from hybridreg.composed_steps.run import Descent, Listen, in_voxels
from hybridreg.kernels.jacobians import determinants
from hybridreg.kernels.sampling import composed
from hybridreg.kernels.smoothing import smoothed
from hybridreg.kernels.steps import force, gathered, limited
from hybridreg.similarity import Measure

_MIN_DETERMINANT = 0.1  # determinant of a step: none folds
_SHORTER = 0.7


@dataclass(frozen=True)
class Flow:
    """The update rule; lengths in voxels of the level.

    step: maximum length. soft: gradient length, relative to its typical length, at which a step has
    about half of it. momentum: of the last gradients. gradient_sigma, map_sigma: of the Gaussians
    that smooth the gradient and the map, at every iteration.
    """

    step: float
    soft: float
    momentum: float
    gradient_sigma: float
    map_sigma: float
    tolerance: float

    def run(
        self,
        level: Level,
        displacement: Tensor,
        weight: Tensor | None,
        measure: Measure,
        iterations: int,
        listen: Listen,
    ) -> Tensor:
        """The displacement (D, *shape), in mm along the axes of the level, after some iterations.

        Stops earlier when the mean decrease over the last five is less than ``tolerance`` of the
        total decrease. Returns the best map found: steps have a length even if the images agree.
        """
        spacing = level.fixed.grid.spacing
        descent, gathering = Descent(self.tolerance, listen), None
        for _ in range(iterations):
            value, gradient = self._gradient(level, displacement, weight, measure)
            if descent.ended(value, displacement):
                break
            gathering, length = gathered(gathering, gradient, self.momentum)
            step = limited(gathering, -self.step * level.size_mm, self.soft * length)
            while determinants(step, spacing).min() < _MIN_DETERMINANT:
                step.mul_(_SHORTER)
            displacement = composed(displacement, step, spacing)
            displacement = smoothed(displacement, in_voxels(self.map_sigma, level))
        return descent.result(displacement)

    def _gradient(
        self, level: Level, displacement: Tensor, weight: Tensor | None, measure: Measure
    ) -> tuple[float, Tensor]:
        moved = level.moved(displacement).requires_grad_()
        with torch.enable_grad():
            value = measure(level.fixed.data, moved, weight)
            (by_moved,) = torch.autograd.grad(value, moved)
        gradient = force(by_moved, moved.detach(), level.fixed.grid.spacing)
        return value.item(), smoothed(gradient, in_voxels(self.gradient_sigma, level))
