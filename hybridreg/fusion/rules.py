"""Fusion rules: a weight for each voxel of two aligned images, and how they are blended.

All work on tensors (N, y, x) or (N, z, y, x): N slices or one volume, intensities in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.pyramids import Steps, collapse, expand, gaussian_pyramid, laplacian_pyramid

_MATCH = 0.6  # above it two bands are similar enough to be averaged (Liu 2017)
_SMALLEST = torch.finfo(torch.float64).eps  # avoids 0/0 in the match of two flat regions
_ENERGY_STEPS = 3
# Chosen on CT and MR of heads (examples/benchmarks/fusion.md), so that bone stays solid and edges
# of both are kept while whole regions come from one image. Larger values give that term more
# influence; scaling all of them up makes harder seams.
_BRIGHTNESS = 40.0
_INFORMATION = 8.0
_EDGES = 32.0  # larger includes more edges of the other image
_STEEP = 0.04  # change of intensity per voxel below which an edge counts little
_APART = 3  # larger keeps edges out where one image is much brighter: MR's from bone, as dark spots
_NOISE = 6 / 255**2  # variance
_FLAT = 1e-8  # energy of noise far below one gray level of 256


@dataclass(frozen=True)
class Frame:
    """The spatial axes of an image (N, ...), counted from the end, and the steps of its pyramid."""

    axes: tuple[int, ...]
    steps: Steps


Weigh = Callable[[Tensor, Tensor, Frame], Tensor]
Blend = Callable[[Tensor, Tensor, Tensor, Frame], Tensor]


@dataclass(frozen=True)
class Rule:
    """How two images become one.

    weigh: (fixed, moved, frame) -> weight of fixed in [0, 1]; None where a network computes it.
    blend: (fixed, moved, weight, frame) -> fused.
    """

    weigh: Weigh | None
    blend: Blend


def by_pyramid(select: Callable[..., Tensor]) -> Blend:
    """Blends Laplacian pyramids: select(fixed, moved, weight, frame) for each band.

    The last band is the low-pass. The result is clipped to [0, 1].
    """

    def blend(fixed: Tensor, moved: Tensor, weight: Tensor, frame: Frame) -> Tensor:
        bands = zip(
            laplacian_pyramid(fixed, frame.steps),
            laplacian_pyramid(moved, frame.steps),
            gaussian_pyramid(weight, frame.steps),
            strict=True,
        )
        last = len(frame.steps)
        fused = [select(*band, frame, level == last) for level, band in enumerate(bands)]
        return collapse(fused, frame.steps).clamp_(0, 1)

    return blend


def weighted_mean(fixed: Tensor, moved: Tensor, weight: Tensor, frame: Frame) -> Tensor:
    """W A + (1 - W) B, voxel by voxel."""
    return torch.lerp(moved, fixed, weight)


def average_or_stronger(fixed: Tensor, moved: Tensor, weight: Tensor, frame: Frame, _) -> Tensor:
    """Liu 2017: the weighted mean where two bands match,
    else the one of the larger local energy.
    """
    a = neighborhood_sum(fixed * fixed, frame.axes)
    b = neighborhood_sum(moved * moved, frame.axes)
    match = neighborhood_sum(fixed * moved, frame.axes).mul_(2).div_(a + b + _SMALLEST)
    stronger = torch.where(a > b, fixed, moved)
    return torch.where(match > _MATCH, torch.lerp(moved, fixed, weight), stronger)


def stronger_detail(
    fixed: Tensor, moved: Tensor, weight: Tensor, frame: Frame, low_pass: bool
) -> Tensor:
    """The coefficient of larger magnitude; for the low-pass band the weighted mean."""
    if low_pass:
        return torch.lerp(moved, fixed, weight)
    a, b = fixed.abs(), moved.abs()
    return torch.where(a > b, fixed, torch.where(b > a, moved, torch.maximum(fixed, moved)))


def neighborhood_sum(image: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Sum over 3 voxels along each axis, mirrored about the border voxel."""
    for axis in axes:
        x = image.movedim(axis, 0)
        out = torch.empty_like(image)
        total = out.movedim(axis, 0)
        if len(x) == 1:
            total.copy_(3 * x)
        else:
            total[0] = x[0] + 2 * x[1]
            total[-1] = x[-1] + 2 * x[-2]
            torch.add(x[:-2], x[2:], out=total[1:-1]).add_(x[1:-1])
        image = out
    return image


def smooth(image: Tensor, steps: Steps) -> Tensor:
    """The image reduced by these pyramid steps and expanded again; unchanged without steps."""
    levels = gaussian_pyramid(image, steps)
    blurred = levels[-1]
    for finer, axes in zip(levels[-2::-1], reversed(steps), strict=True):
        blurred = expand(blurred, axes, shape=finer.shape)
    return blurred


def variance(image: Tensor, steps: Steps) -> Tensor:
    """Local variance of the intensities, over the neighborhood of ``smooth``."""
    return (smooth(image * image, steps) - smooth(image, steps).square()).clamp_(min=0)


def steepness(image: Tensor, frame: Frame) -> Tensor:
    """Squared change of intensity per voxel, along the finest axes."""
    total = torch.zeros_like(image)
    for axis in frame.steps[0] if frame.steps else frame.axes:
        if image.shape[axis] > 1:
            total += torch.gradient(image, dim=axis)[0].square_()
    return smooth(total, frame.steps[:1])


def local_energy(image: Tensor, frame: Frame) -> Tensor:
    """Squares of the finest detail, smoothed over about 16 voxels: the patches of the network."""
    detail = laplacian_pyramid(image, frame.steps[:1])[0] if frame.steps else image
    return smooth(detail * detail, frame.steps[:_ENERGY_STEPS])


def constant(weight: float) -> Weigh:
    """The same weight of the fixed image everywhere."""
    return lambda fixed, moved, frame: torch.full_like(fixed, weight)


def brighter(fixed: Tensor, moved: Tensor, frame: Frame) -> Tensor:
    """1 where the fixed image is the brighter, 0 where the moved is, 1/2 where they are equal."""
    return (fixed - moved).sign_().add_(1).div_(2)


def energy_fraction(fixed: Tensor, moved: Tensor, frame: Frame) -> Tensor:
    """Local energy of the fixed image over that of both; 1/2 where both are flat."""
    a, b = (local_energy(image, frame).add_(_FLAT) for image in (fixed, moved))
    return a / (a + b)


def salience(fixed: Tensor, moved: Tensor, frame: Frame) -> Tensor:
    """1 where the fixed image is more salient, 0 where the moved is, in whole regions.

    A logistic function of three weighted terms: brightness (``_BRIGHTNESS``), so that
    bone stays solid; information of the variance above noise, as in VIF (``_INFORMATION``),
    so that a region comes unchanged from one image; edge strength (``_EDGES``), so that strong
    edges of the other image are included, less so the more the two differ in brightness.
    """
    brightness = smooth(fixed - moved, frame.steps[:2])
    evidence = _EDGES * (_edges(fixed, frame) - _edges(moved, frame))
    evidence *= (1 - brightness.abs()) ** _APART
    evidence += _BRIGHTNESS * brightness
    evidence += _INFORMATION * (_information(fixed, frame) - _information(moved, frame))
    return evidence.sigmoid_()


def _information(image: Tensor, frame: Frame) -> Tensor:
    near, far = (variance(image, frame.steps[:reach]) for reach in (1, 2))
    information = near.div_(_NOISE).log1p_().add_(far.div_(_NOISE).log1p_()).div_(2)
    return smooth(information, frame.steps[:4])


def _edges(image: Tensor, frame: Frame) -> Tensor:
    return steepness(image, frame).square_().add_(_STEEP**4).log_().div_(2)


# Their names and descriptions are in ``registry.RULES``.
SALIENCE = Rule(salience, weighted_mean)
LIU_2017 = Rule(None, by_pyramid(average_or_stronger))
ENERGY = Rule(energy_fraction, by_pyramid(average_or_stronger))
LAPLACIAN = Rule(constant(1 / 2), by_pyramid(stronger_detail))
MAXIMUM = Rule(brighter, weighted_mean)
MEAN = Rule(constant(1 / 2), weighted_mean)
FIXED = Rule(constant(1), weighted_mean)
MOVED = Rule(constant(0), weighted_mean)
