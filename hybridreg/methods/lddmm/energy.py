"""The energy of a geodesic: how much it moves, and how wrong its end is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from hybridreg.kernels.matrices import determinant
from hybridreg.lattice import Lattice, Resampling, jacobian, sample
from hybridreg.methods.lddmm.levels import Level
from hybridreg.shooting import Shooter
from hybridreg.similarity import Measure


class Term(Protocol):
    """What the end of a geodesic is judged by."""

    volume: float
    """In mm^3, of what is compared."""
    curvature: float
    """Its second derivative by the displacement, about, in 1/mm^2; 0 if that is not known."""

    def __call__(self, inverse_map: Tensor) -> Tensor:
        """How wrong phi^-1 is, of its displacement (D, *momentum shape) in mm."""
        ...


@dataclass(frozen=True, eq=False)
class Energy:
    """E = <m0, K m0> / (2 V) + (D(phi^-1) + F(phi^-1)) / sigma^2, V the volume that is compared.

    The variable is white: w = K^(1/2) m0, so that <w, w> / (2 V) is the first term, and the second
    derivative of E by w is the identity and something smooth. sigma: smaller fits more closely.
    F is 0 where determinants of phi^-1 on the lattice of the momentum stay above ``least`` (between
    its voxels they are lower): geodesics never fold, but those of few steps on a lattice would.
    unfolding: its weight; 0 leaves the published energy. band: the share of the lattice's frequencies
    that w has.
    """

    shooter: Shooter
    term: Term
    sigma: float
    unfolding: float = 0.0
    band: float = 1.0
    least: float = 0.4

    def inverse_map(self, white: Tensor) -> Tensor:
        """The displacement of phi^-1 of w (D, *momentum shape), of the same shape, in mm."""
        return self.shooter.inverse_map(self.momentum(white))

    def determinants(self, inverse_map: Tensor) -> Tensor | None:
        """Of phi^-1 on the lattice of the momentum; None where folds have no price."""
        return determinant(jacobian(inverse_map, self.spacing)) if self.unfolding else None

    def terms(
        self, white: Tensor, inverse_map: Tensor, determinants: Tensor | None
    ) -> dict[str, Tensor]:
        """The terms, with their factors, of w, its phi^-1 and the determinants of that."""
        terms = {
            "regularity": 0.5 * self.product(white, white),
            "dissimilarity": self.term(inverse_map) / self.sigma**2,
        }
        if determinants is not None:
            low = (self.least - determinants).clamp(min=0)
            terms["folding"] = self.unfolding / self.sigma**2 * self.product(low, low)
        return terms

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of the momentum's voxels, in mm."""
        return self.shooter.lattice.spacing

    def momentum(self, white: Tensor) -> Tensor:
        return self.shooter.operator.power(white, 0.5, band=self.band)

    def velocity(self, white: Tensor) -> Tensor:
        return self.shooter.operator.power(white, -0.5, band=self.band)

    def preconditioned(self, slope: Tensor) -> Tensor:
        """About the inverse of the second derivative by w, at the identity, times a gradient."""
        if self.term.curvature == 0:
            return slope
        return self.shooter.operator.damped(slope, self.term.curvature / self.sigma**2)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """The inner product of white variables, in which all gradients are."""
        return (a * b).sum() * self.share

    @property
    def share(self) -> float:
        """A voxel of the momentum over the volume that is compared."""
        return math.prod(self.spacing) / self.term.volume


@dataclass(frozen=True, eq=False)
class ImageTerm:
    """How unlike the fixed image and the moved one are, at one level.

    weight: of each fixed voxel, or None for all alike. It does not follow the map: else a map that
    moves everything out of sight would leave nothing that is unlike.
    """

    level: Level
    measure: Measure
    weight: Tensor | None

    curvature = 0.0

    @classmethod
    def seen_from(cls, level: Level, measure: Measure, inverse_map: Tensor) -> ImageTerm:
        """Compares what lies inside both masks through the map that the level begins with."""
        term = cls(level, measure, level.weight)
        if level.seen is None:
            return term
        seen = sample(level.seen[None], term._to_image(inverse_map), level.at, level.of)[0]
        weight = seen if level.weight is None else seen * level.weight
        return cls(level, measure, weight)

    @cached_property
    def volume(self) -> float:
        voxels = self.level.fixed[0].numel() if self.weight is None else self.weight.sum().item()
        return max(voxels, 1.0) * math.prod(self.level.at.spacing)

    def __call__(self, inverse_map: Tensor) -> Tensor:
        level = self.level
        moved = sample(level.moving, self._to_image(inverse_map), level.at, level.of)
        return self.measure(level.fixed, moved, self.weight)

    @cached_property
    def _to_image(self) -> Resampling:
        fixed = self.level.fixed
        return Resampling(self.level.momentum, self.level.at, fixed.dtype, fixed.device)


@dataclass(frozen=True, eq=False)
class MapTerm:
    """Half the mean squared distance in mm to a map that phi^-1 should be.

    target: its displacement (D, *shape) on the lattice of the momentum. weight: of each voxel there.
    """

    target: Tensor
    weight: Tensor
    lattice: Lattice

    curvature = 1.0

    @property
    def volume(self) -> float:
        return max(self.weight.sum().item(), 1.0) * math.prod(self.lattice.spacing)

    def __call__(self, inverse_map: Tensor) -> Tensor:
        squares = (inverse_map - self.target).square().sum(0)
        return 0.5 * (squares * self.weight).sum() / self.weight.sum()


def refined(white: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same function on a lattice of more voxels over the same box: its Fourier series.

    white: (D, *coarse shape). The half voxel by which the first voxels' centers differ is allowed for.
    """
    axes = tuple(range(1, white.ndim))
    spectrum = torch.fft.fftn(white, dim=axes)
    for axis, count in zip(axes, shape, strict=True):
        spectrum = _padded(spectrum, axis, count)
    return torch.fft.ifftn(spectrum, dim=axes).real.to(white.dtype).contiguous()


def _padded(spectrum: Tensor, axis: int, count: int) -> Tensor:
    few = spectrum.shape[axis]
    if few == count:
        return spectrum
    frequency = torch.fft.fftfreq(few, 1 / few, dtype=torch.float64)  # whole numbers
    # x = (i + 1/2) / n of the box on both lattices: a shift by the difference of their halves.
    angle = 2 * torch.pi * frequency * (0.5 / count - 0.5 / few)
    turn = torch.polar(torch.full_like(angle, count / few), angle).to(spectrum)
    turn[frequency.abs() == few / 2] = 0  # its sign is not known
    out_shape = list(spectrum.shape)
    out_shape[axis] = count
    out = spectrum.new_zeros(out_shape)
    rows, into = spectrum.movedim(axis, -1) * turn, out.movedim(axis, -1)
    half = few // 2
    into[..., : half + few % 2] = rows[..., : half + few % 2]
    into[..., count - half :] = rows[..., few - half :]
    return out
