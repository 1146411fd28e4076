"""Momenta as their map depends on them: smoothed by the root of the kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.geodesics import Kernel
from hybridreg.lattice import Lattice
from hybridreg.shooting import Operator

_REACHES = 4  # widths of K^(1/2) around a patch; its values fall by e over each


@dataclass(frozen=True)
class Smoothing:
    """K^(1/2) of momenta in patches, which are 0 outside of them.

    The squared norm of the result is <m, K m>, that of the velocity of a momentum in the metric of
    LDDMM. Of a rough momentum little is left, as of its map.
    """

    kernel: Kernel
    spacing_mm: float

    def __call__(self, patches: Tensor) -> Tensor:
        """(N, D, *size) -> (N, D, *size) with a margin at the end of each axis."""
        margin = math.ceil(_REACHES * self._width_mm / self.spacing_mm)
        wide = F.pad(patches, (0, margin) * (patches.ndim - 2))
        operator = _operator(self.kernel, self.spacing_mm, tuple(wide.shape[2:]), patches.device)
        return torch.stack([operator.power(patch, -0.5) for patch in wide])

    def energy(self, patches: Tensor) -> Tensor:
        """The sum of squares of the smoothed momenta, over the number of values in the patches."""
        return self(patches).square().sum() / patches.numel()

    @property
    def _width_mm(self) -> float:
        return math.sqrt((self.kernel.a + self.kernel.b) / self.kernel.c)


@cache
def _operator(
    kernel: Kernel, spacing_mm: float, shape: tuple[int, ...], device: torch.device
) -> Operator:
    dimension = len(shape)
    lattice = Lattice(shape, (spacing_mm,) * dimension, (0.0,) * dimension)
    return Operator(kernel, lattice, device=str(device))
