"""Arrays in the patient's orientation: a network sees left on the same side in every image."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridreg.io.target_store import StoredTarget
from hybridreg.momentum import along_axes
from hybridreg.target_patches import IMAGES, SHOWN


def upright(case: StoredTarget, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values of a stored case on its upright grid, vectors along the axes of that grid."""
    order, turned = case.grid.upright_axes()
    grid = case.grid.with_axes(order, turned)
    found = {}
    for name, data in values.items():
        data = data.permute(0, *[axis + 1 for axis in order]).flip([axis + 1 for axis in turned])
        is_vector = name not in IMAGES and name != SHOWN
        found[name] = along_axes(data, grid) if is_vector else data
    return found


def mirrored(batch: dict[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """Upright patches (N, ...), those ``chosen`` (N,) with left and right exchanged."""
    found = {}
    for name, data in batch.items():
        turned = data.flip(-1)
        if name not in IMAGES:
            turned[:, 0] = -turned[:, 0]
        found[name] = torch.where(chosen.reshape(-1, *[1] * (data.ndim - 1)), turned, data)
    return found
