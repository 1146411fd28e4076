"""Optimizers of an energy: L-BFGS, and the published gradient descent with a fixed step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridreg.methods.lddmm.energy import Energy
from hybridreg.shooting import Diverged

_MEMORY = 6  # pairs of steps and changes of gradient
_HALVINGS = 12
_SUFFICIENT = 1e-4  # of the decrease predicted by the slope (Armijo)
_STEP = 0.5  # maximum change of the velocity, in voxels of the momentum per unit time
_WINDOW = 4  # iterations over which convergence is measured

Callback = Callable[[int, dict[str, float]], None]  # iteration and terms


@dataclass(frozen=True)
class Point:
    """A white variable, the energy and its terms there."""

    white: Tensor
    total: Tensor  # still attached to its autograd graph
    terms: dict[str, float]
    folds: bool

    @property
    def value(self) -> float:
        return self.terms["energy"]


def at(energy: Energy, white: Tensor, *, may_fold: bool = True) -> Point | None:
    """The energy there; None if the geodesic diverges, or folds although it may not."""
    white = white.detach().requires_grad_()
    try:
        inverse_map = energy.inverse_map(white)
    except Diverged:
        return None
    determinants = energy.determinants(inverse_map)
    folds = determinants is not None and determinants.min().item() <= 0
    if folds and not may_fold:
        return None
    terms = energy.terms(white, inverse_map, determinants)
    total = torch.stack(list(terms.values())).sum()
    values = {name: term.item() for name, term in terms.items()}
    values["energy"] = total.item()
    return Point(white, total, values, folds) if math.isfinite(values["energy"]) else None


def gradient(energy: Energy, point: Point) -> Tensor:
    """Gradient in the inner product of white variables: w itself plus that of the data term."""
    return torch.autograd.grad(point.total, point.white)[0] / energy.voxel_fraction


def quasi_newton(
    energy: Energy,
    white: Tensor,
    *,
    iterations: int,
    tolerance: float,
    callback: Callback,
    until_unfolded: bool = False,
) -> Tensor:
    """L-BFGS (Nocedal 1980) in the white variable, where the regularity needs no preconditioner.

    With a folding penalty no step may create a fold, and steps are short: true geodesics never
    fold, but near folds of a geodesic with few time steps the energy is too rough for the optimizer
    (figures in examples/benchmarks/lddmm.md). Stops when the mean decrease over the last four
    iterations is less than ``tolerance`` of the total decrease; ``until_unfolded``: at the first
    point without folds.
    """
    point = _start(energy, white)
    callback(0, point.terms)
    slope = gradient(energy, point)
    history: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_MEMORY)
    values = [point.value]
    for iteration in range(1, iterations + 1):
        direction = -_inverse_hessian(energy, slope, history)
        decrease = energy.product(slope, direction).item()
        if not decrease < 0:
            history.clear()
            direction = -energy.preconditioned(slope)
            decrease = energy.product(slope, direction).item()
        short = energy.unfolding > 0 or not history
        size = _longest(energy, direction) if short else 1.0
        after = _line_search(energy, point, direction, size, decrease)
        if after is None:
            if not history:
                break
            history.clear()  # the curvature estimate is misleading: restart it
            continue
        before = slope
        slope = gradient(energy, after)
        step, change = after.white.detach() - point.white.detach(), slope - before
        curvature = energy.product(step, change).item()
        if curvature > 1e-6 * energy.product(change, change).item() ** 0.5:
            history.append((step, change, curvature))
        point = replace(after, white=after.white.detach(), total=after.total.detach())
        callback(iteration, point.terms)
        values.append(point.value)
        if until_unfolded and not point.folds:
            break
        if len(values) > _WINDOW:
            gained = (values[-1 - _WINDOW] - values[-1]) / _WINDOW
            if gained < tolerance * (values[0] - values[-1]):
                break
    return point.white.detach()


def fixed_step(
    energy: Energy, white: Tensor, *, iterations: int, step: float, callback: Callback
) -> Tensor:
    """The published gradient descent (Yang 2017): m0 <- m0 - step (K m0 - m^(0)), repeated."""
    point = _start(energy, white)
    callback(0, point.terms)
    for iteration in range(1, iterations + 1):
        # The gradient by m0 is K^(1/2) of that by w, and a step in m0 is K^(1/2) of it in w.
        slope = energy.shooter.operator.sharp(gradient(energy, point))
        point = at(energy, point.white.detach() - step * slope)
        if point is None:
            raise Diverged(f"a step of {step:g} is too long: give a smaller one")
        callback(iteration, point.terms)
    return point.white.detach()


def _start(energy: Energy, white: Tensor) -> Point:
    point = at(energy, white)
    if point is None:
        raise Diverged("the initial geodesic diverges: start from a smaller momentum")
    return point


def _line_search(
    energy: Energy, point: Point, direction: Tensor, size: float, decrease: float
) -> Point | None:
    for _ in range(_HALVINGS):
        after = at(energy, point.white.detach() + size * direction, may_fold=point.folds)
        if after is not None and after.value <= point.value + _SUFFICIENT * size * decrease:
            return after
        size /= 2
    return None


def _longest(energy: Energy, direction: Tensor) -> float:
    """The initial step size: at most 1, and at most ``_STEP`` voxels of change in velocity."""
    fastest = energy.velocity(direction).square().sum(0).max().sqrt().item()
    return min(1.0, _STEP * min(energy.spacing) / max(fastest, 1e-12))


def _inverse_hessian(energy: Energy, slope: Tensor, history: deque) -> Tensor:
    """The two-loop recursion of L-BFGS."""
    out, coefficients = slope.clone(), []
    for step, change, curvature in reversed(history):
        coefficient = energy.product(step, out).item() / curvature
        out.sub_(change, alpha=coefficient)
        coefficients.append(coefficient)
    out = energy.preconditioned(out)
    if history:
        _, change, curvature = history[-1]
        out = out * (curvature / energy.product(change, energy.preconditioned(change)).item())
    for (step, change, curvature), coefficient in zip(history, reversed(coefficients), strict=True):
        out.add_(step, alpha=coefficient - energy.product(change, out).item() / curvature)
    return out
