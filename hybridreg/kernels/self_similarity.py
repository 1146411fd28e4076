"""Distances of pairs of patches around each voxel, for the descriptor MIND-SSC."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import over_slabs


def pair_distances(
    loops: ModuleType, values: Tensor, pairs: np.ndarray, radius: int
) -> tuple[Tensor, Tensor]:
    """Mean squared differences less the smallest of a voxel, (pairs, *shape); their mean, (*shape).

    values: (*shape). pairs: (pairs, 2, D), steps in voxels to the centers of the two patches, in
    array order. radius: of the patches, which the border of the image cuts. Beyond it values
    repeat.
    """
    flat = values.ndim == 2
    array = values.detach().contiguous().numpy()
    array = array[:, None] if flat else array
    steps = np.ascontiguousarray(np.insert(pairs, 1, 0, axis=2) if flat else pairs, np.int64)
    reach = np.array([radius, 0 if flat else radius, radius], np.int64)
    out = np.empty((len(steps), *array.shape), np.float32)
    mean = np.empty(array.shape, np.float32)
    over_slabs(loops.pair_distances, array.shape, array, steps, reach, out, mean)
    found = torch.from_numpy(out).reshape(len(steps), *values.shape)
    return found, torch.from_numpy(mean).reshape(values.shape)
