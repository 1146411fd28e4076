"""Diffeomorphic demons of several channels, symmetric in their forces (Vercauteren 2009)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.composed_steps.levels import Level
from hybridreg.composed_steps.run import (
    Descent,
    Listen,
    better_start,
    in_voxels,
    map_and_inverse,
)
from hybridreg.composed_steps.settings import check_settings
from hybridreg.kernels.demons import demons_step, exponential
from hybridreg.kernels.sampling import composed
from hybridreg.kernels.smoothing import smoothed
from hybridreg.methods.base import RegistrationResult, TraceEntry, check_overlap
from hybridreg.similarity import SSD
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class Demons:
    """Compares intensities, or the channels of descriptors, by squared differences.

    Each iteration finds a step v at every voxel (Gauss-Newton, all channels at once; see
    ``kernels.demons``), smooths it (fluid regularization), composes the map with exp(v), and
    smooths the map (diffusion regularization).

    spacing_mm: voxels of the finest level, but never finer than the fixed image's; each level
        before has voxels twice as large.
    iterations: maximum at each level, coarse to fine; a level ends earlier when the decrease per
        iteration is at most ``tolerance`` of its total decrease.
    step: maximum length of a step before it is smoothed, in voxels of the level.
    fluid_mm, diffusion_mm: sigma of the Gaussians that smooth each step and the map, in voxels of
        ``spacing_mm``; in larger voxels larger in proportion. Larger ones give a smoother map that
        fits the images less closely.
    scaled: scale one-channel images to [0, 1] by percentiles of their foreground first; images of
        several channels are never scaled.
    """

    spacing_mm: float = 1.0
    iterations: tuple[int, ...] = (50, 50, 50, 30)
    tolerance: float = 0.003
    step: float = 2.0
    fluid_mm: float = 1.0
    diffusion_mm: float = 1.0
    scaled: bool = True
    device: str = "cpu"

    def __post_init__(self):
        check_settings(
            self,
            positive=("spacing_mm", "step"),
            not_negative=("tolerance", "fluid_mm", "diffusion_mm"),
        )

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> A(x + u(x)), A the initial transform, u without folds.

        The inverse is accurate to .01 voxel where it maps into the fixed image.
        """
        check_pair(pair, initial)
        trace: list[TraceEntry] = []

        def listen(level: int, iteration: int, value: float):
            trace.append(TraceEntry("demons", level, iteration, {"squared difference": value}))

        fields = map_and_inverse(self, pair, initial, self._improved, listen)
        return RegistrationResult(*fields, trace=tuple(trace)).after(initial)

    def _improved(
        self, level: Level, coarser: int, displacement: Tensor, most: int, listen: Listen
    ) -> Tensor:
        displacement = better_start(level, displacement, SSD())
        weight = check_overlap(level.weight(displacement))
        fixed, spacing = level.fixed.data, level.fixed.grid.spacing
        fluid, diffusion = (
            in_voxels(sigma / self.spacing_mm, level)
            for sigma in (self.fluid_mm, self.diffusion_mm)
        )
        descent, measure = Descent(self.tolerance, listen), SSD()
        for _ in range(most):
            moved = level.moved(displacement)
            if descent.ended(measure(fixed, moved, weight).item(), displacement):
                break
            step = demons_step(fixed, moved, weight, spacing, self.step * level.size_mm)
            step = exponential(smoothed(step, fluid), spacing)
            displacement = smoothed(composed(displacement, step, spacing), diffusion)
        return descent.result(displacement)
