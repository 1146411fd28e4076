"""The energy of a geodesic: its regularity, and the mismatch at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from hybridreg.kernels.matrices import determinant
from hybridreg.lattice import Lattice, Resampling, jacobian, sample_through
from hybridreg.methods.lddmm.levels import Level
from hybridreg.shooting import Shooter
from hybridreg.similarity import Measure


class Term(Protocol):
    """The data term: a mismatch of the end of a geodesic."""

    volume: float
    """Of the compared region, in mm^3."""
    curvature: float
    """Its approximate second derivative by the displacement, in 1/mm^2; 0 if unknown."""

    def __call__(self, inverse_map: Tensor) -> Tensor:
        """The mismatch of phi^-1, given its displacement (D, *momentum shape) in mm."""
        ...


@dataclass(frozen=True, eq=False)
class Energy:
    """E = <m0, K m0> / (2 V) + (D(phi^-1) + F(phi^-1)) / sigma^2, V the compared volume.

    The variable is white: w = K^(1/2) m0, so that <w, w> / (2 V) is the first term, and the Hessian
    of E with respect to w is the identity plus a smooth operator. sigma: smaller fits more closely.
    F, the folding penalty, is 0 where determinants of phi^-1 exceed ``min_determinant``: geodesics
    never fold, but discrete ones with few time steps can. Determinants are those on the lattice of
    the momentum (between its voxels they are lower), or on a finer one to which ``finer`` leads.
    unfolding: its weight; 0 leaves the published energy. band: the fraction of the lattice's
    frequencies that w has.
    """

    shooter: Shooter
    term: Term
    sigma: float
    unfolding: float = 0.0
    band: float = 1.0
    min_determinant: float = 0.4
    finer: Resampling | None = None

    def inverse_map(self, white: Tensor) -> Tensor:
        """The displacement of phi^-1 of w (D, *momentum shape), of the same shape, in mm."""
        return self.shooter.inverse_map(self.momentum(white))

    def determinants(self, inverse_map: Tensor) -> Tensor | None:
        """Of phi^-1, for the folding penalty; None without it."""
        if not self.unfolding:
            return None
        if self.finer is None:
            return determinant(jacobian(inverse_map, self.spacing))
        found = determinant(jacobian(self.finer(inverse_map), self.finer.at.spacing))
        return found[(slice(1, -1),) * found.ndim]  # a box inside a map is not periodic

    def terms(
        self, white: Tensor, inverse_map: Tensor, determinants: Tensor | None
    ) -> dict[str, Tensor]:
        """The weighted terms of E, given w, its phi^-1 and the determinants of phi^-1."""
        terms = {
            "regularity": 0.5 * self.product(white, white),
            "dissimilarity": self.term(inverse_map) / self.sigma**2,
        }
        if determinants is not None:
            low = (self.min_determinant - determinants).clamp(min=0)
            volume = math.prod(self._lattice.spacing) * low.square().sum() / self.term.volume
            terms["folding"] = self.unfolding / self.sigma**2 * volume
        return terms

    @property
    def _lattice(self) -> Lattice:
        """Of the determinants."""
        return self.shooter.lattice if self.finer is None else self.finer.at

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of the momentum's voxels, in mm."""
        return self.shooter.lattice.spacing

    def momentum(self, white: Tensor) -> Tensor:
        return self.shooter.operator.power(white, 0.5, band=self.band)

    def velocity(self, white: Tensor) -> Tensor:
        return self.shooter.operator.power(white, -0.5, band=self.band)

    def preconditioned(self, slope: Tensor) -> Tensor:
        """An approximate inverse Hessian with respect to w, at the identity, times a gradient."""
        if self.term.curvature == 0:
            return slope
        return self.shooter.operator.damped(slope, self.term.curvature / self.sigma**2)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """The inner product of white variables, in which all gradients are defined."""
        return (a * b).sum() * self.voxel_fraction

    @property
    def voxel_fraction(self) -> float:
        """The volume of a voxel of the momentum over the compared volume."""
        return math.prod(self.spacing) / self.term.volume


@dataclass(frozen=True, eq=False)
class ImageTerm:
    """Dissimilarity of the fixed and the moved image at one level.

    weight: of each fixed voxel, or None for equal weights. It does not follow the map: otherwise a
    map that moves everything out of the field of view would have no dissimilarity.
    """

    level: Level
    measure: Measure
    weight: Tensor | None

    curvature = 0.0

    @classmethod
    def with_masks(cls, level: Level, measure: Measure, inverse_map: Tensor) -> ImageTerm:
        """Compares within both masks, the moving one resampled by the initial map of the level."""
        term = cls(level, measure, level.weight)
        if level.moving_weight is None:
            return term
        inside = sample_through(level.moving_weight[None], inverse_map, term.to_image, level.of)[0]
        weight = inside if level.weight is None else inside * level.weight
        return cls(level, measure, weight)

    @cached_property
    def volume(self) -> float:
        voxels = self.level.fixed[0].numel() if self.weight is None else self.weight.sum().item()
        return max(voxels, 1.0) * math.prod(self.level.at.spacing)

    def __call__(self, inverse_map: Tensor) -> Tensor:
        level = self.level
        moved = sample_through(level.moving, inverse_map, self.to_image, level.of)
        return self.measure(level.fixed, moved, self.weight)

    @cached_property
    def to_image(self) -> Resampling:
        """From the momentum's lattice to that of the fixed image."""
        fixed = self.level.fixed
        return Resampling(self.level.momentum, self.level.at, fixed.dtype, fixed.device)


@dataclass(frozen=True, eq=False)
class MapTerm:
    """Half the mean squared distance in mm^2 of phi^-1 to a target map.

    target: its displacement (D, *shape) on the lattice of the momentum. weight: of each voxel
        there.
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
    """Fourier interpolation onto a lattice of more voxels over the same box.

    white: (D, *coarse shape). The shift between the centers of the first voxels is accounted for.
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
    turn[frequency.abs() == few / 2] = 0  # the Nyquist frequency, whose sign is unknown
    out_shape = list(spectrum.shape)
    out_shape[axis] = count
    out = spectrum.new_zeros(out_shape)
    rows, into = spectrum.movedim(axis, -1) * turn, out.movedim(axis, -1)
    half = few // 2
    into[..., : half + few % 2] = rows[..., : half + few % 2]
    into[..., count - half :] = rows[..., few - half :]
    return out
