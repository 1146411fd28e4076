"""Steps of the demons algorithm, and the exponential that makes them one-to-one.

Images are (C, *shape), vectors (D, *shape) in mm along the axes of their lattice.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import (
    NO_WEIGHT,
    along_axes,
    flat_vectors,
    loops,
    over_slabs,
    volume,
)
from hybridreg.kernels.jacobians import slope
from hybridreg.kernels.sampling import composed

_LEAST_DAMPING = 1e-6  # of the trace: a matrix of few channels is singular
_SHORT = 0.25  # voxels: exp(v) = x + v for such v, as in ITK


def demons_step(
    fixed: Tensor,
    moved: Tensor,
    weight: Tensor | None,
    spacing: tuple[float, ...],
    longest_mm: float,
    *,
    threads: int | None = None,
) -> Tensor:
    """v that minimizes sum_c w (r_c - J_c . v)^2 + |r|^2 / (4 longest^2) |v|^2 at every voxel.

    r = fixed - moved; J: the gradient of (fixed + moved) / 2, the symmetric force of Vercauteren
    (2009); w: the weight, (*shape), None for 1. No v is longer than ``longest_mm``. For one channel
    this is v = r J / (|J|^2 + |r|^2 / (4 longest^2)), with w = 1 as in ITK.
    """
    damping = 1 / (4 * longest_mm**2)
    given = [] if weight is None else [weight]
    if compiled := loops("demons", fixed, moved, *given):
        f = volume(fixed)
        w = NO_WEIGHT if weight is None else volume(weight[None])[0]
        out = np.empty((3, *f.shape[1:]), np.float32)
        arguments = f, volume(moved), w, np.array(along_axes(spacing), np.float32)
        numbers = damping, _LEAST_DAMPING
        over_slabs(compiled.steps, f.shape[1:], *arguments, *numbers, out, threads=threads)
        return flat_vectors(out, fixed.ndim - 1)
    return _by_torch(fixed, moved, weight, spacing, damping)


def _by_torch(fixed, moved, weight, spacing, damping: float) -> Tensor:
    mean, r = (fixed + moved).div(2).double(), (fixed - moved).double()
    w = r.new_ones(()) if weight is None else weight.double()
    g = torch.stack([slope(mean, mean.ndim - 1 - axis, h) for axis, h in enumerate(spacing)])
    b = (g * r).sum(1) * w
    h = torch.einsum("ac...,bc...->...ab", g, g) * w[..., None, None]
    trace = h.diagonal(dim1=-2, dim2=-1).sum(-1)
    damped = torch.maximum(damping * r.square().sum(0), _LEAST_DAMPING * trace)
    empty = damped == 0
    damped = torch.where(empty, 1.0, damped)  # without gradient and difference b is 0
    h = h + damped[..., None, None] * torch.eye(len(g)).to(h)
    return torch.linalg.solve(h, b.movedim(0, -1)).movedim(-1, 0).to(fixed.dtype).contiguous()


def exponential(
    velocity: Tensor, spacing: tuple[float, ...], *, threads: int | None = None
) -> Tensor:
    """The displacement of exp(v), by scaling and squaring; v a stationary velocity."""
    scale = velocity.new_tensor(spacing).reshape(-1, *[1] * (velocity.ndim - 1))
    longest = (velocity / scale).square().sum(0).max().sqrt().item()
    times = max(0, math.ceil(math.log2(longest / _SHORT))) if longest > 0 else 0
    found = velocity / 2**times
    for _ in range(times):
        found = composed(found, found, spacing, threads=threads)
    return found
