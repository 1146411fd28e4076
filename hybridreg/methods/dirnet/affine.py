"""The affine stage of DLIR (de Vos 2019): both images encoded alike, then bounded parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_HIDDEN = 64
_POOLED = 4  # of the layers


class AffineRegressor(nn.Module):
    """The parameters of an affine map, shape (B, count), from one encoder for both images.

    In order: translation (fractions of the image), rotation, scales (logarithms) and shears.
    """

    def __init__(self, dimension: int, channels: int, width: int, layers: int):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
        pool = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[dimension]
        parts: list[nn.Module] = []
        for layer in range(layers):
            parts += [conv(width if layer else channels, width, 3, padding=1), nn.ELU(inplace=True)]
            parts += [pool(2)] if layer < _POOLED else []
        self.encoder = nn.Sequential(*parts)
        self.dense = nn.Sequential(
            nn.Linear(2 * width, _HIDDEN), nn.ELU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ELU()
        )
        self.dimension = dimension
        self.head = nn.Linear(_HIDDEN, sum(_counts(dimension)))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        codes = [self.encoder(image).flatten(2).mean(-1) for image in (fixed, moving)]
        found = self.head(self.dense(torch.cat(codes, 1)))
        shift, turn, scale, shear = found.split(_counts(self.dimension), 1)
        bounded = (torch.tanh(part) for part in (turn, scale, shear))
        turn, scale, shear = (
            part * most for part, most in zip(bounded, (math.pi / 2, math.log(2), math.pi / 4))
        )
        return torch.cat([shift, turn, scale, shear], 1)


def affine_parts(parameters: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The matrix (D, D) and the translation (D,) in voxels, about the center of the image.

    parameters: of one pair. Scale times shear times rotation, components (x, y, z).
    """
    dimension = len(shape)
    shift, turn, scale, shear = parameters.split(_counts(dimension))
    extent = parameters.new_tensor(list(shape)[::-1])
    size = torch.diag(scale.exp())
    sheared = torch.eye(dimension).to(parameters)
    places = [(i, j) for i in range(dimension) for j in range(dimension) if i != j]
    for (i, j), angle in zip(places, shear, strict=True):
        sheared = sheared + torch.tan(angle) * _unit(i, j, parameters, dimension)
    return size @ sheared @ _rotation(turn), shift * extent


def affine_displacement(parameters: Tensor, shape: Sequence[int]) -> Tensor:
    """The displacement of every voxel, (B, D, *shape), of parameters (B, count)."""
    axes = [torch.arange(n, dtype=parameters.dtype) - (n - 1) / 2 for n in shape]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1]).to(parameters)
    found = []
    for one in parameters:
        matrix, shift = affine_parts(one, shape)
        moved = torch.einsum("ab,b...->a...", matrix, places)
        found.append(moved - places + shift.reshape(-1, *[1] * len(shape)))
    return torch.stack(found)


def _counts(dimension: int) -> list[int]:
    """Parameters of the translation, rotation, scale and shear."""
    return [dimension, 2 * dimension - 3, dimension, dimension * (dimension - 1)]


def _rotation(angles: Tensor) -> Tensor:
    """In 3D Rz Ry Rx of the angles about x, y and z."""
    if len(angles) == 1:
        return _turned(angles[0], 0, 1, 2)
    x, y, z = angles
    return _turned(z, 0, 1, 3) @ _turned(y, 2, 0, 3) @ _turned(x, 1, 2, 3)


def _turned(angle: Tensor, i: int, j: int, dimension: int) -> Tensor:
    """The rotation from axis i towards axis j."""
    unit = [_unit(a, b, angle, dimension) for a, b in ((i, i), (j, j), (j, i), (i, j))]
    plane = unit[0] + unit[1]
    rest = torch.eye(dimension).to(angle) - plane
    return rest + angle.cos() * plane + angle.sin() * (unit[2] - unit[3])


def _unit(i: int, j: int, like: Tensor, dimension: int) -> Tensor:
    matrix = torch.zeros(dimension, dimension).to(like)
    matrix[i, j] = 1
    return matrix
