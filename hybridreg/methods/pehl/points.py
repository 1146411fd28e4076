"""The points of an object whose local residuals tell its pose, chosen for a zone of angles (Miao 2016, III.B).

Candidates lie on edges of the projection at the middle of the zone that come from one place in
depth; of these, points are taken one by one whose residual varies most with the error of the pose
and least with the pose itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.drr import Projector
from hybridreg.exposure import saturated
from hybridreg.images import Image
from hybridreg.methods.pehl.placement import Placement, corrected
from hybridreg.methods.pehl.residuals import crops, regions, residual
from hybridreg.transforms import interpolate

_STEP_MM = 0.5  # along a ray
_AT_ONCE = 32


@dataclass(frozen=True)
class Choice:
    """How points are chosen.

    edges: of pixels whose gradient is at least this fraction of the largest. near_mm, focus: a
    candidate's gradient comes to at least ``focus`` from within near_mm along its ray. overlap: of
    two regions' areas, at most. candidates: at most. draws: poses, and as many errors of each.
    """

    edges: float = 0.3
    near_mm: float = 2.0
    focus: float = 0.9
    overlap: float = 0.25
    candidates: int = 150
    draws: int = 32


def candidates(
    mu: Image, placement: Placement, middle: Tensor, choice: Choice, generator: torch.Generator
) -> Tensor:
    """Points (P, 3), CT mm, on edges of the projection at the parameters ``middle`` (6,)."""
    pose = placement.matrices(middle)
    image = Projector(mu)(placement.detector, pose)[0]
    steep = torch.stack(torch.gradient(image)).norm(dim=0).flatten()
    (chosen,) = (steep >= choice.edges * steep.max()).nonzero(as_tuple=True)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    source = (pose @ torch.tensor([*placement.detector.source, 1.0], dtype=torch.float64))[:3]
    rays = placement.detector.rays[chosen] @ pose[:3, :3].T
    rays = rays / rays.norm(dim=-1, keepdim=True)
    middles = mu.grid.center - source
    half = mu.grid.diagonal / 2
    depths = middles.norm() + torch.arange(-half, half, _STEP_MM, dtype=torch.float64)
    slopes = _slopes(mu)
    found: list[Tensor] = []
    for part in rays.split(256):
        places = source + part[:, None] * depths[:, None]  # (R, K, 3)
        found.append(_focused(slopes, mu, places, part, choice))
        if sum(map(len, found)) >= choice.candidates:
            break
    return torch.cat(found)[: choice.candidates]


def _focused(slopes: Tensor, mu: Image, places: Tensor, rays: Tensor, choice: Choice) -> Tensor:
    """The places (R, K, 3) along each ray where its gradient comes from, of those that have one."""
    vectors = interpolate(slopes, mu.grid, places.flatten(0, 1))[0]
    vectors = vectors.T.unflatten(0, places.shape[:2]).to(torch.float64)  # (R, K, 3)
    vectors = vectors - (vectors * rays[:, None]).sum(-1, keepdim=True) * rays[:, None]
    total = vectors.sum(1)
    size = total.norm(dim=-1).clamp(min=1e-12)
    along = (vectors * (total / size[:, None])[:, None]).sum(-1)  # (R, K)
    # In the middle of what contributes: where a ray enters and leaves near an edge, between both.
    window = 2 * round(choice.near_mm / _STEP_MM) + 1
    near = window * F.avg_pool1d(along[:, None], window, stride=1, padding=window // 2)[:, 0]
    most, at = near.max(1)
    return places[torch.arange(len(at)), at][most >= choice.focus * size]


def _slopes(mu: Image) -> Tensor:
    """The gradient of the attenuation in CT axes, (3, z, y, x)."""
    by_axis = torch.gradient(mu.data[0], spacing=[float(s) for s in mu.grid.spacing[::-1]])[::-1]
    axes = torch.tensor(mu.grid.direction, dtype=torch.float32)
    return torch.einsum("ij,jzyx->izyx", axes, torch.stack(by_axis))


def chosen_points(
    projector: Projector,
    placement: Placement,
    found: Tensor,
    poses: Tensor,
    errors: Tensor,
    *,
    count: int,
    width_mm: float,
    pixels: int,
    scatter: float,
    choice: Choice,
) -> Tensor:
    """Of candidates (P, 3) the ``count`` best; poses (T, 6), errors (K, 6) of parameters.

    ValueError where fewer can be had.
    """
    size = {"width_mm": width_mm, "pixels": pixels}
    stable, telling = _variances(
        projector, placement, found, poses, errors, scatter=scatter, **size
    )
    merit = telling / stable.clamp(min=1e-12)
    upright = poses.mean(0, keepdim=True) * torch.tensor([1, 1, 0, 1, 1, 1])
    at = regions(placement, upright, found, **size)[0]  # (P, h, w, 2)
    middles = at.mean((1, 2))
    wide = (at[0, 0, -1] - at[0, 0, 0]).abs().amax() * pixels / (pixels - 1)
    taken: list[int] = []
    free = torch.ones(len(found), dtype=torch.bool)
    while len(taken) < count and free.any():
        best = int(torch.where(free, merit, -1.0).argmax())
        taken.append(best)
        shared = (1 - (middles - middles[best]).abs() / wide).clamp(min=0).prod(-1)
        free &= shared <= choice.overlap
    if len(taken) < count:
        raise ValueError(
            f"of {len(found)} points on edges only {len(taken)} have regions that "
            "overlap by at most "
            f"{choice.overlap:.0%}, and {count} are wanted: ask for fewer points or smaller regions"
        )
    return found[taken]


def _variances(
    projector: Projector,
    placement: Placement,
    found: Tensor,
    poses: Tensor,
    errors: Tensor,
    *,
    scatter: float,
    **size,
) -> tuple[Tensor, Tensor]:
    """Of the residual of each candidate (P,): over poses, and over errors."""
    count, total, squares, by_error = len(poses), 0.0, 0.0, 0.0

    def projected(parameters: Tensor, at: Tensor) -> Tensor:
        parts = [
            projector(placement.detector, placement.matrices(p))[:, 0]
            for p in parameters.split(_AT_ONCE)
        ]
        return crops(
            saturated(torch.cat(parts), scatter), at.expand(len(parameters), *at.shape[1:])
        )

    for pose in poses:
        at = regions(placement, pose[None], found, **size)
        reference = projected(pose[None], at)
        lir = residual(
            reference, projected(corrected(pose.expand(errors.shape), errors), at)
        )  # (K, P, h, w)
        by_error = by_error + lir.var(0).sum((-2, -1)) / count
        total, squares = total + lir / count, squares + lir.square() / count
    by_pose = (squares - total.square()).clamp(min=0).sum((-2, -1)).mean(0)
    return by_pose, by_error
