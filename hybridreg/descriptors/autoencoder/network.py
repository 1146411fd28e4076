"""The stacked autoencoder, for patches and, by the same weights, for every voxel of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridreg.descriptors.trained_lattice import over_slabs

KIND = "autoencoder"


class StackedAutoencoder(nn.Module):
    """Layers of convolutions, each with a decoder; the last gives the descriptor (Wu 2016).

    widths: channels of each layer, the last one's are those of the descriptor. kernels, dilations:
    of each layer in voxels. A dilated layer sees wider without pooling, so that every voxel of an
    image has a descriptor of its own. Hidden layers end in tanh; the last layer is linear.
    steps: of its training, which say what it learns next.
    """

    def __init__(
        self,
        dimension: int = 3,
        widths: Sequence[int] = (16, 16, 12),
        kernels: Sequence[int] = (5, 3, 3),
        dilations: Sequence[int] = (1, 1, 2),
    ):
        super().__init__()
        if dimension not in (2, 3):
            raise ValueError(f"images have 2 or 3 dimensions, found {dimension}")
        if not len(widths) == len(kernels) == len(dilations) > 0:
            raise ValueError(
                "widths, kernels and dilations need one number for each layer, found "
                f"{len(widths)}, {len(kernels)} and {len(dilations)}"
            )
        if any(k % 2 == 0 for k in kernels) or min(*widths, *kernels, *dilations) < 1:
            raise ValueError(f"kernels are odd, and all numbers at least 1; found {kernels}")
        encoder = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
        decoder = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimension]
        shapes = list(zip((1, *widths), widths, kernels, dilations))
        self.encoders = nn.ModuleList(encoder(i, o, k, dilation=d) for i, o, k, d in shapes)
        self.decoders = nn.ModuleList(decoder(o, i, k, dilation=d) for i, o, k, d in shapes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.dimension = dimension
        self._reaches = [d * (k // 2) for k, d in zip(kernels, dilations)]

    def reach_of(self, layer: int) -> int:
        """Voxels to each side that the output of a layer depends on."""
        return sum(self._reaches[: layer + 1])

    @property
    def reach(self) -> int:
        """Voxels to each side that a descriptor depends on."""
        return sum(self._reaches)

    @property
    def patch(self) -> int:
        """Voxels along every axis of the patch that one descriptor sees."""
        return 2 * self.reach + 1

    def encoded(self, values: Tensor, layer: int) -> Tensor:
        """(N, C, *shape) -> (N, C', *shape less the layer's reach)."""
        found = self.encoders[layer](values)
        return found if layer == len(self.encoders) - 1 else found.tanh()

    def decoded(self, values: Tensor, layer: int) -> Tensor:
        """The input of a layer again, of its output; for the first layer intensities.

        Where the decoded patches of several descriptors overlap it is their mean: a sum, of up to
        125, would saturate all layers after they were trained one by one.
        """
        decoder = self.decoders[layer]
        transposed = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[self.dimension]
        found = transposed(values, decoder.weight, dilation=decoder.dilation)
        one = values.new_ones(1, 1, *values.shape[2:])
        kernel = values.new_ones(1, 1, *decoder.kernel_size)
        count = transposed(one, kernel, dilation=decoder.dilation).clamp(min=1)
        found = found / count + decoder.bias.reshape(-1, *[1] * self.dimension)
        return found.tanh() if layer else found

    def forward(self, patches: Tensor) -> Tensor:
        """The descriptor of the middle of each patch: (N, 1, *patch) -> (N, C, 1, 1[, 1])."""
        for layer in range(len(self.encoders)):
            patches = self.encoded(patches, layer)
        return patches

    def reconstructed(self, patches: Tensor) -> Tensor:
        """Patches (N, 1, *patch) again, from the descriptor of their middle alone."""
        found = self(patches)
        for layer in reversed(range(len(self.decoders))):
            found = self.decoded(found, layer)
        return found

    @torch.no_grad()
    def dense(self, values: Tensor) -> Tensor:
        """The descriptors of all voxels of an image: (1, *shape) -> (C, *shape).

        Beyond the border values repeat.
        """
        padded = F.pad(values[None], [self.reach] * 2 * (values.ndim - 1), mode="replicate")[0]
        inner = (slice(None), *[slice(self.reach, -self.reach)] * (values.ndim - 1))
        found = over_slabs(padded, self._same_shape, reach=self.reach)
        return found[inner]

    @torch.no_grad()
    def dense_of_empty(self) -> Tensor:
        """The descriptor of a patch of zeros: (C, 1, 1[, 1])."""
        return self(self.encoders[0].weight.new_zeros(1, 1, *[self.patch] * self.dimension))[0]

    def _same_shape(self, values: Tensor) -> Tensor:
        """As ``forward``, with zeros where the patch is not complete."""
        found = self(values[None])[0]
        return F.pad(found, [self.reach] * 2 * (values.ndim - 1))


def autoencoder_of(
    dimension: int, widths: list[int], kernels: list[int], dilations: list[int]
) -> StackedAutoencoder:
    """The network of a card's arguments."""
    return StackedAutoencoder(dimension, widths, kernels, dilations)
