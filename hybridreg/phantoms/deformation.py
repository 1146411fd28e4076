"""Smooth deformations in closed form that never fold, whatever the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.transforms import NumericalInverse, Transform, compose, of_points, rigid

_WAVES = 2  # for each component of the displacement
_STEEPEST_WINDOW = 8 / (3 * math.sqrt(3))  # largest slope of (1 - r^2)^2


@dataclass(frozen=True, eq=False)
class SmoothDeformation:
    """x -> x + u(x), u_c = a_c w(|x - center| / radius) mean_i cos(k_ci . (x - center)).

    amplitude_mm: a, shape (D,). wave_vectors: k in radians per mm, shape (D, waves, D).
    w = (1 - r^2)^2, zero from r = 1: the identity beyond the radius. The maximum of |u| is |a|, at
    the center. As ``steepness`` is below 1, x -> x + u(x) is one-to-one.
    """

    amplitude_mm: Tensor
    wave_vectors: Tensor
    center: Tensor
    radius_mm: float

    def __post_init__(self):
        if self.steepness >= 1:
            raise ValueError(
                f"a deformation of {self.amplitude_mm.norm():.3g} mm this steep could fold "
                f"(steepness {self.steepness:.2f}, must be below 1): make it smaller, or its "
                "wavelength longer"
            )

    @property
    def steepness(self) -> float:
        """Upper bound of the norm of du/dx: det(dT/dx) >= (1 - steepness)^D."""
        slope = self.wave_vectors.norm(dim=-1).max().item() + _STEEPEST_WINDOW / self.radius_mm
        return self.amplitude_mm.norm().item() * slope

    @of_points
    def __call__(self, points: Tensor) -> Tensor:
        offset = (points - self.center.to(points)).to(torch.float64)
        window = (1 - (offset / self.radius_mm).square().sum(-1)).clamp(min=0).square()
        cosines = [(offset @ vectors.T).cos().mean(-1) for vectors in self.wave_vectors]
        displacement = torch.stack(cosines, -1) * self.amplitude_mm * window[..., None]
        return points + displacement.to(points)

    def inverse(self) -> NumericalInverse:
        return NumericalInverse(self)


def smooth_deformation(
    largest_mm: float,
    *,
    center: Sequence[float] = (0.0, 0.0, 0.0),
    wavelength_mm: float = 80.0,
    radius_mm: float = 160.0,
    seed: int = 0,
) -> SmoothDeformation:
    """A random deformation with its maximum displacement, ``largest_mm``, at ``center``.

    center: LPS mm, its length gives the dimension. wavelength_mm: longer is smoother; about
    7 * largest_mm is the shortest that cannot fold (ValueError below). The displacement is 0 beyond
    radius_mm from the center.
    """
    dimension = len(center)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(
        dimension, _WAVES + 1, dimension, generator=generator, dtype=torch.float64
    )
    directions /= directions.norm(dim=-1, keepdim=True)
    return SmoothDeformation(
        amplitude_mm=largest_mm * directions[0, -1],
        wave_vectors=2 * math.pi / wavelength_mm * directions[:, :-1],
        center=torch.tensor(center, dtype=torch.float64),
        radius_mm=radius_mm,
    )


def known_transform(
    center: Sequence[float],
    *,
    angles_deg: Sequence[float] | None,
    translation_mm: Sequence[float] | None,
    deformation_mm: float,
    wavelength_mm: float,
    radius_mm: float,
    seed: int,
) -> Transform:
    """A rotation about a center, a translation and a deformation; None and 0 omit them."""
    dimension = len(center)
    turned = rigid(
        angles_deg or [0.0] * (2 * dimension - 3), translation_mm or [0.0] * dimension, center
    )
    if deformation_mm == 0:
        return turned
    bend = smooth_deformation(
        deformation_mm,
        center=center,
        wavelength_mm=wavelength_mm,
        radius_mm=radius_mm,
        seed=seed,
    )
    return compose(bend, turned)
