"""MIND-SSC: self-similarity of the neighborhood of a voxel, independent of contrast."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from hybridreg.descriptors.base import image_of
from hybridreg.images import Image
from hybridreg.kernels.compiled import loops
from hybridreg.kernels.self_similarity import pair_distances
from hybridreg.similarity import box_sum

_LIMITS = 1e-3, 1e3  # of the local variance estimate, in its mean over the image (as published)


@dataclass(frozen=True)
class Mind:
    """Modality independent neighborhood descriptor with self-similarity context (Heinrich 2013).

    The 6 neighbors of a voxel (4 in 2D) make 12 pairs (4) that share an edge. Each pair is a
    channel: exp(-(d - d_min) / V), d the mean squared difference of the patches around its two
    neighbors and V the mean of d - d_min over the pairs. Scaled to unit norm at every voxel, so the
    sum of squared differences of two is 2 - 2 times their correlation. It does not change with
    brightness and contrast, reversed contrast included.

    radius: of the patches in voxels, (2 radius + 1) along every axis; a larger one is less noisy
        and shows less detail.
    dilation: from a voxel to its neighbors, in voxels; a larger one sees coarser structure.
    """

    radius: int = 1
    dilation: int = 2

    def __post_init__(self):
        if self.radius < 0 or self.dilation < 1:
            raise ValueError(
                "mind needs a radius of 0 voxels or more and a dilation of 1 or more, found "
                f"{self.radius} and {self.dilation}"
            )

    def __call__(self, image: Image) -> Image:
        return image_of([self._described(channel) for channel in image.data], image)

    def _described(self, values: Tensor) -> Tensor:
        distances, variance = self._differing(values)
        low, high = (limit * variance.mean() for limit in _LIMITS)
        tiny = torch.finfo(values.dtype).tiny  # a constant image has no variance at all
        described = distances.div_(variance.clamp(low, high).clamp(min=tiny)).neg_().exp_()
        return described.div_(described.norm(dim=0))

    def _differing(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The distances less the smallest of each voxel, (pairs, *shape), and their mean,
        (*shape).
        """
        if compiled := loops("self_similarity", values):
            return pair_distances(compiled, values, _pairs(values.ndim, self.dilation), self.radius)
        distances = self._distances(values)
        distances -= distances.amin(0)
        return distances, distances.mean(0)

    def _distances(self, values: Tensor) -> Tensor:
        """Mean squared differences of the patches of each pair, shape (pairs, *shape)."""
        count = box_sum(torch.ones_like(values)[None], self.radius)
        pairs = _pairs(values.ndim, self.dilation)
        differences = ((_at(values, a) - _at(values, b)).square()[None] for a, b in pairs)
        return torch.cat([box_sum(d, self.radius).div_(count) for d in differences])


def _pairs(dimension: int, dilation: int) -> np.ndarray:
    """The steps in voxels, array order, from a voxel to both neighbors of each pair: (pairs, 2,
    D).
    """
    along = dilation * np.eye(dimension, dtype=np.int64)
    neighbors = [(axis, sign * along[axis]) for axis in range(dimension) for sign in (-1, 1)]
    return np.array([(a, b) for (i, a), (j, b) in combinations(neighbors, 2) if i != j])


def _at(values: Tensor, steps: np.ndarray) -> Tensor:
    """values at so many voxels from each along every axis; the border repeats."""
    for axis, step in enumerate(steps.tolist()):
        last = values.shape[axis] - 1
        places = torch.arange(last + 1, device=values.device).add_(step).clamp_(0, last)
        values = values.index_select(axis, places) if step else values
    return values
