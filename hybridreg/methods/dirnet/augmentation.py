"""Random affine maps and mirror images of training pairs, the same for both images of a pair."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from hybridreg.methods.dirnet.affine import affine_displacement
from hybridreg.methods.dirnet.network import sampled


def varied(
    images: Tensor, generator: Generator, *, rotation_deg: float, scaling: float, mirrored: bool
) -> Tensor:
    """Images (B, C, *shape), each rotated, scaled and mirrored at random.

    rotation_deg: at most, about each axis. scaling: of each axis by a factor between its inverse
    and itself, mostly the same one for all axes. mirrored: left for right along x in half of the
    pairs.
    """
    count, dimension = len(images), images.ndim - 2
    turns = 2 * dimension - 3

    def uniform(columns: int) -> Tensor:
        return 2 * torch.rand(count, columns, generator=generator) - 1

    turn = math.radians(rotation_deg) * uniform(turns)
    scale = math.log(scaling) * (0.7 * uniform(1) + 0.3 * uniform(dimension))
    flip = torch.rand(count, generator=generator) < 0.5
    if mirrored:
        images = torch.where(flip.reshape(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)
    if rotation_deg == 0 and scaling == 1:
        return images
    still = torch.zeros(count, dimension)
    shear = torch.zeros(count, dimension * (dimension - 1))
    parameters = torch.cat([still, turn, scale, shear], 1)
    return sampled(images, affine_displacement(parameters, images.shape[2:]))
