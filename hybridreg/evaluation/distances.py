"""Distances in mm between transformed points and their true positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybridreg.images import LandmarkSet, corresponding
from hybridreg.transforms import AffineTransform, Transform


@dataclass(frozen=True)
class Distances:
    """Summary statistics of distances."""

    count: int
    mean_mm: float
    median_mm: float
    p95_mm: float
    max_mm: float

    @classmethod
    def of(cls, values: Tensor, **more) -> Distances | None:
        """None where there are no values. more: further fields of a subclass."""
        if values.numel() == 0:
            return None
        values = values.double().numpy()
        median, p95 = np.percentile(values, [50, 95])
        spread = (values.mean(), median, p95, values.max())
        return cls(values.size, *(float(value) for value in spread), **more)


def target_registration_error(
    transform: Transform, fixed_landmarks: LandmarkSet, moving_landmarks: LandmarkSet
) -> Tensor:
    """|T(fixed) - moving| in mm for each pair of landmarks, shape (N,).

    They correspond as in ``images.corresponding``: by name, or row by row if no name is common.
    """
    fixed, moving = fixed_landmarks, moving_landmarks
    if fixed.points.shape[1] != moving.points.shape[1]:
        raise ValueError(
            f"the fixed landmarks are {fixed.points.shape[1]}D, the moving ones "
            f"{moving.points.shape[1]}D"
        )
    moving = corresponding(fixed, moving, what="landmarks")
    return transform_error(transform, lambda _: moving.points, fixed.points)


def transform_error(transform: Transform, true_transform: Transform, points: Tensor) -> Tensor:
    """|T(x) - true(x)| in mm at points x (N, D) of the fixed image, shape (N,)."""
    return (transform(points) - true_transform(points)).norm(dim=-1)


def inverse_consistency(transform: Transform, inverse: Transform, points: Tensor) -> Tensor:
    """|T(T^-1(y)) - y| in mm at points y (N, D) of the moving image, shape (N,)."""
    return (transform(inverse(points)) - points).norm(dim=-1)


def rotation_between(transform: AffineTransform, true_transform: AffineTransform) -> float:
    """Angle in degrees of the rotation nearest to true^-1 T."""
    left, _, right = torch.linalg.svd(true_transform.inverse().linear @ transform.linear)
    away = (left @ right - torch.eye(len(left), dtype=left.dtype)).norm().item()
    return math.degrees(2 * math.asin(min(away / math.sqrt(8), 1.0)))  # |R - 1| = sqrt(8) sin(a/2)
