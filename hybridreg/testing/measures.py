"""The contract of a measure of dissimilarity, as functions of the measure."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hybridreg.similarity import Measure, box_sum
from hybridreg.testing.promises import require

_SHAPES = ((20, 24), (9, 8, 16))
_STEP, _SLOPE_ERROR = 1e-6, 1e-3  # of finite differences; relative
_SINGLE_ERROR = 1e-3  # of float32, relative
_FAR = 8  # voxels: what lies so far from all weights counts nothing, local windows included


def check_measure(measure: Measure):
    """Runs every promise of a measure on small images, in 2D and 3D, of one channel and of two.

    AssertionError says which promise is broken. See ``MEASURE_CHECKS`` for the promises.
    """
    for check in MEASURE_CHECKS:
        check(measure)


def gives_one_number(measure: Measure):
    """One finite number, with weights and without; weights count by their ratio alone."""
    for fixed, moved, weight in _images():
        plain, *weighted = (measure(fixed, moved, w) for w in (None, weight, 3 * weight))
        for value in (plain, *weighted):
            shape = tuple(value.shape)
            require(
                shape == (), f"it gave the shape {shape} for {tuple(moved.shape)}, not one number"
            )
            require(math.isfinite(value.item()), f"it gave {value.item()}")
        _near(*weighted, _SLOPE_ERROR, "weights three times as large changed the mean")


def prefers_identical_images(measure: Measure):
    """Lower is better: nothing is lower than two identical images, but for rounding."""
    for fixed, moved, weight in _images():
        for w in (None, weight):
            same, other = measure(fixed, fixed, w).item(), measure(fixed, moved, w).item()
            require(
                same < other, f"identical images are at {same:.6g}, different ones at {other:.6g}"
            )


def has_the_gradient_of_its_value(measure: Measure):
    """The gradient with respect to the moved image agrees with finite differences."""
    for fixed, moved, weight in _images():
        for w in (None, weight):
            gradient = _gradient(measure, fixed, moved, w)
            direction = torch.randn(moved.shape, generator=_generator(7), dtype=moved.dtype)
            direction *= _between_extremes(moved)
            low, high = (measure(fixed, moved + s * _STEP * direction, w) for s in (-1, 1))
            slope = (high - low) / (2 * _STEP)
            _near((gradient * direction).sum(), slope, _SLOPE_ERROR, "gradient and differences")


def counts_what_has_weight(measure: Measure):
    """What lies far from all weights changes neither the value nor the gradient,
    which is 0 there.
    """
    for fixed, moved, _ in _images(channels=2):
        weight = torch.zeros(moved.shape[1:], dtype=moved.dtype)
        weight[..., :3] = 1
        far = torch.arange(moved.shape[-1]) >= 3 + _FAR - 1
        other = torch.where(far, 50.0, moved)
        _near(
            *(measure(fixed, m, weight) for m in (moved, other)),
            1e-6,
            "values without weight changed it",
        )
        beyond = _gradient(measure, fixed, other, weight)[..., far].abs().max().item()
        require(beyond == 0, f"the gradient without weight is up to {beyond:.3g}, not 0")


def agrees_in_single_precision(measure: Measure):
    """float32 images, as methods have them, give the value and gradient of float64 ones."""
    for fixed, moved, weight in _images():
        single = [image.float() for image in (fixed, moved, weight)]
        _near(
            measure(*single).double(),
            measure(fixed, moved, weight),
            _SINGLE_ERROR,
            "float32 and float64",
        )
        a, b = (_gradient(measure, *images).double() for images in (single, (fixed, moved, weight)))
        apart = ((a - b).norm() / b.norm()).item()
        require(apart < _SINGLE_ERROR, f"float32 and float64 gradients differ by {apart:.2g}")


def leaves_its_input_alone(measure: Measure):
    """Images and weights are what they were, and the same input gives the same number."""
    for images in _images():
        before = [image.clone() for image in images]
        first, second = (measure(*images).item() for _ in range(2))
        _gradient(measure, *images)
        require(first == second, "the same images gave two different numbers")
        same = all(torch.equal(old, new) for old, new in zip(before, images, strict=True))
        require(same, "it changed an image or a weight that it was given")


MEASURE_CHECKS: tuple[Callable[[Measure], None], ...] = (
    gives_one_number,
    prefers_identical_images,
    has_the_gradient_of_its_value,
    counts_what_has_weight,
    agrees_in_single_precision,
    leaves_its_input_alone,
)


def _images(channels: int | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Fixed and moved images (C, *shape) from 0 to 1 and weights (*shape), float64."""
    made = []
    for number, shape in enumerate(_SHAPES):
        for count in (1, 2) if channels is None else (channels,):
            generator = _generator(number)
            rough = torch.rand(2, count, *shape, generator=generator, dtype=torch.float64)
            fixed, moved = (_to_unit(box_sum(values, 1)) for values in rough)
            weight = torch.rand(shape, generator=generator, dtype=torch.float64)
            made.append((fixed, moved, weight))
    return made


def _to_unit(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())


def _between_extremes(values: Tensor) -> Tensor:
    """0 at the lowest and highest value of each channel, from which ranges are taken; else 1."""
    flat = values.flatten(1)
    inner = (flat > flat.amin(1, keepdim=True)) & (flat < flat.amax(1, keepdim=True))
    return inner.reshape(values.shape).to(values.dtype)


def _gradient(measure: Measure, fixed: Tensor, moved: Tensor, weight: Tensor | None) -> Tensor:
    moved = moved.clone().requires_grad_()
    (found,) = torch.autograd.grad(measure(fixed, moved, weight), moved)
    return found


def _near(a: Tensor, b: Tensor, relative: float, what: str):
    a, b = a.item(), b.item()
    require(math.isclose(a, b, rel_tol=relative, abs_tol=1e-9), f"{what}: {a:.8g} and {b:.8g}")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
