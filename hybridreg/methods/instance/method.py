"""Registration by composed small steps, from coarse to fine, with a final map without folds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.composed_steps.levels import Level
from hybridreg.composed_steps.run import Listen, better_start, map_and_inverse
from hybridreg.composed_steps.settings import check_settings
from hybridreg.methods.base import RegistrationResult, TraceEntry, check_overlap
from hybridreg.methods.instance.flow import Flow
from hybridreg.similarity import LNCC, Measure
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class Instance:
    """Registers by composed small steps (as in Avants 2008), after an affine alignment.

    smoothness: 1 as tuned on brains; larger gives a smoother map that fits the images less closely.
    similarity: a measure, such as LNCC(radius=2) with its radius in voxels of each level.
    spacing_mm: voxels of the finest level, but never finer than the fixed image's; each level
        before has voxels twice as large.
    iterations: maximum at each level, coarse to fine; a level ends earlier when the decrease per
        iteration is at most ``tolerance`` of its total decrease.
    step: maximum step of an iteration, in voxels of the level. soft: with a larger value steps
        reach that length only at larger gradients. momentum: weight of the gradients before.
    gradient_sigma, map_sigma: of the Gaussians that smooth the gradient and the map at every
        iteration, in voxels of the level, times the smoothness. map_sigma_factor: by which the
        latter is larger at each coarser level.
    scaled: scale one-channel images to [0, 1] by percentiles of their foreground first; images of
        several channels are never scaled.
    """

    smoothness: float = 1.0
    similarity: Measure = LNCC(2)
    spacing_mm: float = 1.0
    iterations: tuple[int, ...] = (50, 50, 50, 50, 20)
    tolerance: float = 0.003
    step: float = 1.0
    soft: float = 1.6
    momentum: float = 0.9
    gradient_sigma: float = 1.0
    map_sigma: float = 0.87
    map_sigma_factor: float = 1.15
    scaled: bool = True
    device: str = "cpu"

    def __post_init__(self):
        check_settings(
            self,
            positive=("smoothness", "spacing_mm", "step", "soft", "map_sigma_factor"),
            not_negative=("tolerance", "gradient_sigma", "map_sigma"),
        )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum lies from 0 to below 1, found {self.momentum}")

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> A(x + u(x)), A the initial transform, u without folds.

        The inverse is accurate to .01 voxel where it maps into the fixed image.
        """
        check_pair(pair, initial)
        trace: list[TraceEntry] = []

        def listen(level: int, iteration: int, value: float):
            trace.append(TraceEntry("instance", level, iteration, {"dissimilarity": value}))

        fields = map_and_inverse(self, pair, initial, self._improved, listen)
        return RegistrationResult(*fields, trace=tuple(trace)).after(initial)

    def _improved(
        self, level: Level, coarser: int, displacement: Tensor, most: int, listen: Listen
    ) -> Tensor:
        displacement = better_start(level, displacement, self.similarity)
        weight = check_overlap(level.weight(displacement))
        rule = self._rule(coarser)
        return rule.run(level, displacement, weight, self.similarity, most, listen)

    def _rule(self, coarser: int) -> Flow:
        """coarser: levels between this one and the finest."""
        return Flow(
            self.step,
            self.soft,
            self.momentum,
            self.gradient_sigma * self.smoothness,
            self.map_sigma * self.map_sigma_factor**coarser * self.smoothness,
            self.tolerance,
        )
