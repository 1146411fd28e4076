"""The solids and patterns of the head, as depths in mm below their surfaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Points = tuple[Tensor, Tensor, Tensor]  # x to the left, y to the back, z up, in mm


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, center and radii in mm, rotated about z."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn_deg: float = 0.0

    def depth(self, points: Points) -> Tensor:
        """Depth below the surface, exact on the surface and, to first order, around it."""
        x, y, z = (p - c for p, c in zip(points, self.center, strict=True))
        if self.turn_deg:
            c, s = math.cos(math.radians(self.turn_deg)), math.sin(math.radians(self.turn_deg))
            x, y = c * x + s * y, c * y - s * x
        a, b, c = self.radii
        u, v, w = x / a, y / b, z / c
        level = (u * u + v * v + w * w).sqrt()
        slope = ((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2).sqrt()
        return (1 - level) * (level + 1e-3) / (slope + 1e-3 / min(self.radii))  # 1e-3: no 0 / 0

    def mirrored(self) -> Ellipsoid:
        x, y, z = self.center
        a, b, c = (0.92 * r for r in self.radii)
        return Ellipsoid((-x, y + 2, z), (a, b, c), -self.turn_deg)


@dataclass(frozen=True)
class Tube:
    """A tube around a straight line, with a radius that changes from start to stop; in mm."""

    start: tuple[float, float, float]
    stop: tuple[float, float, float]
    radius: float
    stop_radius: float

    @property
    def center(self) -> tuple[float, ...]:
        return tuple((a + b) / 2 for a, b in zip(self.start, self.stop, strict=True))

    def depth(self, points: Points) -> Tensor:
        axis = [b - a for a, b in zip(self.start, self.stop, strict=True)]
        offset = [p - a for p, a in zip(points, self.start, strict=True)]
        along = sum(o * a for o, a in zip(offset, axis, strict=True)) / sum(a * a for a in axis)
        along = along.clamp(0, 1)
        squared = sum((o - along * a) ** 2 for o, a in zip(offset, axis, strict=True))
        return self.radius + along * (self.stop_radius - self.radius) - squared.sqrt()

    def mirrored(self) -> Tube:
        (x, y, z), (u, v, w) = self.start, self.stop
        radii = 0.85 * self.radius, 0.85 * self.stop_radius
        return Tube((-x, y + 2, z), (-u, v + 2, w), *radii)


Shapes = Sequence[Ellipsoid | Tube]


def waves(points: Points, wavelength_mm: float, count: int) -> tuple[Tensor, ...]:
    """An irregular but deterministic sum of plane waves, and its gradient (x, y, z)."""
    golden = (1 + math.sqrt(5)) / 2
    total = [torch.zeros_like(points[0]) for _ in range(4)]
    for i in range(count):
        up = 1 - (2 * i + 1) / count
        across, turn = math.sqrt(1 - up * up), 2 * math.pi * i / golden
        number = 2 * math.pi / wavelength_mm * (0.85 + 0.3 * ((i * golden) % 1))
        vector = [number * n for n in (across * math.cos(turn), across * math.sin(turn), up)]
        phase = sum(k * p for k, p in zip(vector, points, strict=True)) + 2.4 * i * i
        total[0] += phase.cos()
        slope = phase.sin()
        for axis, k in enumerate(vector, start=1):
            total[axis] -= k * slope
    return tuple(total)


def to_sheets(points: Points, wavelength_mm: float, count: int) -> Tensor:
    """Distance in mm to the zero set of a sum of waves: curved sheets half a wavelength apart."""
    value, *gradient = waves(points, wavelength_mm, count)
    number = 2 * math.pi / wavelength_mm
    slope = sum(g * g for g in gradient).sqrt() / number
    return torch.atan2(value.abs(), slope) / number  # exact for a single wave


def joined(shapes: Shapes, points: Points) -> Tensor:
    """The depth in mm inside the union of shapes, with sharp seams."""
    depth = shapes[0].depth(points)
    for shape in shapes[1:]:
        depth = torch.maximum(depth, shape.depth(points))
    return depth


def merged(shapes: Shapes, points: Points, width_mm: float) -> Tensor:
    """Like ``joined``, with seams rounded over a width."""
    depth = shapes[0].depth(points)
    for shape in shapes[1:]:
        depth = merge(depth, shape.depth(points), width_mm)
    return depth


def merge(a: Tensor, b: Tensor, width_mm: float) -> Tensor:
    """Smooth maximum: rounded where both differ by less than a width."""
    fraction = (0.5 + (a - b) / (2 * width_mm)).clamp(0, 1)
    return b + fraction * (a - b) + width_mm * fraction * (1 - fraction)
