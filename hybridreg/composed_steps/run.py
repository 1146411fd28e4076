"""From a pair and an initial transform to a map without folds and its inverse, over all levels."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from hybridreg import progress
from hybridreg.cases import ImagePair, warp_pair, with_field_of_view
from hybridreg.composed_steps.folds import unfolded
from hybridreg.composed_steps.levels import Level, between, levels
from hybridreg.composed_steps.settings import Settings
from hybridreg.geometry import Grid
from hybridreg.intensity import unit_pair
from hybridreg.kernels.inversion import inverted
from hybridreg.kernels.jacobians import determinants
from hybridreg.kernels.sampling import composed, sample
from hybridreg.momentum import along_axes, to_lps
from hybridreg.similarity import Measure
from hybridreg.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    affine_of,
    compose,
)
from hybridreg.warping import jacobian_determinant

log = logging.getLogger(__name__)

Listen = Callable[[int, float], None]
"""Called with the iteration and the dissimilarity."""

Improve = Callable[[Level, int, Tensor, int, Listen], Tensor]
"""A better displacement at a level: (level, number of coarser-to-finer steps still to come,
displacement, maximum number of iterations, callback)."""


def map_and_inverse(
    settings: Settings,
    pair: ImagePair,
    initial: Transform,
    improve: Improve,
    listen: Callable[[int, int, float], None],
) -> tuple[DisplacementField, DisplacementField]:
    """x -> x + u(x) without folds, to be followed by the initial transform, and its inverse.

    u is what ``improve`` finds at every level; ``listen`` is called with the level, the iteration
    and the dissimilarity. An affine initial transform is kept as it is; for any other the pair is
    resampled through it. The inverse is accurate to .01 voxel where it maps into the fixed image.
    """
    affine, grid = affine_of(initial, pair.dimension), pair.fixed.grid
    before = None if affine else DisplacementField.sampled(initial, grid)
    if before is not None:
        pair = warp_pair(with_field_of_view(pair, before), before)
    with torch.no_grad():
        start = affine or AffineTransform(torch.eye(pair.dimension + 1))
        along = _coarse_to_fine(settings, pair, start, improve, listen)
        along = _without_folds(along, grid, initial, before)
        back = inverted(along, grid.spacing)
    return tuple(DisplacementField(in_space(u, grid), grid) for u in (along, back))


def _coarse_to_fine(
    settings: Settings,
    pair: ImagePair,
    affine: AffineTransform,
    improve: Improve,
    listen: Callable[[int, int, float], None],
) -> Tensor:
    """The displacement u on the fixed grid of x -> A(x + u(x)), in mm along the grid's axes."""
    pair, iterations = unit_pair(pair) if settings.scaled else pair, settings.iterations
    found = levels(pair, affine, settings.spacing_mm, len(iterations), settings.device)
    stages = list(zip(found, iterations[-len(found) :], strict=True))
    costs = [level.fixed.data[0].numel() * most for level, most in stages]
    before = stages[0][0].fixed.grid
    displacement = stages[0][0].fixed.data.new_zeros(pair.dimension, *before.shape)
    for number, (level, most) in enumerate(stages):
        displacement = _onto(displacement, before, level.fixed.grid)
        before = level.fixed.grid

        def reported(iteration: int, value: float, number: int = number, most: int = most):
            listen(number, iteration, value)
            done = sum(costs[:number]) + costs[number] * iteration / most
            progress.report(done / sum(costs), f"level {number + 1} of {len(stages)}")

        displacement = improve(level, len(stages) - 1 - number, displacement, most, reported)
    return _onto(displacement, before, pair.fixed.grid)


def better_start(level: Level, displacement: Tensor, measure: Measure) -> Tensor:
    """The displacement found at coarser levels, or zero if that fits better at this level.

    Large voxels of two grids show different things, so they can mislead where images agree.
    """

    def value(u: Tensor) -> float:
        return measure(level.fixed.data, level.moved(u), level.weight(u)).item()

    zero = torch.zeros_like(displacement)
    return zero if value(zero) <= value(displacement) else displacement


class Descent:
    """The values of a level, the best map among them, and when their decrease has ended.

    tolerance: it has ended when the mean decrease over the last five iterations is less than this
    fraction of the total decrease.
    """

    _WINDOW = 5

    def __init__(self, tolerance: float, listen: Listen):
        self._tolerance, self._listen = tolerance, listen
        self._values: list[float] = []
        self._best: Tensor | None = None

    def ended(self, value: float, displacement: Tensor) -> bool:
        """Takes the value of a map; True if no further step is worth it."""
        self._listen(len(self._values), value)
        self._values.append(value)
        if value <= min(self._values):
            self._best = displacement
        if len(self._values) <= self._WINDOW:
            return False
        gained = (self._values[-1 - self._WINDOW] - value) / self._WINDOW
        return gained < self._tolerance * (self._values[0] - value)

    def result(self, displacement: Tensor) -> Tensor:
        """The map after the last step, if the last value was the best, else the best map.

        Steps have a length even if the images agree.
        """
        improved = len(self._values) > 1 and self._values[-1] <= min(self._values)
        return displacement if improved or self._best is None else self._best


def in_voxels(sigma: float, level: Level) -> tuple[float, ...]:
    """A length in units of the level's size, in voxels along every axis."""
    return tuple(sigma * level.size_mm / s for s in level.fixed.grid.spacing)


def in_space(along: Tensor, grid: Grid) -> Tensor:
    """Components in LPS of vectors along the axes of a grid, on the CPU."""
    return to_lps(along, grid).cpu()


def _onto(displacement: Tensor, of: Grid, at: Grid) -> Tensor:
    return displacement if of == at else sample(displacement, None, between(at, of), at.shape)


def _without_folds(
    along: Tensor, grid: Grid, initial: Transform, before: DisplacementField | None
) -> Tensor:
    """The displacement without folds, alone and after the initial transform, if that has none.

    before: the initial transform at every voxel, None for an affine. Folds are removed by it; then
    the initial transform itself is evaluated, which can take far longer, to verify that none is
    left.
    """

    def alone(u: Tensor) -> Tensor:
        return determinants(u, grid.spacing)

    def after_samples(u: Tensor) -> Tensor:
        return torch.minimum(alone(u), alone(composed(samples, u, grid.spacing)))

    def after(u: Tensor) -> Tensor:
        field = DisplacementField(in_space(u, grid), grid)
        found = jacobian_determinant(compose(initial, field), grid).data[0].to(u)
        return torch.minimum(alone(u), found)

    checks = [alone]
    if before is not None:
        samples = along_axes(before.vectors, grid).to(along)
        if alone(samples).min() > 0:
            checks = [after_samples, after]
        else:
            log.warning("the initial transform folds, and so will the result")
    for determinants_of in checks:
        along, folded = unfolded(along, determinants_of)
        if folded:
            log.info("%d folded voxels were smoothed", folded)
    return along
