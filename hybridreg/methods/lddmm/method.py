"""LDDMM: the geodesic of diffeomorphisms from the moving to the fixed image, found by its momentum."""

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
from hybridreg.methods.lddmm.descent import fixed_step, quasi_newton
from hybridreg.methods.lddmm.energy import Energy, ImageTerm, refined
from hybridreg.methods.lddmm.levels import Level, levels
from hybridreg.momentum import along_axes, geodesic
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


@dataclass(frozen=True)
class Lddmm:
    """Registers by geodesic shooting (Miller 2006, Vialard 2012), from an affine alignment on.

    kernel: what is smooth; see ``geodesics.Kernel``.
    sigma: of the images' dissimilarity; smaller fits them more closely, with a larger deformation.
    sigma_factor: by which it is larger at each coarser level. At 1 the coarse levels fit all that they
        can, and the next begins with rough momenta, from which the descent does not find back.
    similarity: a measure, such as LNCC(radius=2) with its radius in voxels of each level.
    image_mm, momentum_mm: voxels of images and momentum at each level, coarse to fine; never finer than
        the fixed image's. Where that is twice as coarse as asked for, so is the momentum.
    iterations: at most, at each level; a level ends before where it gains no more than ``tolerance``
        of all that it gained, an iteration.
    unfolding: weight of what keeps the map from folding between time steps; see ``Energy``.
    band: share of the lattice's frequencies that the initial momentum has. Rougher ones are carried along
        with large errors of interpolation, and the descent gets stuck (measured: at 1 it ends 5 % higher).
    steps, integrator: of time along the geodesic: "euler", "midpoint" or "rk4".
    optimizer: "quasi-newton", or "fixed" for the published descent by ``step`` (Yang 2017).
    scaled: bring one-channel images to [0, 1] by percentiles of their foreground first; images of
        several channels are always taken as they are.
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
        """The total transform x -> A(phi^-1(x)), A what it starts from.

        Where ``initial`` ends in a geodesic of the same kernel (x -> A(phi^-1(x))), it is continued
        from its momentum. RegistrationError where the geodesic diverges.
        """
        check_pair(pair, initial)
        before, begun = _continued(initial, self.kernel)
        aligned = self._prepared(warp_pair(with_field_of_view(pair, before), before))
        trace: list[TraceEntry] = []
        try:
            found = self._shoot(aligned, begun, trace)
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
        self, pair: ImagePair, begun: GeodesicTransform | None, trace: list[TraceEntry]
    ) -> GeodesicTransform:
        found = levels(pair, self.image_mm, self.momentum_mm)
        stages = list(zip(found, self.iterations))  # fewer levels where the images are coarse
        if begun is not None:
            stages = stages[-1:]  # coarser ones would only lose what it brings
        white = None
        for number, (level, most) in enumerate(stages):
            level = level.to(self.device)
            shooter = self._shooter(level)
            if white is None:
                white = _first(shooter.operator, begun, level.grid)
            else:
                white = refined(white, level.momentum.shape)
            sigma = self.sigma * self.sigma_factor ** (len(stages) - 1 - number)
            energy = self._energy(level, shooter, white, sigma)
            teller = _Teller(number, len(stages), most, trace)
            white = self._descend(energy, white, most, teller)
        found = geodesic(shooter, energy.momentum(white), level.grid, onto=pair.fixed.grid)
        if self.unfolding:
            found = self._unfolded(found, energy, white, level.grid, pair.fixed.grid, teller)
        return found

    def _unfolded(
        self,
        found: GeodesicTransform,
        energy: Energy,
        white: Tensor,
        grid: Grid,
        onto: Grid,
        tell: _Teller,
    ) -> GeodesicTransform:
        """Descends on, folds at ever higher prices, until no voxel of the fixed image is folded."""
        for _ in range(_ROUNDS):
            if jacobian_determinant(found, onto).data.min() > 0:
                return found
            energy = replace(energy, unfolding=10 * energy.unfolding)
            white = quasi_newton(
                energy, white, iterations=_A_FEW, tolerance=self.tolerance, tell=tell.again()
            )
            found = geodesic(energy.shooter, energy.momentum(white), grid, onto=onto)
        folded = int((jacobian_determinant(found, onto).data <= 0).sum())
        if folded:
            log.warning("%d voxels of the fixed image remain folded", folded)
        return found

    def _shooter(self, level: Level) -> Shooter:
        operator = Operator(self.kernel, level.momentum, level.fixed.dtype, self.device)
        return Shooter(operator, self.steps, self.integrator)

    def _energy(self, level: Level, shooter: Shooter, white: Tensor, sigma: float) -> Energy:
        """What is minimized at a level that begins with a white variable."""
        begins = torch.zeros_like(white)
        if level.seen is not None:
            begins, _ = shooter.maps(shooter.operator.power(white, 0.5))
        term = ImageTerm.seen_from(level, self.similarity, begins)
        if not term.volume > 1e-3 * math.prod(level.at.shape) * math.prod(level.at.spacing):
            raise RegistrationError(
                "less than a thousandth of the fixed image is seen by the moving one (and inside "
                "both masks): begin with an affine registration, or give other masks"
            )
        return Energy(shooter, term, sigma, self.unfolding, self.band)

    def _descend(self, energy: Energy, white: Tensor, most: int, tell: _Teller) -> Tensor:
        if self.optimizer == "fixed":
            return fixed_step(energy, white, iterations=most, step=self.step, tell=tell)
        return quasi_newton(
            energy, white, iterations=most, tolerance=self.tolerance, tell=tell
        )


@dataclass(frozen=True)
class _Teller:
    """Notes every iteration, and says how far the whole is."""

    level: int
    levels: int
    most: int
    trace: list[TraceEntry]

    def again(self) -> _Teller:
        """For what comes after the last level, as a level more in the trace."""
        return replace(self, level=self.levels, levels=self.levels + 1)

    def __call__(self, iteration: int, terms: dict[str, float]):
        self.trace.append(TraceEntry("lddmm", self.level, iteration, terms))
        done = (self.level + iteration / self.most) / self.levels
        progress.report(done, f"level {self.level + 1} of {self.levels}")


def _first(operator: Operator, begun: GeodesicTransform | None, grid: Grid) -> Tensor:
    """The white variable on a grid to start from: zero, or that of a geodesic."""
    like = torch.zeros(grid.dimension, *grid.shape, dtype=operator.dtype, device=operator.device)
    if begun is None:
        return like
    lattice = Lattice.of(begun.grid)
    velocity = Operator(begun.kernel, lattice).sharp(begun.momentum)
    if begun.grid != grid:
        # Velocities are smooth, so they can be interpolated; momenta are not.
        velocity = DisplacementField.sampled(DisplacementField(velocity, begun.grid), grid).vectors
    return operator.power(along_axes(velocity.to(like), grid), 0.5)


def _continued(initial: Transform, kernel: Kernel) -> tuple[Transform, GeodesicTransform | None]:
    """What comes after the geodesic that an initial transform begins with, and that geodesic."""
    parts = parts_of(initial)
    if parts and isinstance(parts[-1], GeodesicTransform) and parts[-1].kernel == kernel:
        return compose(*parts[:-1]), parts[-1]
    return initial, None
