"""Gradient correlation: agreement of edges, for radiographs and their reconstructions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.similarity import NCC


@dataclass(frozen=True)
class GradientCorrelation:
    """1 - correlation of the derivatives along each axis, in the mean (Penney 1998)."""

    def __call__(self, fixed: Tensor, moved: Tensor, weight: Tensor | None = None) -> Tensor:
        axes = range(1, fixed.ndim)
        parts = [
            NCC()(*(torch.gradient(i, dim=a)[0] for i in (fixed, moved)), weight) for a in axes
        ]
        return torch.stack(parts).mean()
