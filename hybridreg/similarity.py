"""Dissimilarity of a fixed and a moved image, differentiable by the moved one; lower is better.

Every measure is called with the fixed and the moved image, shape (C, *shape), and optionally the
weight of each voxel, shape (*shape), and gives one number: a mean over voxels and channels. On the
CPU SSD, LNCC and MI of float32 images are computed by ``kernels``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels import information, lncc, ssd
from hybridreg.kernels.compiled import loops


@runtime_checkable
class Measure(Protocol):
    """(fixed, moved, weight) -> dissimilarity, a scalar."""

    def __call__(self, fixed: Tensor, moved: Tensor, weight: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class SSD:
    """Half the mean squared difference: for images of one scale of intensity,
    or unit descriptors.
    """

    def __call__(self, fixed: Tensor, moved: Tensor, weight: Tensor | None = None) -> Tensor:
        compiled = None if fixed.requires_grad else loops("ssd", fixed, moved)
        if compiled:
            return _HalfMeanSquare.apply(moved, fixed, weight, compiled)
        return 0.5 * _mean((fixed - moved).square(), weight)


class _HalfMeanSquare(torch.autograd.Function):
    """Half the weighted mean of (f - m)^2, and its gradient by m."""

    @staticmethod
    def forward(ctx, moved, fixed, weight, compiled):
        weight = None if weight is None else weight.to(fixed)
        ctx.save_for_backward(moved, fixed, weight)
        total, weights = ssd.squared_differences(compiled, fixed, moved, weight)
        ctx.scale = 1 / (weights or math.nan)
        return fixed.new_tensor(0.5 * total * ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint):
        moved, fixed, weight = ctx.saved_tensors
        gradient = (moved - fixed).mul_(ctx.scale * adjoint)
        return gradient if weight is None else gradient.mul_(weight), None, None, None


@dataclass(frozen=True)
class NCC:
    """1 - r, r the correlation over all voxels: for a linear relation of intensities."""

    def __call__(self, fixed: Tensor, moved: Tensor, weight: Tensor | None = None) -> Tensor:
        f, m = (image - _mean_by_channel(image, weight) for image in (fixed, moved))
        products = ((f * m), f.square(), m.square())
        fm, ff, mm = (_mean_by_channel(product, weight) for product in products)
        return (1 - fm / (ff * mm).clamp(min=1e-12).sqrt()).mean()


@dataclass(frozen=True)
class LNCC:
    """1 - the mean of squared local correlations (Avants 2008): for one contrast with a bias field.

    radius: voxels; windows are cubes of 2 radius + 1. noise: standard deviation of intensities, in
    the images' unit, below which a window counts as flat.
    """

    radius: int = 2
    noise: float = 0.01

    def __post_init__(self):
        if self.radius < 1 or not self.noise > 0:
            raise ValueError(
                f"LNCC needs a radius of 1 voxel or more and noise above 0, found {self}"
            )

    def __call__(self, fixed: Tensor, moved: Tensor, weight: Tensor | None = None) -> Tensor:
        return 1 - _SquaredLocalCorrelation.apply(moved, fixed, weight, self.radius, self.noise**4)


class _SquaredLocalCorrelation(torch.autograd.Function):
    """Mean of c = cov^2 / (var_f var_m + noise) over all windows, with its gradient in closed form.

    At voxel j, over the windows i that hold it, d c_i / d m_j = p_i (f_j - f_i) - q_i (m_j - m_i)
    over the number of voxels, with f_i, m_i the means, p = 2 cov / d, q = 2 cov^2 var_f / d^2.
    """

    @staticmethod
    def forward(ctx, moved, fixed, weight, radius, noise):
        ctx.radius = radius
        if compiled := loops("lncc", moved, fixed):
            weight = None if weight is None else weight.to(fixed)
            arguments = fixed, moved, weight, radius, noise
            total, weights, ctx.factors = lncc.statistics(compiled, *arguments)
            ctx.loops, ctx.scale = compiled, 1 / (weights or math.nan)
            ctx.save_for_backward(moved, fixed)
            return fixed.new_tensor(total * ctx.scale)
        ctx.loops = None
        count = box_sum(torch.ones_like(fixed[:1]), radius)
        f, m = box_sum(fixed, radius).div_(count), box_sum(moved, radius).div_(count)
        var_f = box_sum(fixed.square(), radius).div_(count).sub_(f.square()).clamp_(min=0)
        var_m = box_sum(moved.square(), radius).div_(count).sub_(m.square()).clamp_(min=0)
        cov = box_sum(fixed * moved, radius).div_(count).sub_(f * m)
        spread = var_f.mul(var_m).add_(noise)
        weights = _weights(fixed, weight)
        p = cov.mul(2).div_(spread)
        c = p.mul(cov).mul_(0.5)
        if ctx.needs_input_grad[0]:
            q = p.mul(cov).mul_(var_f).div_(spread)
            for factor in (p, q):
                factor.mul_(weights).div_(count)
            ctx.save_for_backward(moved, fixed, p, q, p.mul(f).sub_(q * m))
        return (c * weights).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint):
        moved, fixed, *factors = ctx.saved_tensors
        if ctx.loops is not None:
            arguments = fixed, moved, ctx.factors, ctx.radius, ctx.scale * adjoint.item()
            return lncc.gradient(ctx.loops, *arguments), None, None, None, None
        p, q, constant = (box_sum(factor, ctx.radius) for factor in factors)
        gradient = fixed.mul(p).sub_(moved * q).sub_(constant).mul_(adjoint)
        return gradient, None, None, None, None


@dataclass(frozen=True)
class MI:
    """log(bins) - mutual information in nats: for any two contrasts (Mattes 2003).

    bins: of each image, from its lowest to its highest value where weights are above 0. The fixed
    image falls into bins; the moved one is spread over four of them by cubic B-splines.
    """

    bins: int = 32

    def __call__(self, fixed: Tensor, moved: Tensor, weight: Tensor | None = None) -> Tensor:
        compiled = None if fixed.requires_grad else loops("information", fixed, moved)
        if compiled:
            parts = [
                _Information.apply(m, f, weight, self.bins, compiled)
                for f, m in zip(fixed, moved, strict=True)
            ]
            return math.log(self.bins) - torch.stack(parts).mean()
        weights = _weights(fixed[:1], weight).expand_as(fixed[:1]).reshape(-1)
        channels = [
            _mutual_information(f.reshape(-1), m.reshape(-1), weights, self.bins)
            for f, m in zip(fixed, moved, strict=True)
        ]
        return torch.log(torch.tensor(float(self.bins))) - torch.stack(channels).mean()


class _Information(torch.autograd.Function):
    """Mutual information of one channel, with its gradient by the moved one in closed form.

    With the joint distribution p and its marginal m of the moved image, d MI / d p is log(p / m)
    but for what depends on the fixed image's bin alone; a moved value only shifts weight within
    such a bin.
    """

    @staticmethod
    def forward(ctx, moved, fixed, weight, bins, compiled):
        weight = None if weight is None else weight.to(fixed)
        limits = np.array(
            [*_limits(fixed, weight, bins), *_limits(moved, weight, bins)], dtype=np.float32
        )
        joint = information.joint_histogram(compiled, fixed, moved, weight, limits, bins)
        total = joint.sum()
        joint /= total
        columns = joint.sum(0)
        filled = joint > 0
        ratio = np.divide(joint, columns, out=np.ones_like(joint), where=filled)
        slopes = np.log(ratio)
        rows = joint.sum(1)
        entropy = -(rows[rows > 0] * np.log(rows[rows > 0])).sum()
        ctx.save_for_backward(moved, fixed, weight)
        ctx.given = compiled, limits, slopes / total
        return fixed.new_tensor((joint * slopes).sum() + entropy)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint):
        moved, fixed, weight = ctx.saved_tensors
        compiled, limits, slopes = ctx.given
        slopes = slopes * adjoint.item()
        arguments = fixed, moved, weight, limits, slopes
        return information.histogram_gradient(compiled, *arguments), None, None, None, None


def _limits(values: Tensor, weight: Tensor | None, bins: int) -> tuple[float, float]:
    """The lowest value with weight, and bins per unit up to the highest."""
    if weight is not None:
        values = values[weight > 0]
    low, high = (end.item() for end in torch.aminmax(values))
    return low, bins / max(high - low, 1e-12)


def _mutual_information(fixed: Tensor, moved: Tensor, weights: Tensor, bins: int) -> Tensor:
    counted = weights > 0
    row = _scaled(fixed, counted, bins).floor().long()
    # Two empty bins on either side for the support of cubic splines beyond the ends.
    place = _scaled(moved, counted, bins) + 1
    left = place.detach().floor()
    columns, offset = bins + 3, place - left
    joint = moved.new_zeros(bins * columns)
    for step, part in enumerate(_cubic(offset)):
        joint = joint.index_add(0, row * columns + left.long() - 1 + step, part * weights)
    joint = joint.reshape(bins, columns)
    expected = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    filled = joint > 0
    return (joint[filled] * (joint[filled] / expected[filled]).log()).sum()


def _scaled(values: Tensor, counted: Tensor, bins: int) -> Tensor:
    """Values in bins from the lowest to the highest with weight; others are in the outer bins."""
    inside = values.detach()[counted]
    low, high = inside.min(), inside.max()
    return ((values - low) * (bins / (high - low).clamp(min=1e-12))).clamp(0, bins - 1e-3)


def _cubic(t: Tensor) -> list[Tensor]:
    """The cubic B-spline at 1 + t, t, 1 - t and 2 - t, for t from 0 to 1."""
    s = 1 - t
    middle = [(4 - 6 * x.square() + 3 * x.square() * x) / 6 for x in (t, s)]
    return [s.square() * s / 6, *middle, t.square() * t / 6]


@dataclass(frozen=True)
class Mixed:
    """The first channel by one measure plus all others by another: an image and its descriptors.

    weight: of the others; a larger one follows the descriptors more closely and the image less.
    """

    first: Measure = LNCC(2)
    others: Measure = SSD()
    weight: float = 10.0

    def __post_init__(self):
        if not self.weight > 0:
            raise ValueError(f"mixed needs a weight of more than 0, found {self.weight}")

    def __call__(self, fixed: Tensor, moved: Tensor, weight: Tensor | None = None) -> Tensor:
        value = self.first(fixed[:1], moved[:1], weight)
        if len(fixed) == 1:
            return value
        return value + self.weight * self.others(fixed[1:], moved[1:], weight)


def box_sum(values: Tensor, radius: int) -> Tensor:
    """The sum over the 2 radius + 1 voxels around each along every axis of (C, *shape),
    zero beyond.
    """
    for axis in range(1, values.ndim):
        values = _windows(values, radius, axis)
    return values


def _windows(values: Tensor, radius: int, axis: int) -> Tensor:
    """Window sums by doubling: two sums make one of twice the length, by the bits of the length."""
    shape = list(values.shape)
    shape[axis] += 2 * radius
    padded = values.new_zeros(shape)
    padded.narrow(axis, radius, values.shape[axis]).copy_(values)
    count, length, done = values.shape[axis], 2 * radius + 1, 0
    power, span, total = padded, 1, None
    while True:
        if length & span:
            part = power.narrow(axis, done, count)
            total = part.clone() if total is None else total.add_(part)
            done += span
        if done == length:
            return total
        usable = power.shape[axis] - span
        power = power.narrow(axis, 0, usable) + power.narrow(axis, span, usable)
        span *= 2


def _weights(like: Tensor, weight: Tensor | None) -> Tensor:
    """Normalized weight of each voxel, with sum 1 over all channels; shape (1, *shape) or ()."""
    if weight is None:
        return like.new_tensor(1 / like.numel())
    return weight[None].to(like) / (weight.sum() * len(like))


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean() if weight is None else (values * _weights(values, weight)).sum()


def _mean_by_channel(values: Tensor, weight: Tensor | None) -> Tensor:
    axes: Sequence[int] = tuple(range(1, values.ndim))
    if weight is None:
        return values.mean(axes, keepdim=True)
    return (values * weight[None]).sum(axes, keepdim=True) / weight.sum()
