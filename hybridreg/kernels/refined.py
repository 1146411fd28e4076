"""Images sampled through the displacement of a coarser lattice: compiled loops alone.

The displacement is interpolated linearly where it is needed, never stored at the voxels of the
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import (
    flat_vectors,
    loops,
    over_slabs,
    vector_volume,
    volume,
)
from hybridreg.kernels.sampling import Placement, add_parts

_LEAST = 16  # slices of a slab, which share the coarse ones next to them


@dataclass(frozen=True, eq=False)
class Knots:
    """Where fine voxels lie in a coarse lattice of the same axes: a number of voxels, (x, y[,
    z]).
    """

    places: tuple[np.ndarray, ...]
    counts: tuple[int, ...]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The lower neighbors and the weights of the upper ones, rows x, y and z, for the loops."""
        places = list(zip(self.places, self.counts, strict=True))
        if len(places) == 2:
            places.insert(1, (np.zeros(1), 1))
        longest = max(len(place) for place, _ in places)
        lower, upper = np.zeros((3, longest), np.int32), np.zeros((3, longest), np.float32)
        for axis, (place, count) in enumerate(places):
            place = np.clip(place, 0, count - 1)
            lower[axis, : len(place)] = np.minimum(place, max(count - 2, 0))
            upper[axis, : len(place)] = place - lower[axis, : len(place)]
        return lower, upper


def sample(values: Tensor, coarse: Tensor, knots: Knots, placement: Placement) -> Tensor:
    """Values (C, *their shape) at the fine voxels, displaced by u, (C, *fine shape).

    coarse: u, (D, *coarse shape) in mm. placement: of the fine voxels.
    """
    shape = tuple(len(place) for place in reversed(knots.places))
    out = torch.empty(len(values), *shape)
    into = volume(out)
    arguments = _arguments(values, coarse, knots, placement)
    over_slabs(loops("refined").sample, into.shape[1:], *arguments, into)
    return out


def gradient(
    values: Tensor, coarse: Tensor, knots: Knots, placement: Placement, adjoint: Tensor
) -> Tensor:
    """Of the samples times an adjoint, with respect to u, (D, *coarse shape)."""
    arguments, a = _arguments(values, coarse, knots, placement), volume(adjoint)
    parts = over_slabs(loops("refined").gradient, a.shape[1:], *arguments, a, least=_LEAST)
    out = np.zeros_like(vector_volume(coarse))
    add_parts(parts, out)
    return flat_vectors(out, len(coarse))


def _arguments(
    values: Tensor, coarse: Tensor, knots: Knots, placement: Placement
) -> tuple[np.ndarray, ...]:
    v = volume(values)
    image = v.reshape(len(v), -1), np.array(v.shape[1:])
    return *image, vector_volume(coarse), *knots.arrays(), *placement.arrays
