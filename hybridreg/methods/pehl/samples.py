"""Training samples of PEHL: residuals of random poses and errors, of projections rendered once."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from hybridreg.drr import Projector
from hybridreg.exposure import saturated
from hybridreg.io.files import whole_file
from hybridreg.kernels.smoothing import smoothed
from hybridreg.methods.pehl.backgrounds import varied
from hybridreg.methods.pehl.placement import GROUPS, Placement, before, corrected
from hybridreg.methods.pehl.residuals import crops, regions, residual
from hybridreg.progress import report

_AT_ONCE = 16
_SHIFT_PX, _ZOOM = 40.0, 0.8  # of backgrounds, from sample to sample


@dataclass(frozen=True)
class Ranges:
    """From where poses and errors are drawn, each uniformly from minus to plus.

    in_plane_mm, in_plane_deg, depth_mm: of tx and ty, theta, tz of a pose; alpha and beta lie in
        the zone.
    errors: for each group, those of (tx, ty, theta, tz, alpha, beta); published ones by default.
    small: the fraction of errors that are made smaller by a random factor, as those of the last
        iterations are.
    centered: which of the two lies in the zone: the "estimate", as published, for zones side by
    side, or the true "pose", for one zone whose estimates may begin outside.
    """

    in_plane_mm: float = 10.0
    in_plane_deg: float = 30.0
    depth_mm: float = 20.0
    errors: tuple[tuple[float, ...], ...] = (
        (1.5, 1.5, 3.0, 15.0, 15.0, 15.0),
        (0.2, 0.2, 0.5, 15.0, 15.0, 15.0),
        (0.15, 0.15, 0.5, 15.0, 0.75, 0.75),
    )
    small: float = 0.0
    centered: Literal["estimate", "pose"] = "estimate"

    def poses(self, count: int, middle: Tensor, zone_deg: float, generator: Generator) -> Tensor:
        """Parameters (count, 6) in a zone about ``middle`` (2,), alpha and beta."""
        plane, turn, half = self.in_plane_mm, self.in_plane_deg, zone_deg / 2
        reach = torch.tensor([plane, plane, turn, self.depth_mm, half, half], dtype=torch.float64)
        center = torch.cat([torch.zeros(4, dtype=torch.float64), middle])
        return center + reach * (2 * torch.rand(count, 6, generator=generator) - 1)

    def drawn_errors(self, count: int, group: str, generator: Generator) -> Tensor:
        """Errors (count, 6) for a group."""
        factor, chosen = torch.rand(2, count, 1, generator=generator)
        factor = torch.where(chosen < self.small, factor, 1.0)
        return self.reach(group) * factor * (2 * torch.rand(count, 6, generator=generator) - 1)

    def reach(self, group: str) -> Tensor:
        """The largest errors of a group, (6,)."""
        return torch.tensor(self.errors[list(GROUPS).index(group)], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Look:
    """How residuals are made: regions around points (N, 3), of ``pixels``, ``width_mm`` wide.

    scatter: of the projection at the estimate, see ``exposure.saturated``.
    """

    placement: Placement
    points: Tensor
    width_mm: float
    pixels: int
    scatter: float

    def regions(self, parameters: Tensor) -> Tensor:
        size = {"width_mm": self.width_mm, "pixels": self.pixels}
        return regions(self.placement, parameters, self.points, **size)


@dataclass(frozen=True, eq=False)
class Pool:
    """Rendered regions of one group in one zone, float16 (S, N, h, w): line integrals.

    projected: at the estimate; shadows: at the true pose. estimates: (S, 6). targets: (S, outputs),
    errors in units of the ranges.
    """

    projected: Tensor
    shadows: Tensor
    estimates: Tensor
    targets: Tensor

    def batch(
        self, index: Tensor, look: Look, behind: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Residuals (B, N, h, w) and targets of samples ``index`` (B,), before random backgrounds.

        behind: backgrounds (K, rows, columns).
        """
        images = behind[torch.randint(len(behind), (len(index),), generator=generator)]
        at = look.regions(self.estimates[index])
        tissue = crops(images, _elsewhere(at, images.shape[-2:], generator))
        measured = varied(self.shadows[index].float(), tissue, generator)
        projected = saturated(self.projected[index].float(), look.scatter)
        return residual(projected, measured), self.targets[index]

    def save(self, path: Path):
        """Writes the samples to a file; complete or absent."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **{name: values.numpy() for name, values in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> Pool:
        """Reads the file of ``save`` (ValueError where it is damaged)."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{name: torch.from_numpy(arrays[name]) for name in arrays.files})
        except (zipfile.BadZipFile, EOFError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove it") from error


def _elsewhere(at: Tensor, shape: tuple[int, int], generator: Generator) -> Tensor:
    """Places (B, N, h, w, 2) on images, turned, mirrored, enlarged and moved;
    each image by itself.
    """
    draws = torch.rand(5, len(at), generator=generator)
    turn, zoom = 2 * torch.pi * draws[0], _ZOOM * 4 ** (draws[1] - 0.5)
    mirrored = torch.where(draws[2] < 0.5, -1.0, 1.0)
    rows = [torch.stack([turn.cos(), -turn.sin()], -1), torch.stack([turn.sin(), turn.cos()], -1)]
    matrix = zoom[:, None, None] * torch.stack([rows[0] * mirrored[:, None], rows[1]], -2)
    middle = torch.tensor([shape[1] - 1.0, shape[0] - 1.0]) / 2
    shift = middle - matrix @ middle + _SHIFT_PX * (draws[3:].T - 0.5)
    return torch.baddbmm(shift[:, None], at.float().flatten(1, 3), matrix.mT).reshape(at.shape)


def render(
    projector: Projector,
    look: Look,
    middle: Tensor,
    *,
    count: int,
    zone_deg: float,
    ranges: Ranges,
    blur_px: float,
    generator: Generator,
) -> dict[str, Pool]:
    """Renders ``count`` samples of each group; the images of one pose are shared by the groups.

    blur_px: the largest sigma of the detector's blur of the radiograph.
    """
    base = ranges.poses(count, middle, zone_deg, generator)
    errors = {group: ranges.drawn_errors(count, group, generator) for group in GROUPS}
    if ranges.centered == "pose":
        pairs = {group: (before(base, error), base) for group, error in errors.items()}
    else:
        pairs = {group: (base, corrected(base, error)) for group, error in errors.items()}
    blurs = blur_px * torch.rand(-(-count // _AT_ONCE), generator=generator)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {group: [] for group in GROUPS}
    for number, part in enumerate(torch.arange(count).split(_AT_ONCE)):
        report(number * _AT_ONCE / count, "rendering samples")
        drawn: dict[int, Tensor] = {}  # by the parameters, which groups share
        for group, pair in pairs.items():
            for parameters in pair:
                if id(parameters) not in drawn:
                    poses = look.placement.matrices(parameters[part])
                    drawn[id(parameters)] = projector(look.placement.detector, poses)[:, 0]
            at = look.regions(pair[0][part])
            sharp, true = (drawn[id(parameters)] for parameters in pair)
            blurred = smoothed(true, (blurs[number].item(),) * 2)
            found[group].append((crops(sharp, at).half(), crops(blurred, at).half()))
    return {
        group: Pool(
            *(torch.cat(images) for images in zip(*found[group], strict=True)),
            estimates=pairs[group][0],
            targets=(errors[group] / ranges.reach(group))[:, list(GROUPS[group])].float(),
        )
        for group in GROUPS
    }
