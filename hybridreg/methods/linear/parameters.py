"""Linear transforms by parameters in mm, and gradients with respect to them in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["rigid", "similarity", "affine"]

_SMALL = 1e-9


@dataclass(frozen=True, eq=False)
class Family:
    """x -> c + t + L (x - c): a shift t and a linear part L about a center c in mm.

    rigid: L = R(w); similarity: L = exp(s) R(w); affine: L = I + E. The parameters are t, then w, s
    or E times a radius, so that each counts the mm by which it moves a point at that distance from
    the center.
    """

    kind: Kind
    center: np.ndarray
    radius: float

    @property
    def dimension(self) -> int:
        return len(self.center)

    @property
    def count(self) -> int:
        dimension = self.dimension
        turns = dimension * (dimension - 1) // 2
        return (
            dimension
            + {
                "rigid": turns,
                "similarity": turns + 1,
                "affine": dimension**2,
            }[self.kind]
        )

    def matrix(self, parameters: np.ndarray) -> np.ndarray:
        """Homogeneous, shape (D+1, D+1)."""
        d = self.dimension
        found = np.eye(d + 1)
        found[:d, :d] = self._linear(parameters[d:] / self.radius)
        found[:d, d] = self.center + parameters[:d] - found[:d, :d] @ self.center
        return found

    def gradient(self, parameters: np.ndarray, by_matrix: np.ndarray) -> np.ndarray:
        """By the parameters, of what has the gradient ``by_matrix`` (D,
        D+1) by rows of the matrix.
        """
        d = self.dimension
        by_shift = by_matrix[:, d]
        by_linear = by_matrix[:, :d] - np.outer(by_shift, self.center)
        inner = self._by_inner(parameters[d:] / self.radius, by_linear)
        return np.concatenate([by_shift, inner / self.radius])

    def _linear(self, inner: np.ndarray) -> np.ndarray:
        d = self.dimension
        if self.kind == "affine":
            return np.eye(d) + inner.reshape(d, d)
        if self.kind == "similarity":
            return np.exp(inner[-1]) * rotation(inner[:-1])
        return rotation(inner)

    def _by_inner(self, inner: np.ndarray, by_linear: np.ndarray) -> np.ndarray:
        if self.kind == "affine":
            return by_linear.ravel()
        turns = inner[:-1] if self.kind == "similarity" else inner
        scale = np.exp(inner[-1]) if self.kind == "similarity" else 1.0
        by_turns = [scale * (by_linear * slope).sum() for slope in rotation_derivatives(turns)]
        by_scale = [scale * (by_linear * rotation(turns)).sum()]
        return np.array(by_turns + (by_scale if self.kind == "similarity" else []))


def rotation(vector: np.ndarray) -> np.ndarray:
    """By an angle in rad, shape (1,), or about an axis by its length in rad, shape (3,)."""
    if len(vector) == 1:
        c, s = np.cos(vector[0]), np.sin(vector[0])
        return np.array([[c, -s], [s, c]])
    angle = np.linalg.norm(vector)
    if angle < _SMALL:
        return np.eye(3) + _cross(vector)
    axis = _cross(vector / angle)
    return np.eye(3) + np.sin(angle) * axis + (1 - np.cos(angle)) * axis @ axis


def rotation_derivatives(vector: np.ndarray) -> list[np.ndarray]:
    """Of the rotation by each component of its vector (Gallego and Yezzi 2015, eq. 9)."""
    turned = rotation(vector)
    if len(vector) == 1:
        return [turned @ np.array([[0.0, -1.0], [1.0, 0.0]])]
    square = vector @ vector
    if square < _SMALL**2:
        return [_cross(unit) for unit in np.eye(3)]
    cross, rest = _cross(vector), np.eye(3) - turned
    return [
        (vector[i] * cross + _cross(np.cross(vector, rest[:, i]))) @ turned / square
        for i in range(3)
    ]


def rotations(largest_deg: float, step_deg: float, dimension: int) -> list[np.ndarray]:
    """Vectors of rotations no larger than ``largest_deg``, on a lattice, smallest first."""
    reach = int(largest_deg / step_deg + 1e-6)
    steps = np.arange(-reach, reach + 1) * np.radians(step_deg)
    count = dimension * (dimension - 1) // 2
    lattice = np.stack(np.meshgrid(*[steps] * count, indexing="ij"), -1).reshape(-1, count)
    lengths = np.linalg.norm(lattice, axis=1)
    inside = np.flatnonzero(lengths <= np.radians(largest_deg) + 1e-9)
    return list(lattice[inside[np.argsort(lengths[inside], kind="stable")]])


def _cross(vector: np.ndarray) -> np.ndarray:
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
