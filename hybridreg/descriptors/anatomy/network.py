"""The anatomy encoder: what lies around a voxel at several scales, and where, as a unit vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridreg.descriptors.trained_lattice import over_slabs
from hybridreg.descriptors.unit import unit
from hybridreg.kernels.smoothing import smoothed

KIND = "anatomy"
TAPS = 27  # a voxel and its neighbors along z, y and x
PLACES = 9  # z, y, x and their products
_SHOWN = 0.04  # of intensities in [0, 1]: above it is the brain, below the air around


class AnatomyEncoder(nn.Module):
    """Taps (N, scales, 27) and places (N, 9) of voxels -> unit vectors (N, channels).

    labels: the structures of its training; each has a unit vector too, its prototype, near which
    the voxels of that structure are mapped. width, depth: of the hidden layers. scales: distances
    of the taps in voxels; the image is smoothed by half of each.
    """

    def __init__(
        self,
        labels: Sequence[int],
        channels: int = 12,
        width: int = 96,
        depth: int = 2,
        scales: Sequence[int] = (1, 2, 4, 8, 16),
    ):
        super().__init__()
        if min(channels - 1, width, depth, *scales) < 1:
            raise ValueError(
                "the anatomy encoder needs 2 channels or more, and a width, a depth and "
                "scales of 1 or more"
            )
        self.labels, self.scales = list(labels), list(scales)
        self.taps = nn.Parameter(torch.zeros(width, len(scales), TAPS))
        self.places = nn.Linear(PLACES, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, channels)
        self.prototypes = nn.Parameter(torch.zeros(len(labels), channels))
        self.sharpness = nn.Parameter(torch.tensor(10.0))

    def forward(self, taps: Tensor, places: Tensor) -> Tensor:
        found = taps.flatten(1) @ self.taps.flatten(1).T + self.places(places)
        return self._from_first(found)

    def scores(self, vectors: Tensor) -> Tensor:
        """How well each structure fits vectors (N, channels): logits (N, labels)."""
        return self.sharpness * vectors @ unit(self.prototypes.T)

    @torch.no_grad()
    def dense(self, values: Tensor) -> Tensor:
        """The descriptors of all voxels of an image: (1, *shape) -> (channels, *shape)."""
        scales, where = pyramid(values, self.scales), places(values)
        return over_slabs(
            torch.cat([scales, where]), self._of_slab, reach=max(self.scales), voxels=1 << 18
        )

    def _of_slab(self, values: Tensor) -> Tensor:
        """As ``dense``, of the images of all scales and the places (z, y, x) of a slab."""
        count = len(self.scales)
        found = self.places(products(values[count:].flatten(1).T)).T.reshape(-1, *values.shape[1:])
        for number, scale in enumerate(self.scales):
            weight = self.taps[:, number].reshape(-1, 1, 3, 3, 3)
            padded = F.pad(values[None, number : number + 1], [scale] * 6, mode="replicate")
            found = found + F.conv3d(padded, weight, dilation=scale)[0]
        return self._from_first(found.flatten(1).T).T.reshape(-1, *values.shape[1:])

    def _from_first(self, found: Tensor) -> Tensor:
        found = F.leaky_relu(found, 0.1)
        for layer in self.hidden:
            found = F.leaky_relu(layer(found), 0.1)
        return unit(self.last(found).T).T


def encoder_of(
    labels: list[int], channels: int, width: int, depth: int, scales: list[int]
) -> AnatomyEncoder:
    """The network of a card's arguments."""
    return AnatomyEncoder(labels, channels, width, depth, scales)


def pyramid(values: Tensor, scales: Sequence[int]) -> Tensor:
    """An image (1, *shape) smoothed for taps at several distances: (scales, *shape)."""
    sigmas = [0.0 if scale == 1 else 0.5 * scale for scale in scales]
    return torch.cat([smoothed(values, (sigma,) * 3) for sigma in sigmas])


def brain(values: Tensor) -> Tensor:
    """Which voxels of an image (1, *shape) in [0, 1] are not air: (*shape), bool; all if none."""
    shown = values[0] > _SHOWN
    return shown if shown.any() else torch.ones_like(shown)


def places(values: Tensor) -> Tensor:
    """The place (z, y, x) of each voxel in standard deviations of the brain, from its center."""
    inside = brain(values)
    axes = [torch.arange(n, dtype=torch.float32) for n in inside.shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    points = index[:, inside]
    spread = points.std(1, correction=0).clamp(min=1)
    return (index - points.mean(1)[:, None, None, None]) / spread[:, None, None, None]


def products(where: Tensor) -> Tensor:
    """Places (N, 3) and their products, (N, 9)."""
    z, y, x = where.T
    return torch.stack([z, y, x, z * z, y * y, x * x, z * y, z * x, y * x], 1)
