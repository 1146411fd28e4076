"""Geodesics of diffeomorphisms: the operator of the velocity norm, and the map of a momentum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.geometry import Grid
from hybridreg.transforms import (
    DisplacementField,
    Transform,
    compose,
    of_points,
    parts_of,
)


@dataclass(frozen=True)
class Kernel:
    """L = (-a Laplacian - b grad div + c)^power in mm, so <v, L v> is the energy of a velocity v.

    K = L^-1 smooths a momentum to its velocity, over about sqrt(a / c) mm. a: larger is smoother.
    b: larger penalizes changes of volume. c: larger also penalizes translations. power: 1 as
    published (Yang 2017: a = b = 0.01, c = 0.001); from 2 on, in 3D, velocities of finite energy
    are continuous.
    """

    a: float = 0.01
    b: float = 0.01
    c: float = 0.001
    power: float = 1.0

    def __post_init__(self):
        if not (self.a > 0 and self.b >= 0 and self.c > 0 and self.power > 0):
            raise ValueError(
                "a kernel needs a > 0, b >= 0, c > 0 and power > 0, found "
                f"a = {self.a}, b = {self.b}, c = {self.c}, power = {self.power}"
            )


@dataclass(frozen=True, eq=False)
class GeodesicTransform:
    """x -> phi^-1(x), phi the end of the geodesic of an initial momentum (Miller 2006).

    momentum: m0, its LPS components, shape (D, *grid.shape), float32, such that K m0 is in mm per
        unit of time; the geodesic lasts 1.
    kernel, grid: of the operator L, and of the momentum.
    field: phi^-1, fixed to moving, as integrated; the transform is evaluated with it.
    inverse_field: phi, moving to fixed, perhaps on a finer grid.
    """

    momentum: Tensor
    kernel: Kernel
    grid: Grid
    field: DisplacementField
    inverse_field: DisplacementField

    def __post_init__(self):
        momentum = torch.as_tensor(self.momentum, dtype=torch.float32)
        expected = (self.grid.dimension, *self.grid.shape)
        if tuple(momentum.shape) != expected:
            raise ValueError(
                f"a momentum of shape {tuple(momentum.shape)} does not fit its grid: expected "
                f"{expected}"
            )
        if not torch.isfinite(momentum).all():
            raise ValueError("the momentum has numbers that are not finite")
        object.__setattr__(self, "momentum", momentum)

    @of_points
    def __call__(self, points: Tensor) -> Tensor:
        return self.field(points)

    def inverse(self) -> DisplacementField:
        """phi, as integrated together with phi^-1."""
        return self.inverse_field


def as_fields(transform: Transform) -> Transform:
    """The transform with every geodesic replaced by its displacement field, for export."""
    plain = (
        part.field if isinstance(part, GeodesicTransform) else part for part in parts_of(transform)
    )
    return compose(*plain)


def momenta(transform: Transform) -> tuple[GeodesicTransform, ...]:
    """The geodesics in a composed transform, in order of application."""
    parts = parts_of(transform)
    return tuple(part for part in reversed(parts) if isinstance(part, GeodesicTransform))
