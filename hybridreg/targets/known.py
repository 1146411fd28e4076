"""Targets known exactly: a real image and its copy under a random map that never folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.phantoms.deformation import SmoothDeformation, smooth_deformation
from hybridreg.targets.target import Target
from hybridreg.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
)
from hybridreg.warping import jacobian_determinant, warp

_INVERSE_MM = 1e-5
_REACH = 4  # wavelengths, at least


@dataclass(frozen=True)
class Known:
    """The fixed image is the moving image randomly deformed.

    fixed(x) = moving(T(x)). T is a composition of smooth deformations in closed form, each
    one-to-one, so that it is the exact ground truth and has an exact inverse.

    amplitude_mm: maximum displacement; the mean is about a sixth. wavelength_mm: of the shortest
    wave; shorter makes finer deformations, down to 7 * amplitude_mm / bends. bends: the number of
    deformations; more make less regular ones.
    """

    amplitude_mm: float = 10.0
    wavelength_mm: float = 40.0
    bends: int = 4
    uses_fixed: ClassVar[bool] = False

    def __post_init__(self):
        for name in ("amplitude_mm", "wavelength_mm", "bends"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}")
        smooth_deformation(  # refuses what could fold
            self.amplitude_mm / self.bends,
            wavelength_mm=self.wavelength_mm,
            radius_mm=_REACH * self.wavelength_mm,
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    def draw(self, grid: Grid, *, seed: int) -> CompositeTransform:
        """A random map of the physical space of a grid; each seed gives a different map."""
        generator = torch.Generator().manual_seed(seed)
        axes = torch.tensor(grid.direction, dtype=torch.float64)
        parts = []
        for _ in range(self.bends):
            strength, length, *place = torch.rand(2 + grid.dimension, generator=generator).tolist()
            # Centers lie anywhere in the middle half, so that the whole image is deformed.
            offset = [(p - 0.5) / 2 * e for p, e in zip(place, grid.extent, strict=True)]
            center = grid.center + axes @ torch.tensor(offset, dtype=torch.float64)
            bend = smooth_deformation(
                self.amplitude_mm / self.bends * (1 + strength) / 2,
                wavelength_mm=self.wavelength_mm * (1 + length),
                center=center.tolist(),
                radius_mm=max(grid.diagonal, _REACH * self.wavelength_mm),
                seed=int(torch.randint(2**31, (), generator=generator)),
            )
            parts.append(bend)
        return CompositeTransform(tuple(parts))

    def __call__(self, pair: ImagePair, initial: Transform, *, seed: int) -> Target:
        moving, grid = pair.moving, pair.moving.grid
        truth = self.draw(grid, seed=seed)
        there = DisplacementField.sampled(truth, grid)
        back = DisplacementField.sampled(exact_inverse(truth), grid)
        fixed = warp(moving, there, onto=grid)
        return Target(
            ImagePair(fixed, moving),
            grid,
            AffineTransform(torch.eye(grid.dimension + 1)),
            {"displacement": there.vectors, "inverse_displacement": back.vectors},
            {
                "bends": [_described(part) for part in truth.parts],
                "residual_mm": {"mean": 0.0, "max": 0.0},
                "smallest_jacobian": jacobian_determinant(there, grid).data.min().item(),
                "verdict": {"status": "pass", "reasons": []},
            },
        )


def exact_inverse(truth: CompositeTransform) -> Transform:
    """The inverse map to within 1e-5 mm, deformation by deformation."""
    return CompositeTransform(tuple(_Inverse(bend) for bend in reversed(truth.parts)))


@dataclass(frozen=True, eq=False)
class _Inverse:
    """y -> x with T(x) = y, by x <- y - u(x), which converges since u is less steep than 1.

    For the truth of targets: on such smooth maps it takes half the time of ``NumericalInverse``, to
    a tenth of its tolerance.
    """

    bend: SmoothDeformation

    def __call__(self, points: Tensor) -> Tensor:
        y = points.to(torch.float64)
        x = y - (self.bend(y) - y)
        while True:
            miss = self.bend(x) - y
            x = x - miss
            if not (miss.abs() > _INVERSE_MM).any():
                return x.to(points)

    def inverse(self) -> Transform:
        return self.bend


def transform_of(bends: list[Mapping[str, Any]]) -> CompositeTransform:
    """The exact map of a stored target, from its attribute "bends"."""
    parts = [
        SmoothDeformation(
            **{name: torch.tensor(bend[name]).double() for name in _TENSORS},
            radius_mm=bend["radius_mm"],
        )
        for bend in bends
    ]
    return CompositeTransform(tuple(parts))


_TENSORS = ("amplitude_mm", "wave_vectors", "center")


def _described(bend: SmoothDeformation) -> dict[str, Any]:
    values = {name: getattr(bend, name).tolist() for name in _TENSORS}
    return {**values, "radius_mm": bend.radius_mm}
