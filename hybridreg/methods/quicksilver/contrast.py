"""Other contrasts of an image, for networks that register images of two modalities."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

_KNOTS = 6  # at intensities 0, .2, ... 1


def remapped(images: Tensor, generator: Generator) -> Tensor:
    """Images (N, 1, ...) in [0, 1], each with a random contrast; 0 stays 0.

    A piecewise linear map of the intensities with values drawn from [0.05, 1] at its knots, so that
    every tissue gets another brightness and their order changes.
    """
    values = 0.05 + 0.95 * torch.rand(len(images), _KNOTS, generator=generator)
    values = torch.cat([values, values[:, -1:]], 1).to(images)
    place = images.flatten(1) * (_KNOTS - 1)
    below = place.floor().clamp(0, _KNOTS - 1)
    low, high = values.gather(1, below.long()), values.gather(1, below.long() + 1)
    found = low + (place - below) * (high - low)
    return torch.where(images.flatten(1) > 0, found, 0.0).reshape(images.shape)
