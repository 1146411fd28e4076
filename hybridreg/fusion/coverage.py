"""Fusion where one image covers less of the patient than the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor

from hybridreg.geometry import Grid
from hybridreg.pyramids import Steps, expand, reduce


@dataclass(frozen=True, eq=False)
class Coverage:
    """The weights of the three sources of a voxel; their sum is 1, or 0 where no image has data.

    fixed, moved: weights of the images themselves; both: of their fusion. All of the grid's shape.
    """

    fixed: Tensor
    moved: Tensor
    both: Tensor

    def compose(self, fixed: Tensor, moved: Tensor, fused: Tensor) -> Tensor:
        """The whole image from its three parts."""
        # A source may hold any finite value where it is not valid; its weight is 0 there.
        return self.fixed * fixed + self.moved * moved + self.both * fused


def coverage(
    fixed_valid: Tensor, moved_valid: Tensor, grid: Grid, *, feather_mm: float
) -> Coverage:
    """The weights, from where the images are valid (bool).

    Where only one is valid, it is used as it is. From there the weight of the fusion rises over
    ``feather_mm``, within the region covered by both. A wider feather makes the seam less visible.
    """
    fixed = _rise(moved_valid & ~fixed_valid, grid, feather_mm)  # falls to 0 where it is missing
    moved = _rise(fixed_valid & ~moved_valid, grid, feather_mm)
    fixed, moved = fixed * fixed_valid, moved * moved_valid
    total = fixed + moved - fixed * moved
    total[total == 0] = 1  # no data in either: all three weights are 0
    return Coverage(*(s / total for s in (fixed * (1 - moved), moved * (1 - fixed), fixed * moved)))


def _rise(missing: Tensor, grid: Grid, feather_mm: float) -> Tensor:
    """0 where missing, rising with the distance from there to 1 at ``feather_mm``."""
    if not missing.any():
        return torch.ones(grid.shape)
    distance = ndimage.distance_transform_edt(~missing.numpy(), sampling=grid.spacing[::-1])
    rise = torch.from_numpy(distance).to(torch.float32)
    return (rise / feather_mm).clamp_(max=1) if feather_mm else (rise > 0).float()


def extrapolate(image: Tensor, valid: Tensor, steps: Steps) -> Tensor:
    """The image as it is where valid, smoothly continued elsewhere, from coarse to fine.

    So the border of the valid region is not an edge in the pyramids of a fusion.
    """
    if valid.all():
        return image
    known = torch.where(valid, image, 0)
    if not steps:
        axes = tuple(range(1, image.ndim))
        mean = known.sum(axes, keepdim=True) / valid.sum(axes, keepdim=True).clamp(min=1)
        return torch.where(valid, image, mean)
    support = reduce(valid.to(image), steps[0])
    coarse = torch.where(support > 0, reduce(known, steps[0]) / support.clamp(min=1e-6), 0)
    coarse = extrapolate(coarse, support > 0, steps[1:])
    return torch.where(valid, image, expand(coarse, steps[0], shape=image.shape))
