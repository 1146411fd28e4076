"""The normalized gradient: position and direction of edges, independent of their strength."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.descriptors.base import image_of
from hybridreg.geometry import Grid
from hybridreg.images import Image


@dataclass(frozen=True)
class Gradient:
    """grad I / sqrt(|grad I|^2 + eps^2) along x, y (and z) of LPS (Haber and Modersitzki 2006).

    The norm is near 1 on edges and near 0 in noise. It is invariant to
    brightness and contrast; its sign changes with reversed contrast.

    noise: eps as a fraction of the mean gradient magnitude of the image; a larger one keeps only
        stronger edges.
    """

    noise: float = 0.5

    def __post_init__(self):
        if not self.noise > 0:
            raise ValueError(f"noise must be more than 0, found {self.noise}")

    def __call__(self, image: Image) -> Image:
        return image_of([self._normalized(gradient(c, image.grid)) for c in image.data], image)

    def _normalized(self, gradient: Tensor) -> Tensor:
        square = gradient.square().sum(0)
        floor = (self.noise * square.sqrt().mean()).square()
        size = (square + floor).sqrt()
        return torch.where(size > 0, gradient / size, 0.0)


def gradient(values: Tensor, grid: Grid) -> Tensor:
    """(*shape) -> (D, *shape): change per mm along x, y (and z) of LPS; one-sided at the border."""
    along_axes = [
        torch.gradient(values, spacing=step, dim=axis)[0]
        if values.shape[axis] > 1
        else torch.zeros_like(values)
        for axis, step in enumerate(grid.spacing[::-1])  # array order
    ]
    direction = torch.tensor(grid.direction, dtype=values.dtype)
    return torch.einsum("ij,j...->i...", direction, torch.stack(along_axes[::-1]))
