"""Synthetic backgrounds of radiographs, and how a detector varies: what a network should learn to ignore."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.exposure import saturated

_BONES = 4  # at most


def backgrounds(count: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Line integrals (count, rows, columns) of random soft tissue and long bones, about 0 to 6."""
    rows, columns = (torch.arange(n) / max(shape) - n / max(shape) / 2 for n in shape)
    found = 1 + 3 * _between(count, generator)[:, None, None] + _clouds(count, shape, generator)
    for _ in range(_BONES):
        shown = (torch.rand(count, generator=generator) < 0.6)[:, None, None]
        found = found + shown * _bones(count, rows[:, None], columns, generator)
    return found.clamp(min=0)


def _clouds(count: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Smooth variation over several scales."""
    total = torch.zeros(count, *shape)
    for cells, size in ((3, 0.6), (7, 0.25), (17, 0.1), (41, 0.04)):
        coarse = torch.randn(count, 1, cells, cells, generator=generator)
        total += size * F.interpolate(coarse, shape, mode="bicubic", align_corners=True)[:, 0]
    return total


def _bones(count: int, y: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
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


def varied(shadows: Tensor, behind: Tensor, generator: torch.Generator) -> Tensor:
    """Regions (B, N, h, w) of an object's line integrals as a detector might show them, before a background.

    The contrast of the object, the background's, scatter and quantum noise differ from image to image.
    """
    draws = (_between(len(shadows), generator)[:, None, None, None] for _ in range(4))
    contrast, other, scatter, photons = draws
    total = (0.5 + contrast) * shadows + 1.2 * other * behind
    scatter = 10 ** (-2.5 + 2 * scatter)  # 0.003 to 0.3
    measured = saturated(total, scatter)
    photons = 10 ** (3.5 + 1.5 * photons)  # a pixel without absorption
    noise = (
        torch.randn(shadows.shape, generator=generator) * torch.exp(measured / 2) / photons.sqrt()
    )
    return measured + noise


def _between(count: int, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(count, generator=generator)
