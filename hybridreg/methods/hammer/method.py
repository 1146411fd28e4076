"""Registration by matched critical points, coarse to fine, symmetric in both images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.composed_steps.levels import Level
from hybridreg.composed_steps.run import (
    Descent,
    Listen,
    in_space,
    in_voxels,
    map_and_inverse,
)
from hybridreg.composed_steps.settings import check_settings
from hybridreg.geometry import Grid, apply_matrix
from hybridreg.kernels.demons import exponential
from hybridreg.kernels.sampling import composed
from hybridreg.kernels.smoothing import smoothed
from hybridreg.methods.base import Matches, RegistrationResult, TraceEntry, check_overlap
from hybridreg.methods.hammer.matching import Matched, Side, match
from hybridreg.methods.hammer.points import critical_points, distinctiveness
from hybridreg.similarity import SSD
from hybridreg.transforms import IDENTITY, DisplacementField, Transform


@dataclass(frozen=True)
class Hammer:
    """Matches attribute vectors at critical points of both images (after Shen and Davatzikos 2002).

    The attribute vectors are the channels of the pair, such as descriptors. In each round critical
    points of both images are compared with candidates around them in the other, first softly (a
    weighted mean of candidates), then with the most similar one counting most; matches that
    disagree with those around are left out; a smooth step follows the others, and is composed with
    the map.

    spacing_mm: voxels of the finest level, but never finer than the fixed image's; each level
        before has voxels twice as large.
    iterations: maximum number of rounds at each level, coarse to fine. The first round matches the
        most distinctive points alone, each further one more of them, the last all.
    tolerance: a level of many rounds ends earlier when the decrease per round is at most this
        fraction of its total decrease.
    cell: one critical point in a cube of so many voxels of the level. reach: distance to
        candidates, and
    radius: of the compared neighborhoods, in voxels of the level.
    step_mm, diffusion_mm: sigma of the Gaussians that interpolate the matches and smooth the map,
        in voxels of ``spacing_mm``; in larger voxels larger in proportion.
    scaled: scale one-channel images to [0, 1] by percentiles of their foreground first.
    """

    spacing_mm: float = 1.0
    iterations: tuple[int, ...] = (6, 6, 6, 6)
    tolerance: float = 0.003
    cell: int = 2
    reach: int = 2
    radius: int = 1
    step_mm: float = 1.2
    diffusion_mm: float = 0.85
    scaled: bool = True
    device: str = "cpu"

    def __post_init__(self):
        check_settings(
            self,
            positive=("spacing_mm", "cell", "reach", "step_mm"),
            not_negative=("tolerance", "radius", "diffusion_mm"),
        )

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> A(x + u(x)), A the initial transform, u without folds.

        With the matches of the last round. The inverse is accurate to .01 voxel where it maps into
        the fixed image.
        """
        check_pair(pair, initial)
        trace: list[TraceEntry] = []
        matches: list[Matches] = []

        def listen(level: int, iteration: int, value: float):
            trace.append(TraceEntry("hammer", level, iteration, {"squared difference": value}))

        def improve(level, coarser, displacement, most, listen):
            return self._improved(level, coarser, displacement, most, listen, matches)

        fields = map_and_inverse(self, pair, initial, improve, listen)
        return RegistrationResult(*fields, trace=tuple(trace), matches=matches[-1]).after(initial)

    def _improved(
        self,
        level: Level,
        coarser: int,
        displacement: Tensor,
        most: int,
        listen: Listen,
        matches: list[Matches],
    ) -> Tensor:
        weight = check_overlap(level.weight(displacement))
        fixed, grid = level.fixed.data, level.fixed.grid
        sigma, diffusion = (
            in_voxels(s / self.spacing_mm, level) for s in (self.step_mm, self.diffusion_mm)
        )
        descent, measure = Descent(self.tolerance, listen), SSD()
        points = self._points(fixed, weight)
        for number in range(most):
            moved = level.moved(displacement)
            if descent.ended(measure(fixed, moved, weight).item(), displacement):
                break
            sides = self._sides(fixed, moved, points, weight, (number + 1) / most)
            step, matched = match(sides, grid.shape, sigma)
            matches.append(_matches(matched, displacement, grid))
            spacing = step.new_tensor(grid.spacing)
            step = step.flip(0) * spacing.reshape(-1, *[1] * grid.dimension)
            step = exponential(step, grid.spacing)
            displacement = smoothed(composed(displacement, step, grid.spacing), diffusion)
        return descent.result(displacement)

    def _points(self, channels: Tensor, weight: Tensor | None) -> Tensor:
        return critical_points(distinctiveness(channels, self.radius), weight, self.cell)

    def _sides(
        self,
        fixed: Tensor,
        moved: Tensor,
        points: Tensor,
        weight: Tensor | None,
        fraction: float,
    ) -> tuple[Side, Side]:
        of_moved = self._points(moved, weight)
        chosen = [p[: math.ceil(fraction * len(p))] for p in (points, of_moved)]
        how = self.reach, self.radius
        return Side.of(fixed, moved, chosen[0], *how, 1), Side.of(moved, fixed, chosen[1], *how, -1)


def _matches(matched: tuple[Matched, Matched], displacement: Tensor, grid: Grid) -> Matches:
    """In LPS mm; in the moving image before the transform that the displacement follows."""
    field = DisplacementField(in_space(displacement, grid), grid)
    matrix = grid.voxel_to_physical()

    def place(index: Tensor) -> Tensor:
        return apply_matrix(matrix, index.flip(1).double().cpu())

    of_fixed, of_moved = ((place(m.points), place(m.points + m.offsets)) for m in matched)
    return Matches(
        torch.cat([of_fixed[0], of_moved[1]]),
        field(torch.cat([of_fixed[1], of_moved[0]])),
        torch.arange(len(of_fixed[0]) + len(of_moved[0])) < len(of_fixed[0]),
        torch.cat([m.kept for m in matched]).cpu(),
    )
