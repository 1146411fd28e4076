"""Line integrals of a volume along rays from point sources, and their derivatives by the rays.

Joseph's rule (Joseph 1982): the trapezoidal sum of the linearly interpolated volume over the planes
of voxels that a ray crosses. Volumes are (C, z, y, x) with outermost voxels of 0, so that all
integrals are continuous; rays are in voxels (x, y, z), from the source to the source + the
direction. An end inside the volume costs up to half a voxel's length.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import loops, over_slabs

EDGE = 1e-6  # as in the loops
_LEAST_RAYS = 1 << 10  # in a slab
_SAMPLES = 1 << 22  # that torch takes at a time


def line_integrals(volume: Tensor, sources: Tensor, directions: Tensor) -> Tensor:
    """Shape (B, C, R), per length of the direction: 1 along a whole ray through values of 1.

    volume: float; sources: (B, 3); directions: (B, R, 3), float64. Differentiable by both, in
    closed form, but not by the volume (ValueError where it requires a gradient).
    """
    if volume.requires_grad:
        raise ValueError("line integrals have no gradient by the volume: detach it")
    return _LineIntegrals.apply(volume, sources, directions)


def integrals_and_slopes(
    volume: Tensor, sources: Tensor, directions: Tensor, *, sloped: bool = True
) -> tuple[Tensor, Tensor]:
    """The integrals, (C, B, R), and their gradients, (C, B, R, 6): by the source, by the direction.

    sloped: whether gradients are wanted; without, they are empty.
    """
    shape = len(volume), *directions.shape[:2]
    out = volume.new_empty(len(volume), shape[1] * shape[2])
    slopes = volume.new_empty(*out.shape, 6) if sloped else volume.new_empty(0)
    if compiled := loops("projection", volume):
        values = volume.detach().contiguous().numpy()
        rays = (_array(sources), _array(directions.reshape(-1, 3)))
        outputs = (out.numpy(), slopes.numpy()) if sloped else (out.numpy(),)
        loop = compiled.derivatives if sloped else compiled.integrals
        size = np.array(values.shape[1:])
        arguments = values.reshape(len(values), -1), size, *rays, *outputs
        extent = (out.shape[1], max(values.shape[1:]))
        over_slabs(loop, extent, *arguments, least=_LEAST_RAYS)
    else:
        _by_torch(volume.detach(), sources.detach(), directions.detach(), out, slopes)
    return out.reshape(shape), slopes.reshape(*shape, 6) if sloped else slopes


class _LineIntegrals(torch.autograd.Function):
    @staticmethod
    def forward(ctx, volume: Tensor, sources: Tensor, directions: Tensor) -> Tensor:
        sloped = any(ctx.needs_input_grad)
        out, slopes = integrals_and_slopes(volume, sources, directions, sloped=sloped)
        ctx.save_for_backward(slopes)
        return out.transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint: Tensor) -> tuple[None, Tensor, Tensor]:
        (slopes,) = ctx.saved_tensors
        rays = torch.einsum("bcr,cbrk->brk", adjoint.to(slopes), slopes).to(torch.float64)
        return None, rays[..., :3].sum(1), rays[..., 3:]


def _array(rays: Tensor) -> np.ndarray:
    return rays.detach().to(torch.float64).contiguous().numpy()


def _by_torch(volume: Tensor, sources: Tensor, directions: Tensor, out: Tensor, slopes: Tensor):
    """Fills out (C, rays) and, unless empty, slopes (C, rays, 6)."""
    source = sources[:, None].expand(directions.shape).reshape(-1, 3)
    direction = directions.reshape(-1, 3)
    steepest = direction.abs().argmax(-1)
    for w in range(3):
        (chosen,) = (steepest == w).nonzero(as_tuple=True)
        for part in chosen.split(max(1, _SAMPLES // volume.shape[3 - w])):
            total, sums = _planes(volume, source[part], direction[part], w)
            out[:, part] = total
            if slopes.numel():
                slopes[:, part] = _slopes(total, sums, source[part], direction[part], w)


def _planes(
    volume: Tensor, source: Tensor, direction: Tensor, w: int
) -> tuple[Tensor, list[Tensor]]:
    """The integrals (C, rays) and the sums of slopes in u, in v, and of k times these; along w."""
    flat, size = volume.reshape(len(volume), -1), volume.shape[:0:-1]
    pace = (1, size[0], size[0] * size[1])
    k = torch.arange(size[w], dtype=source.dtype, device=source.device)
    at, step = source[:, w, None], direction[:, w, None]
    inside = (k >= torch.minimum(at, at + step)) & (k <= torch.maximum(at, at + step))
    index, parts = k.long() * pace[w], []
    others = [axis for axis in range(3) if axis != w]
    for axis in others:
        place = source[:, axis, None] + (k - at) * (direction[:, axis, None] / step)
        inside &= (place >= EDGE) & (place <= size[axis] - 1 - EDGE)
        place = torch.where(inside, place, 0.0)
        parts.append((place - place.floor()).to(flat))
        index = index + place.long() * pace[axis]
    index, (a, b), (du, dv) = torch.where(inside, index, 0), parts, [pace[axis] for axis in others]
    v00, v10, v01, v11 = (flat[:, index + shift] * inside for shift in (0, du, dv, du + dv))
    low, high = v00 + a * (v10 - v00), v01 + a * (v11 - v01)
    in_u, in_v = (v10 - v00) * (1 - b) + (v11 - v01) * b, high - low
    scale = 1 / step[:, 0].abs()
    sums = [in_u.sum(-1), in_v.sum(-1), (in_u * k).sum(-1), (in_v * k).sum(-1)]
    total = (low + b * in_v).sum(-1) * scale
    return total.to(flat), [(s * scale).to(source) for s in sums]


def _slopes(total: Tensor, sums: list[Tensor], source: Tensor, direction: Tensor, w: int) -> Tensor:
    """By the source and by the direction, (C, rays, 6)."""
    at, step = source[:, w], direction[:, w]
    slopes = total.new_zeros(*total.shape, 6, dtype=source.dtype)
    others = [axis for axis in range(3) if axis != w]
    slopes[..., 3 + w] = -total / step
    for axis, slope, far in zip(others, sums[:2], sums[2:], strict=True):
        turn, lean = (far - at * slope) / step, direction[:, axis] / step
        slopes[..., axis], slopes[..., 3 + axis] = slope, turn
        slopes[..., w] -= lean * slope
        slopes[..., 3 + w] -= lean * turn
    return slopes.to(total)
