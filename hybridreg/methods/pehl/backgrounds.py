"""Synthetic backgrounds of radiographs, and how a detector varies: what a network should learn to ignore."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

_BONES, _ORGANS = 4, 12  # at most


def backgrounds(count: int, shape: tuple[int, int], generator: Generator) -> Tensor:
    """Line integrals (count, rows, columns), about 0 to 8: by turns tissue, a body, and both."""
    first, second = (make(count, shape, generator) for make in (tissue, bodies))
    kind = torch.arange(count)[:, None, None] % 3
    both = 0.5 * (first + second)
    return torch.where(kind == 0, first, torch.where(kind == 1, second, both))


def tissue(count: int, shape: tuple[int, int], generator: Generator) -> Tensor:
    """Random soft tissue and long bones, about 0 to 6."""
    rows, columns = _places(shape)
    found = 1 + 3 * _between(count, generator)[:, None, None] + _clouds(count, shape, generator)
    for _ in range(_BONES):
        shown = (torch.rand(count, generator=generator) < 0.6)[:, None, None]
        found = found + shown * _bones(count, rows[:, None], columns, generator)
    return found.clamp(min=0)


def bodies(count: int, shape: tuple[int, int], generator: Generator) -> Tensor:
    """A body in air with sharp outlines: hollow bones such as a skull, cavities of air,
    ribs or teeth.
    """
    y, x = _places(shape)
    y, x = y[:, None], x[None]
    tissue_in_it = _between(count, generator, 1.5, 5)
    found = tissue_in_it[:, None, None] * _ellipsoid(y, x, count, generator, (0.3, 0.9), 0.35)
    inside = (found / tissue_in_it[:, None, None]).clamp(max=1)
    found = found * (1 + 0.3 * _clouds(count, shape, generator))
    found = found + _ribs(y, x, count, generator) * inside
    for _ in range(_ORGANS):
        shown = (torch.rand(count, generator=generator) < 0.5)[:, None, None]
        found = found + shown * inside * _organ(y, x, count, generator)
    return found.clamp(min=0)


def _organ(y: Tensor, x: Tensor, count: int, generator: Generator) -> Tensor:
    """A solid or hollow ellipsoid of bone, or one of air,
    which absorbs less than what it displaces.
    """
    size = 0.02 * 20 ** _between(count, generator)  # 0.02 to 0.4
    kind = torch.rand(count, generator=generator)
    density = torch.where(kind < 0.35, -3.0, 2.0 + 6.0 * _between(count, generator))
    wall = torch.where(kind > 0.6, _between(count, generator, 0.75, 0.97), 0.0)
    angle, ratio = _between(count, generator, 0, 3.1416), _between(count, generator, 0.3, 1)
    place = _between(2 * count, generator, -0.4, 0.4).reshape(2, count)
    level = _level(y, x, place, size, ratio, angle)
    wall = wall[:, None, None]
    hollow = (1 - level).clamp(min=0).sqrt() - (wall.square() - level).clamp(min=0).sqrt()
    return (density * size)[:, None, None] * hollow


def _ellipsoid(
    y: Tensor, x: Tensor, count: int, generator: Generator, size: tuple[float, float], off: float
) -> Tensor:
    """The chords of solid ellipsoids, 1 in their middles."""
    place = _between(2 * count, generator, -off, off).reshape(2, count)
    sizes, ratio = _between(count, generator, *size), _between(count, generator, 0.5, 1)
    angle = _between(count, generator, 0, 3.1416)
    return (1 - _level(y, x, place, sizes, ratio, angle)).clamp(min=0).sqrt()


def _level(
    y: Tensor, x: Tensor, place: Tensor, size: Tensor, ratio: Tensor, angle: Tensor
) -> Tensor:
    """Below 1 inside ellipses: any parallel projection of an ellipsoid is one."""
    down, across = (axis - p[:, None, None] for axis, p in zip((y, x), place, strict=True))
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, away = across * cos + down * sin, down * cos - across * sin
    return (along / size[:, None, None]).square() + (away / (ratio * size)[:, None, None]).square()


def _ribs(y: Tensor, x: Tensor, count: int, generator: Generator) -> Tensor:
    """Curved bands side by side, such as ribs, vertebrae or teeth; in half of the images."""
    draws = (_between(count, generator, *ends)[:, None, None] for ends in ((0, 3.1416), (-2, 2)))
    angle, bend = draws
    pace, phase, width = (
        _between(count, generator, *ends)[:, None, None]
        for ends in ((0.06, 0.2), (0, 1), (0.25, 0.6))
    )
    along = x * angle.cos() + y * angle.sin()
    away = y * angle.cos() - x * angle.sin() - bend * along.square()
    within = ((away / pace + phase) % 1 - 0.5).abs() * 2 / width  # 1 at the edge of a band
    height = _between(count, generator, -1.0, 1.0).clamp(min=0)[:, None, None]
    return height * (1 - within.square()).clamp(min=0).sqrt()


def _clouds(count: int, shape: tuple[int, int], generator: Generator) -> Tensor:
    """Smooth variation over several scales."""
    total = torch.zeros(count, *shape)
    for cells, size in ((3, 0.6), (7, 0.25), (17, 0.1), (41, 0.04)):
        coarse = torch.randn(count, 1, cells, cells, generator=generator)
        total += size * F.interpolate(coarse, shape, mode="bicubic", align_corners=True)[:, 0]
    return total


def _bones(count: int, y: Tensor, x: Tensor, generator: Generator) -> Tensor:
    """A tube of dense bone around less dense marrow, in places relative to the longer side."""
    angle = 3.1416 * _between(count, generator)[:, None, None]
    offset = (_between(count, generator) - 0.5)[:, None, None]
    radius = (0.02 + 0.07 * _between(count, generator))[:, None, None]
    bend = 0.8 * (_between(count, generator) - 0.5)[:, None, None]
    along = x * angle.cos() + y * angle.sin()
    away = y * angle.cos() - x * angle.sin() - 0.8 * offset - bend * along.square()
    chord = 2 * (radius.square() - away.square()).clamp(min=0).sqrt()
    marrow = 2 * ((0.7 * radius).square() - away.square()).clamp(min=0).sqrt()
    return 8 * chord - 5 * marrow


def varied(shadows: Tensor, behind: Tensor, generator: Generator) -> Tensor:
    """Regions (B, N, h, w) of an object's line integrals as a detector might show them, before a
    background.

    The contrast of the object, the background's, scatter and quantum noise differ from image to
    image. Scattered photons are a multiple of the primary ones around a region and in all regions.
    """
    contrast, other, spread, scatter, photons = (
        _between(len(shadows), generator)[:, None, None, None] for _ in range(5)
    )
    primary = torch.exp(-(0.7 + 0.6 * contrast) * shadows - 1.2 * other * behind)
    near = primary.mean((-2, -1), keepdim=True)
    around = torch.lerp(near, near.mean(1, keepdim=True), spread)
    scatter = 10 ** (-2.5 + 2.5 * scatter)  # 0.003 to 1
    measured = -((primary + scatter * around) / (1 + scatter)).log()
    photons = 10 ** (3.5 + 1.5 * photons)  # a pixel without absorption
    noise = torch.randn(shadows.shape, generator=generator)
    return measured + noise * torch.exp(measured / 2) / photons.sqrt()


def _places(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Of rows and columns, from the middle, in units of the longer side."""
    rows, columns = (torch.arange(n) / max(shape) - n / max(shape) / 2 for n in shape)
    return rows, columns


def _between(count: int, generator: Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform from low to high, (count,)."""
    return low + (high - low) * torch.rand(count, generator=generator)
