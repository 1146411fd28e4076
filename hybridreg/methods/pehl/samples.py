"""Training samples of PEHL: residuals of random poses and errors, of projections rendered once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from hybridreg.drr import Projector
from hybridreg.kernels.smoothing import smoothed
from hybridreg.methods.pehl.backgrounds import backgrounds, varied
from hybridreg.methods.pehl.placement import GROUPS, Placement, before, corrected
from hybridreg.methods.pehl.residuals import crops, regions, residual, saturated

_AT_ONCE = 16


@dataclass(frozen=True)
class Ranges:
    """From where poses and errors are drawn, each uniformly from minus to plus.

    in_plane_mm, in_plane_deg, depth_mm: of tx and ty, theta, tz of a pose; alpha and beta lie in the zone.
    errors: for each group, those of (tx, ty, theta, tz, alpha, beta); published ones by default.
    centered: which of the two lies in the zone: the "estimate", as published, for zones side by side,
    or the true "pose", for one zone whose estimates may begin outside.
    """

    in_plane_mm: float = 10.0
    in_plane_deg: float = 30.0
    depth_mm: float = 20.0
    errors: tuple[tuple[float, ...], ...] = (
        (1.5, 1.5, 3.0, 15.0, 15.0, 15.0),
        (0.2, 0.2, 0.5, 15.0, 15.0, 15.0),
        (0.15, 0.15, 0.5, 15.0, 0.75, 0.75),
    )
    centered: Literal["estimate", "pose"] = "estimate"

    def poses(self, count: int, middle: Tensor, zone_deg: float, generator: Generator) -> Tensor:
        """(count, 6)"""
        plane, turn, half = self.in_plane_mm, self.in_plane_deg, zone_deg / 2
        reach = torch.tensor([plane, plane, turn, self.depth_mm, half, half], dtype=torch.float64)
        center = torch.cat([torch.zeros(4, dtype=torch.float64), middle])
        return center + reach * (2 * torch.rand(count, 6, generator=generator) - 1)

    def drawn_errors(self, count: int, group: str, generator: Generator) -> Tensor:
        """(count, 6)"""
        reach = torch.tensor(self.errors[list(GROUPS).index(group)], dtype=torch.float64)
        return reach * (2 * torch.rand(count, 6, generator=generator) - 1)


@dataclass(frozen=True, eq=False)
class Look:
    """How residuals are made: regions of ``pixels`` that are ``width_mm`` wide; see ``residuals``."""

    width_mm: float
    pixels: int
    scatter: float


@dataclass(frozen=True, eq=False)
class Pool:
    """Rendered regions for one zone: by group, (S, N, h, w) at the estimate and at the true pose.

    estimates: (S, 6) for each group; targets: (S, parameters of the group), in units of the ranges.
    behind: backgrounds (K, rows, columns).
    """

    projected: dict[str, Tensor]
    shadows: dict[str, Tensor]
    places: dict[str, Tensor]
    targets: dict[str, Tensor]
    behind: Tensor

    def batch(self, index: Tensor, group: str, scatter: float, generator: Generator) -> tuple[Tensor, Tensor]:
        """Residuals (B, N, h, w) and targets of samples ``index`` (B,), before random backgrounds."""
        chosen = torch.randint(len(self.behind), (len(index),), generator=generator)
        images = self.behind[chosen]
        for axis in (1, 2):
            turned = torch.rand(len(index), 1, 1, generator=generator) < 0.5
            images = torch.where(turned, images.flip(axis), images)
        places = self.places[group][index].double()
        move = 40 * (torch.rand(len(index), 1, 1, 1, 2, generator=generator).double() - 0.5)
        behind = crops(images, places + move)
        measured = varied(self.shadows[group][index].float(), behind, generator)
        projected = saturated(self.projected[group][index].float(), scatter)
        return residual(projected, measured), self.targets[group][index]


def render(
    projector: Projector,
    placement: Placement,
    points: Tensor,
    middle: Tensor,
    *,
    count: int,
    zone_deg: float,
    ranges: Ranges,
    look: Look,
    blur_px: float,
    behind: int,
    generator: Generator,
) -> Pool:
    """Renders ``count`` samples for each group. The images of one pose or estimate are shared by the groups.

    blur_px: the largest sigma of the detector's blur of the radiograph.
    """
    detector = placement.detector
    base = ranges.poses(count, middle, zone_deg, generator)
    centered_true = ranges.centered == "pose"
    parts: dict[str, dict[str, list]] = {
        n: {g: [] for g in GROUPS} for n in ("projected", "shadows", "places")
    }
    targets = {}
    others = {}
    for group, chosen in GROUPS.items():
        error = ranges.drawn_errors(count, group, generator)
        others[group] = (before if centered_true else corrected)(base, error)
        scale = torch.tensor(ranges.errors[list(GROUPS).index(group)], dtype=torch.float64)
        targets[group] = (error / scale)[:, list(chosen)].float()
    blurs = blur_px * torch.rand(-(-count // _AT_ONCE), generator=generator)
    for number, part in enumerate(torch.arange(count).split(_AT_ONCE)):
        blur = (blurs[number].item(),) * 2
        shared = projector(detector, placement.matrices(base[part]))[:, 0]
        for group in GROUPS:
            other = projector(detector, placement.matrices(others[group][part]))[:, 0]
            estimate, true = (other, shared) if centered_true else (shared, other)
            start = others[group][part] if centered_true else base[part]
            at = regions(placement, start, points, width_mm=look.width_mm, pixels=look.pixels)
            parts["projected"][group].append(crops(estimate, at).half())
            parts["shadows"][group].append(crops(smoothed(true, blur), at).half())
            parts["places"][group].append(at.float())
    joined = {n: {g: torch.cat(v) for g, v in by.items()} for n, by in parts.items()}
    return Pool(**joined, targets=targets, behind=backgrounds(behind, detector.shape, generator))
