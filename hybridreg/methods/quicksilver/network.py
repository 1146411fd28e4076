"""The network of Quicksilver, layer by layer as published: two encoders, one decoder per axis.

Yang, Kwitt, Styner, Niethammer: Quicksilver, NeuroImage 158 (2017), and their code. Prediction and
correction networks are the same. Published width: 64.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

KIND, CORRECTION_KIND = "quicksilver", "quicksilver-correction"  # of weights
PATCH = 15  # voxels along an axis, as published
DROPOUT = 0.2  # of the probabilistic network, as published
_SLOPE = 0.25  # of PReLU at first
_FIRST_OUTPUT = 0.1  # of the standard deviation of the features before it
_CONV = {2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}


def momentum_network(
    dimension: int, width: int = 64, dropout: float = 0.0, scale: float = 1.0
) -> MomentumNetwork:
    """A network from the arguments in its card (ValueError for impossible ones)."""
    return MomentumNetwork(dimension, width, dropout, scale)


class MomentumNetwork(nn.Module):
    """Patches of both images -> the momentum there; no batch norm and no skip connections.

    dimension: 2 or 3. width: channels of the first block, 64 as published. dropout: probability
    after every PReLU that does not follow a change of resolution; 0.2 in the published
    probabilistic network, else 0. scale: of the momentum; the last layer's output is multiplied
    by it.
    """

    def __init__(self, dimension: int, width: int = 64, dropout: float = 0.0, scale: float = 1.0):
        super().__init__()
        if dimension not in _CONV or width < 1 or not 0 <= dropout < 1 or not scale > 0:
            raise ValueError(
                "a network needs dimension 2 or 3, width of at least 1, dropout from 0 "
                "to less than "
                f"1 and scale above 0; found {dimension}, {width}, {dropout} and {scale}"
            )
        self.dimension, self.scale = dimension, scale
        self.fixed = _encoder(dimension, width, dropout)
        self.moving = _encoder(dimension, width, dropout)
        self.axes = nn.ModuleList(_decoder(dimension, width, dropout) for _ in range(dimension))

    def initialize(self, generator: Generator):
        """Random weights that keep the variance from layer to layer (He 2015), and small outputs.

        torch's own shrink it by a factor of about 2 in each of the 16 layers, so that for the first
        thousands of steps the output hardly depends on the images.
        """
        for module in self.modules():
            if isinstance(module, (*_CONV[2], *_CONV[3])):
                gain = nn.init.calculate_gain("leaky_relu", _SLOPE)
                inputs = module.in_channels * math.prod(module.kernel_size)
                if isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
                    inputs /= math.prod(module.stride)  # those that reach an output
                nn.init.normal_(module.weight, std=gain / math.sqrt(inputs), generator=generator)
                nn.init.zeros_(module.bias)
        for decoder in self.axes:
            with torch.no_grad():
                decoder[-1].weight *= _FIRST_OUTPUT

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """(N, 1, *size) twice -> (N, D, *size), components along the voxel axes, (x, y, z) order.

        size: along each axis 4 n + 3 voxels, such as 15 (ValueError otherwise).
        """
        if any(count % 4 != 3 for count in fixed.shape[2:]) or fixed.shape != moving.shape:
            raise ValueError(
                "patches of both images have one size, 4 n + 3 voxels along each axis; found "
                f"{tuple(fixed.shape[2:])} and {tuple(moving.shape[2:])}"
            )
        code = torch.cat([self.moving(moving), self.fixed(fixed)], 1)
        return self.scale * torch.cat([decoder(code) for decoder in self.axes], 1)


def _encoder(dimension: int, width: int, dropout: float) -> nn.Sequential:
    """One image (1 channel) to 2 width channels, at a quarter of the resolution."""
    conv, _ = _CONV[dimension]
    layers: list[nn.Module] = []
    channels = 1
    for features in (width, 2 * width):
        for _ in range(3):
            layers += [conv(channels, features, 3, padding=1), nn.PReLU(), nn.Dropout(dropout)]
            channels = features
        layers += [conv(features, features, 2, stride=2, padding=1), nn.PReLU()]
    return nn.Sequential(*layers)


def _decoder(dimension: int, width: int, dropout: float) -> nn.Sequential:
    """4 width channels to one component of the momentum, at the resolution of the images."""
    conv, up = _CONV[dimension]
    wide, narrow = 4 * width, 2 * width
    layers: list[nn.Module] = [up(wide, wide, 2, stride=2, padding=1), nn.PReLU()]
    for features in (wide, wide, narrow):
        layers += [conv(wide, features, 3, padding=1), nn.PReLU(), nn.Dropout(dropout)]
    layers += [up(narrow, narrow, 3, stride=2, padding=1), nn.PReLU()]
    for _ in range(2):
        layers += [conv(narrow, narrow, 3, padding=1), nn.PReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, conv(narrow, 1, 3, padding=1))
