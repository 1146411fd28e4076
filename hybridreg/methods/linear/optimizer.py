"""BFGS for a dozen parameters in mm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_DECREASE = 1e-4  # of what the slope promises (Nocedal and Wright 2006, eq. 3.6a)
_TRIALS = 8

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def minimized(
    objective: Objective,
    start: np.ndarray,
    *,
    iterations: int,
    tolerance: float,
    longest: float,
    report: Callable[[int, float], None] | None = None,
) -> np.ndarray:
    """Where an objective (value, gradient) is least, from a start, by BFGS with backtracking.

    tolerance, longest: the length of a step that ends it, and that no step exceeds, in the unit of
    the parameters. An objective may be infinite where it cannot be computed.
    """
    x = start.copy()
    value, gradient = objective(x)
    inverse: np.ndarray | None = None  # of the Hessian
    for iteration in range(iterations):
        if inverse is None:
            step = -gradient * (longest / 4 / max(np.linalg.norm(gradient), 1e-30))
        else:
            step = -inverse @ gradient
        length = np.linalg.norm(step)
        if inverse is not None and length < tolerance:
            break
        step *= min(1.0, longest / max(length, 1e-30))
        found = _downhill(objective, x, step, value, gradient, tolerance)
        if found is None:
            break
        step, value, after = found
        inverse = _updated(inverse, step, after - gradient)
        x, gradient = x + step, after
        if report is not None:
            report(iteration + 1, value)
    return x


def _downhill(
    objective: Objective,
    x: np.ndarray,
    step: np.ndarray,
    value: float,
    gradient: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """The part of a step that goes down far enough, with what was found there; None for none."""
    slope = float(gradient @ step)
    for _ in range(_TRIALS):
        found, after = objective(x + step)
        if found <= value + _DECREASE * slope:
            return step, found, after
        # To the minimum of the parabola through both values and the slope.
        shorter = -slope / (2 * (found - value - slope)) if np.isfinite(found) else 0.1
        shorter = min(max(shorter, 0.1), 0.5)
        step, slope = shorter * step, shorter * slope
        if np.linalg.norm(step) < tolerance / 4:
            return None
    return None


def _updated(inverse: np.ndarray | None, step: np.ndarray, change: np.ndarray) -> np.ndarray | None:
    """The inverse Hessian after a step that changed the gradient (Nocedal and Wright 2006,
    eq. 6.17).
    """
    curvature = float(step @ change)
    if curvature <= 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
        return inverse
    identity = np.eye(len(step))
    if inverse is None:
        inverse = curvature / float(change @ change) * identity
    left = identity - np.outer(step, change) / curvature
    return left @ inverse @ left.T + np.outer(step, step) / curvature
