"""A small network distilled from the published one, at a hundredth of its cost."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hybridreg.fusion.network import check_size, patches_along, spread
from hybridreg.io.checkpoints import read_checkpoint

FAST_KIND = "fusion-fast"
FAST_ARCHITECTURE = (
    "conv 5x5x32 at stride 2, conv 3x3x64 at stride 2, conv 3x3x64 twice, conv 1x1x4 of "
    "the evidence "
    "for the four 16 x 16 patches that begin in 4 x 4 pixels; the weight of an image is "
    "the logistic "
    "function of its evidence less that of the other"
)
_EVIDENCE = 100.0  # scale of the output: the order of magnitude of the published evidence
_AHEAD = 3  # rows of evidence before the one at the middle of the first patch


class FastNetwork(nn.Module):
    """Evidence of one image, patch by patch; the difference between two images gives the weights.

    The published network computes features of each image separately and sums their scores, so its
    output is a difference of two such maps, which this network learns (``distillation``).
    """

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 4, 1),
            nn.PixelShuffle(2),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Evidence for every 16 x 16 patch at stride 2, (N, rows, columns), of images (N, y, x)."""
        rows, columns = (patches_along(n) for n in images.shape[1:])
        images = images[:, None].contiguous(memory_format=torch.channels_last)
        found = self.layers(images)[:, 0, _AHEAD:, _AHEAD:]
        return _EVIDENCE * found[:, :rows, :columns]

    @torch.no_grad()
    def weight_map(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """Weight of ``fixed`` in [0, 1]; both (y, x), at least 15 x 15, intensities in [0, 1]."""
        check_size(fixed.shape)
        first, second = self(torch.stack([fixed, moved]))
        return spread(torch.sigmoid(first - second), fixed.shape)


def fast_network(weights: str | Path = FAST_KIND) -> FastNetwork:
    """The fast network with trained weights: packaged ones by name, or a checkpoint file."""
    network = read_checkpoint(weights, kind=FAST_KIND).fill(FastNetwork())
    return network.to(memory_format=torch.channels_last)
