"""Registration by composed small steps, from coarse to fine, with a final map without folds."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridreg import progress
from hybridreg.cases import ImagePair, warp_pair, with_field_of_view
from hybridreg.checks import check_pair
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.intensity import to_unit
from hybridreg.kernels.inversion import inverted
from hybridreg.kernels.jacobians import determinants
from hybridreg.kernels.sampling import sample
from hybridreg.methods.base import RegistrationError, RegistrationResult, TraceEntry
from hybridreg.methods.instance.flow import Flow
from hybridreg.methods.instance.levels import between, levels
from hybridreg.methods.instance.unfolding import unfolded
from hybridreg.similarity import LNCC, Measure
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    DisplacementField,
    Transform,
    affine_of,
    compose,
    parts_of,
)
from hybridreg.warping import jacobian_determinant

_PERCENTILES_MM, _PERCENTILES_FEWEST = 3.0, 16  # distance, and voxels along an axis

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instance:
    """Registers by composed small steps (as in Avants 2008), after an affine alignment.

    smoothness: 1 as tuned on brains; larger gives a smoother map that fits the images less closely.
    similarity: a measure, such as LNCC(radius=2) with its radius in voxels of each level.
    spacing_mm: voxels of the finest level, but never finer than the fixed image's; each level before has
        voxels twice as large.
    iterations: maximum at each level, coarse to fine; a level ends earlier when the decrease per
        iteration is at most ``tolerance`` of its total decrease.
    step: maximum step of an iteration, in voxels of the level. soft: with a larger value steps
        reach that length only at larger gradients. momentum: weight of the gradients before.
    gradient_sigma, map_sigma: of the Gaussians that smooth the gradient and the map at every iteration,
        in voxels of the level, times the smoothness. map_sigma_factor: by which the latter is larger at
        each coarser level.
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
        object.__setattr__(self, "iterations", tuple(self.iterations))
        if not self.iterations or min(self.iterations) < 1:
            raise ValueError(
                f"iterations needs a number of 1 or more for each level, found {self.iterations}"
            )
        for name in ("smoothness", "spacing_mm", "step", "soft", "map_sigma_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}")
        for name in ("tolerance", "gradient_sigma", "map_sigma"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum lies from 0 to below 1, found {self.momentum}")

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> A(x + u(x)), A the initial transform, u without folds.

        The inverse is accurate to .01 voxel where it maps into the fixed image.
        """
        check_pair(pair, initial)
        affine = affine_of(initial, pair.dimension)
        if affine is None:
            pair = warp_pair(with_field_of_view(pair, initial), initial)
        pair = self._prepared(pair)
        trace: list[TraceEntry] = []
        grid = pair.fixed.grid
        with torch.no_grad():
            placed = affine or AffineTransform(torch.eye(pair.dimension + 1))
            along = self._flow(pair, placed, trace)
            along = _without_folds(along, grid, initial if affine is None else IDENTITY)
            back = inverted(along, grid.spacing)
        fields = (DisplacementField(_in_space(u, grid), grid) for u in (along, back))
        return RegistrationResult(*fields, trace=tuple(trace)).after(initial)

    def _prepared(self, pair: ImagePair) -> ImagePair:
        if not self.scaled or pair.fixed.channels > 1:
            return pair
        return replace(pair, fixed=_to_unit(pair.fixed), moving=_to_unit(pair.moving))

    def _flow(self, pair: ImagePair, affine: AffineTransform, trace: list[TraceEntry]) -> Tensor:
        """The displacement on the fixed grid, in mm along its axes."""
        found = levels(pair, affine, self.spacing_mm, len(self.iterations), self.device)
        stages = list(zip(found, self.iterations[-len(found) :], strict=True))
        costs = [level.fixed.data[0].numel() * most for level, most in stages]
        before = stages[0][0].fixed.grid
        displacement = stages[0][0].fixed.data.new_zeros(pair.dimension, *before.shape)
        for number, (level, most) in enumerate(stages):
            displacement = _onto(displacement, before, level.fixed.grid)
            before = level.fixed.grid
            weight = _checked(level.weight(displacement))

            def listen(iteration: int, value: float, number: int = number, most: int = most):
                trace.append(TraceEntry("instance", number, iteration, {"dissimilarity": value}))
                done = sum(costs[:number]) + costs[number] * iteration / most
                progress.report(done / sum(costs), f"level {number + 1} of {len(stages)}")

            rule = self._rule(coarser=len(stages) - 1 - number)
            displacement = rule.run(level, displacement, weight, self.similarity, most, listen)
        return _onto(displacement, before, pair.fixed.grid)

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


def _to_unit(image: Image) -> Image:
    """As ``intensity.to_unit`` by percentiles, which are taken from every so many mm."""
    grid = image.grid
    steps = [
        max(1, min(round(_PERCENTILES_MM / s), n // _PERCENTILES_FEWEST))
        for s, n in zip(grid.spacing, grid.size, strict=True)
    ]
    few = image.data[(slice(None), *(slice(None, None, step) for step in reversed(steps)))]
    spacing = tuple(s * step for s, step in zip(grid.spacing, steps, strict=True))
    sampled = Image(few, Grid(few.shape[1:], spacing, grid.origin, grid.direction))
    _, scaling = to_unit(sampled, "percentiles")
    scaled = (image.data - scaling.low).mul_(1 / (scaling.high - scaling.low)).clamp_(0, 1)
    return replace(image, data=scaled)


def _checked(weight: Tensor | None) -> Tensor | None:
    if weight is not None and not weight.mean() > 1e-3:
        raise RegistrationError(
            "less than a thousandth of the fixed image overlaps the moving image "
            "(inside both masks, if any): start with an affine registration, or give other masks"
        )
    return weight


def _onto(displacement: Tensor, of: Grid, at: Grid) -> Tensor:
    return displacement if of == at else sample(displacement, None, between(at, of), at.shape)


def _without_folds(along: Tensor, grid: Grid, initial: Transform) -> Tensor:
    """The displacement without folds, alone and after the initial transform, if that has none."""

    def alone(u: Tensor) -> Tensor:
        return determinants(u, grid.spacing)

    def total(u: Tensor) -> Tensor:
        field = DisplacementField(_in_space(u, grid), grid)
        found = jacobian_determinant(compose(initial, field), grid).data[0].to(u)
        return torch.minimum(alone(u), found)

    determinants_of = alone
    if parts_of(initial):
        if jacobian_determinant(initial, grid).data.min() > 0:
            determinants_of = total
        else:
            log.warning("the initial transform folds, and so will the result")
    along, folded = unfolded(along, determinants_of)
    if folded:
        log.info("%d folded voxels were smoothed", folded)
    return along


def _in_space(along: Tensor, grid: Grid) -> Tensor:
    """Components in LPS of vectors along the axes of a grid, on the CPU."""
    axes = torch.tensor(grid.direction, dtype=torch.float64).to(along)
    return torch.einsum("ca,a...->c...", axes, along).cpu()
