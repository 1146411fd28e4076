"""Uniform B-splines at scattered points, compiled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import loops, over_slabs


def at_points(coefficients: Tensor, index: Tensor, order: int) -> Tensor | None:
    """What ``bsplines.BSpline`` gives: (N, C), float64; None where no loop can be used."""
    if any(t.requires_grad or t.device.type != "cpu" for t in (coefficients, index)):
        return None
    compiled = loops("splines")
    if compiled is None:
        return None
    table = coefficients.double().contiguous().numpy()
    if table.ndim == 3:
        table = table[:, None]
    out = np.empty((len(index), len(table)))
    places = index.double().contiguous().numpy()
    over_slabs(compiled.at_points, (len(index), 1, 1), table, places, order, out)
    return torch.from_numpy(out)
