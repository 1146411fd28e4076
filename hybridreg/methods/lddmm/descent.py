"""Ways down an energy: a quasi-Newton method, and the published descent by a fixed step."""

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
_SUFFICIENT = 1e-4  # of the decrease that the slope promises
_STEP = 0.5  # of a voxel of the momentum, in unit time
_LOOK_BACK = 4  # iterations over which progress is judged

Listener = Callable[[int, dict[str, float]], None]  # iteration and terms


@dataclass(frozen=True)
class Point:
    """A white variable, the energy and its terms there."""

    white: Tensor
    total: Tensor  # still attached to its graph
    terms: dict[str, float]
    folds: bool

    @property
    def value(self) -> float:
        return self.terms["energy"]


def at(energy: Energy, white: Tensor, *, may_fold: bool = True) -> Point | None:
    """The energy there; None where the geodesic diverges, or folds at a price and may not."""
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
    """In the inner product of white variables: w itself, plus what the images ask for."""
    return torch.autograd.grad(point.total, point.white)[0] / energy.share


def quasi_newton(
    energy: Energy,
    white: Tensor,
    *,
    iterations: int,
    tolerance: float,
    tell: Listener,
) -> Tensor:
    """L-BFGS (Nocedal 1980) in the white variable, where the regularity needs no preconditioner.

    Where folds have a price, none begins, and every step is short: true geodesics never fold, and
    where one of few steps of time nearly does, the energy is so rough that the descent gets stuck
    (a pair of brains: at 596 in place of 559, Dice .609 in place of .629).
    Stops where an iteration gains less than ``tolerance`` of all that was gained, over the last four.
    """
    point = _start(energy, white)
    tell(0, point.terms)
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
            history.clear()  # what was learned of the curvature misleads: begin anew
            continue
        before = slope
        slope = gradient(energy, after)
        step, change = after.white.detach() - point.white.detach(), slope - before
        curvature = energy.product(step, change).item()
        if curvature > 1e-6 * energy.product(change, change).item() ** 0.5:
            history.append((step, change, curvature))
        point = replace(after, white=after.white.detach(), total=after.total.detach())
        tell(iteration, point.terms)
        values.append(point.value)
        if len(values) > _LOOK_BACK:
            gained = (values[-1 - _LOOK_BACK] - values[-1]) / _LOOK_BACK
            if gained < tolerance * (values[0] - values[-1]):
                break
    return point.white.detach()


def fixed_step(
    energy: Energy, white: Tensor, *, iterations: int, step: float, tell: Listener
) -> Tensor:
    """The published descent (Yang 2017): m0 <- m0 - step (K m0 - m^(0)), so many times."""
    point = _start(energy, white)
    tell(0, point.terms)
    for iteration in range(1, iterations + 1):
        # The gradient by m0 is K^(1/2) of that by w, and a step in m0 is K^(1/2) of it in w.
        slope = energy.shooter.operator.sharp(gradient(energy, point))
        point = at(energy, point.white.detach() - step * slope)
        if point is None:
            raise Diverged(f"a step of {step:g} is too long: give a smaller one")
        tell(iteration, point.terms)
    return point.white.detach()


def _start(energy: Energy, white: Tensor) -> Point:
    point = at(energy, white)
    if point is None:
        raise Diverged("the geodesic it starts from diverges: start from a smaller momentum")
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
    """At most the whole direction, and no change of the velocity by more than a share of a voxel."""
    fastest = energy.velocity(direction).square().sum(0).max().sqrt().item()
    return min(1.0, _STEP * min(energy.spacing) / max(fastest, 1e-12))


def _inverse_hessian(energy: Energy, slope: Tensor, history: deque) -> Tensor:
    """The two loops of L-BFGS."""
    out, shares = slope.clone(), []
    for step, change, curvature in reversed(history):
        share = energy.product(step, out).item() / curvature
        out.sub_(change, alpha=share)
        shares.append(share)
    out = energy.preconditioned(out)
    if history:
        _, change, curvature = history[-1]
        out = out * (curvature / energy.product(change, energy.preconditioned(change)).item())
    for (step, change, curvature), share in zip(history, reversed(shares), strict=True):
        out.add_(step, alpha=share - energy.product(change, out).item() / curvature)
    return out
