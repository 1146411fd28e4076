"""LDDMM: registration by a geodesic of diffeomorphisms, optimized over its initial momentum."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hybridreg import progress
from hybridreg.cases import ImagePair, warp_pair, with_field_of_view
from hybridreg.checks import check_pair
from hybridreg.geodesics import GeodesicTransform, Kernel
from hybridreg.geometry import Grid
from hybridreg.intensity import to_unit
from hybridreg.lattice import Lattice
from hybridreg.methods.base import RegistrationError, RegistrationResult, TraceEntry
from hybridreg.methods.lddmm.energy import Energy, ImageTerm, refined
from hybridreg.methods.lddmm.levels import Level, levels
from hybridreg.methods.lddmm.optimizers import fixed_step, quasi_newton
from hybridreg.momentum import along_axes, ended, geodesic, to_lps
from hybridreg.shooting import Diverged, Operator, Shooter
from hybridreg.similarity import LNCC, Measure
from hybridreg.transforms import (
    IDENTITY,
    DisplacementField,
    Transform,
    compose,
    parts_of,
)
from hybridreg.warping import jacobian_determinant

log = logging.getLogger(__name__)

_ROUNDS, _A_FEW = 4, 8
_NEARLY_FOLDED = 0.1  # determinant between voxels of the momentum at which the last penalty sets in
_GENTLY = 0.1  # its first weight, of the one before: ten times as much costs .002 of Dice


@dataclass(frozen=True)
class Lddmm:
    """Registers by geodesic shooting (Miller 2006, Vialard 2012), after an affine alignment.

    kernel: the smoothness of velocities; see ``geodesics.Kernel``.
    sigma: of the dissimilarity; smaller fits the images more closely, with a larger deformation.
    sigma_factor: sigma is multiplied by it at each coarser level. At 1 the coarse levels overfit
        with rough momenta, from which the optimizer cannot recover at the next level.
    similarity: a measure, such as LNCC(radius=2) with its radius in voxels of each level.
    image_mm, momentum_mm: spacing of images and momentum at each level, coarse to fine; never
        finer than the fixed image's. If that is twice as coarse as requested, so is the momentum.
    iterations: maximum at each level; a level ends earlier when the decrease per iteration is at
        most ``tolerance`` of its total decrease.
    unfolding: weight of the folding penalty; see ``Energy``.
    band: fraction of the lattice's frequencies that the initial momentum has. Rougher momenta are
        transported with large interpolation errors, and the optimizer stagnates.
    steps, integrator: time steps of the geodesic, and their scheme: "euler", "midpoint" or "rk4".
    optimizer: "quasi-newton", or "fixed" for the published gradient descent with ``step``
        (Yang 2017).
    scaled: scale one-channel images to [0, 1] by percentiles of their foreground first; images of
        several channels are never scaled.
    """

    kernel: Kernel = Kernel(a=16.0, b=16.0, c=1.0, power=2.0)
    sigma: float = 0.03
    sigma_factor: float = 1.5
    similarity: Measure = LNCC(2)
    image_mm: tuple[float, ...] = (4.0, 2.0, 1.0)
    momentum_mm: tuple[float, ...] = (8.0, 4.0, 2.0)
    iterations: tuple[int, ...] = (60, 40, 40)
    tolerance: float = 0.003
    unfolding: float = 60.0
    band: float = 0.6
    steps: int = 5
    integrator: Literal["euler", "midpoint", "rk4"] = "euler"
    optimizer: Literal["quasi-newton", "fixed"] = "quasi-newton"
    step: float = 1e-3
    scaled: bool = True
    device: str = "cpu"

    def __post_init__(self):
        for name in ("image_mm", "momentum_mm", "iterations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.image_mm) == len(self.momentum_mm) == len(self.iterations) > 0:
            raise ValueError(
                "image_mm, momentum_mm and iterations need one number for each level, found "
                f"{self.image_mm}, {self.momentum_mm} and {self.iterations}"
            )
        for name in ("image_mm", "momentum_mm"):
            values = getattr(self, name)
            if min(values) <= 0 or list(values) != sorted(values, reverse=True):
                raise ValueError(f"{name} goes from coarse to fine in mm, found {values}")
        for name in ("sigma", "sigma_factor", "tolerance", "step", "band"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}")

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> A(phi^-1(x)), where A is the initial transform.

        If ``initial`` contains a geodesic of the same kernel (x -> A(phi^-1(x))), the optimization
        starts from its momentum. RegistrationError if the geodesic diverges.
        """
        check_pair(pair, initial)
        before, start = _continued(initial, self.kernel)
        aligned = self._prepared(warp_pair(with_field_of_view(pair, before), before))
        trace: list[TraceEntry] = []
        try:
            found = self._shoot(aligned, start, trace)
        except Diverged as error:
            raise RegistrationError(
                f"{error}: give a larger sigma, or more steps of time"
            ) from error
        return RegistrationResult(
            compose(before, found),
            inverse=compose(found.inverse(), before.inverse()),
            trace=tuple(trace),
        )

    def _prepared(self, pair: ImagePair) -> ImagePair:
        if not self.scaled or pair.fixed.channels > 1:
            return pair
        fixed, moving = (to_unit(image, "percentiles")[0] for image in (pair.fixed, pair.moving))
        return replace(pair, fixed=fixed, moving=moving)

    def _shoot(
        self, pair: ImagePair, start: GeodesicTransform | None, trace: list[TraceEntry]
    ) -> GeodesicTransform:
        found = levels(pair, self.image_mm, self.momentum_mm)
        stages = list(zip(found, self.iterations))  # fewer levels where the images are coarse
        if start is not None:
            stages = stages[-1:]  # coarser levels would lose detail of the initial geodesic
        white = None
        for number, (level, count) in enumerate(stages):
            level = level.to(self.device)
            shooter = self._shooter(level)
            if white is None:
                white = _first(shooter.operator, start, level.grid)
            else:
                white = refined(white, level.momentum.shape)
            sigma = self.sigma * self.sigma_factor ** (len(stages) - 1 - number)
            energy = self._energy(level, shooter, white, sigma)
            recorder = _Recorder(number, len(stages), count, trace)
            white = self._optimized(energy, white, count, recorder)
        if self.unfolding:
            white = self._unfolded(energy, white, level.grid, pair.fixed.grid, recorder)
        return geodesic(shooter, energy.momentum(white), level.grid, onto=pair.fixed.grid)

    def _unfolded(
        self, energy: Energy, white: Tensor, grid: Grid, onto: Grid, recorder: _Recorder
    ) -> Tensor:
        """Optimizes further with increasing folding penalties until no fixed voxel is folded.

        Of determinants at the voxels of the image: between those of the momentum they are lower.
        """
        finer = {"finer": energy.term.to_image, "min_determinant": _NEARLY_FOLDED}
        energy = replace(energy, unfolding=_GENTLY * energy.unfolding, **finer)
        for _ in range(_ROUNDS):
            if not _folded(energy, white, grid, onto):
                return white
            white = quasi_newton(
                energy,
                white,
                iterations=_A_FEW,
                tolerance=self.tolerance,
                callback=recorder.again(),
                until_unfolded=True,
            )
            energy = replace(energy, unfolding=10 * energy.unfolding)
        if folded := _folded(energy, white, grid, onto):
            log.warning("%d voxels of the fixed image remain folded", folded)
        return white

    def _shooter(self, level: Level) -> Shooter:
        operator = Operator(self.kernel, level.momentum, level.fixed.dtype, self.device)
        return Shooter(operator, self.steps, self.integrator)

    def _energy(self, level: Level, shooter: Shooter, white: Tensor, sigma: float) -> Energy:
        """The energy to minimize at a level, given the initial white variable."""
        start_map = torch.zeros_like(white)
        if level.moving_weight is not None:
            with torch.no_grad():
                start_map = shooter.inverse_map(shooter.operator.power(white, 0.5))
        term = ImageTerm.with_masks(level, self.similarity, start_map)
        if not term.volume > 1e-3 * math.prod(level.at.shape) * math.prod(level.at.spacing):
            raise RegistrationError(
                "less than a thousandth of the fixed image overlaps the moving image "
                "(inside both masks, if any): start with an affine registration, or "
                "give other masks"
            )
        return Energy(shooter, term, sigma, self.unfolding, self.band)

    def _optimized(
        self, energy: Energy, white: Tensor, iterations: int, recorder: _Recorder
    ) -> Tensor:
        if self.optimizer == "fixed":
            return fixed_step(
                energy, white, iterations=iterations, step=self.step, callback=recorder
            )
        return quasi_newton(
            energy, white, iterations=iterations, tolerance=self.tolerance, callback=recorder
        )


@dataclass(frozen=True)
class _Recorder:
    """Records every iteration in the trace, and reports progress."""

    level: int
    levels: int
    iterations: int
    trace: list[TraceEntry]

    def again(self) -> _Recorder:
        """A recorder for iterations after the last level, as a further level in the trace."""
        return replace(self, level=self.levels, levels=self.levels + 1)

    def __call__(self, iteration: int, terms: dict[str, float]):
        self.trace.append(TraceEntry("lddmm", self.level, iteration, terms))
        done = (self.level + iteration / self.iterations) / self.levels
        progress.report(done, f"level {self.level + 1} of {self.levels}")


def _folded(energy: Energy, white: Tensor, grid: Grid, onto: Grid) -> int:
    """The number of folded voxels of the fixed image."""
    backward = ended(energy.shooter, energy.momentum(white))
    field = DisplacementField(to_lps(backward, grid).cpu(), grid)
    return int((jacobian_determinant(field, onto).data <= 0).sum())


def _first(operator: Operator, start: GeodesicTransform | None, grid: Grid) -> Tensor:
    """The initial white variable on a grid: zero, or that of a geodesic."""
    like = torch.zeros(grid.dimension, *grid.shape, dtype=operator.dtype, device=operator.device)
    if start is None:
        return like
    lattice = Lattice.of(start.grid)
    velocity = Operator(start.kernel, lattice).sharp(start.momentum)
    if start.grid != grid:
        # Velocities are smooth, so they can be interpolated; momenta are not.
        velocity = DisplacementField.sampled(DisplacementField(velocity, start.grid), grid).vectors
    return operator.power(along_axes(velocity.to(like), grid), 0.5)


def _continued(initial: Transform, kernel: Kernel) -> tuple[Transform, GeodesicTransform | None]:
    """An initial transform split into the part after its geodesic, and the geodesic or None."""
    parts = parts_of(initial)
    if parts and isinstance(parts[-1], GeodesicTransform) and parts[-1].kernel == kernel:
        return compose(*parts[:-1]), parts[-1]
    return initial, None
