"""Critical points of an image: distinctive ones, everywhere that there are any."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.similarity import box_sum

_DISTANCE = 2  # voxels to the neighbors that a point should differ from
_LEAST = 0.05  # of the distinctiveness that 5 % of the distinctive voxels exceed


def distinctiveness(channels: Tensor, radius: int) -> Tensor:
    """How much the neighborhood of each voxel differs from those beside it, (*shape).

    channels: attribute vectors (C, *shape). The mean squared difference of the neighborhoods of
    ``radius`` voxels to those at a distance of 2 voxels along an axis: the smaller one of the two
    directions, averaged over axes.
    """
    count = box_sum(torch.ones_like(channels[:1]), radius)
    by_axis = []
    for axis, size in enumerate(channels.shape[1:], start=1):
        if size <= _DISTANCE:
            continue
        ahead = channels.narrow(axis, _DISTANCE, size - _DISTANCE)
        behind = channels.narrow(axis, 0, size - _DISTANCE)
        found = (ahead - behind).square().sum(0, keepdim=True)
        ends = [0, 0] * (channels.ndim - 1 - axis)
        pairs = [
            box_sum(F.pad(found, [*ends, *pad]), radius) for pad in ((0, _DISTANCE), (_DISTANCE, 0))
        ]
        by_axis.append(torch.minimum(*pairs).div_(count))
    return torch.stack(by_axis).mean(0)[0] if by_axis else torch.zeros_like(channels[0])


def critical_points(measure: Tensor, weight: Tensor | None, cell: int) -> Tensor:
    """The most distinctive voxel of every cell of so many voxels a side, (N, D) in array order.

    measure: the distinctiveness (*shape). weight: (*shape) or None; no points below one half.
    Cells without a distinctive voxel have none. Sorted, the most distinctive first.
    """
    if weight is not None:
        measure = measure * (weight > 0.5)
    shown = measure[measure > 0]
    if not len(shown):
        return torch.zeros(0, measure.ndim, dtype=torch.int64, device=measure.device)
    step = max(1, len(shown) // 100_000)
    least = _LEAST * torch.quantile(shown.flatten()[::step], 0.95)
    pool = F.max_pool3d if measure.ndim == 3 else F.max_pool2d
    best, where = pool(measure[None, None], cell, ceil_mode=True, return_indices=True)
    best, where = best.flatten(), where.flatten()
    where, best = where[best > least], best[best > least]
    where = where[best.argsort(descending=True, stable=True)]
    return torch.stack(torch.unravel_index(where, measure.shape), 1)
