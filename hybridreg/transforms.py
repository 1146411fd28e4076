"""Spatial transforms: functions of points in LPS mm, from the fixed to the moving image.

A transform T is called with points (..., D) and gives points of the same shape: a tensor of the
same number type for a tensor, a NumPy array (float64) for an array or for lists. Whole numbers in a
tensor become float64.
``inverse()`` gives a transform again. Composition is written as in algebra:
``CompositeTransform((a, b))`` is x -> a(b(x)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.bsplines import BSpline
from hybridreg.geometry import Grid, apply_matrix
from hybridreg.kernels.interpolation import at_points


def of_points(call: Callable) -> Callable:
    """Makes a transform's ``__call__`` accept arrays, lists and integers too."""

    @wraps(call)
    def called(self, points):
        if isinstance(points, Tensor) and points.is_floating_point():
            return call(self, points)
        try:
            given = points if isinstance(points, Tensor) else np.array(points, dtype=np.float64)
        except (TypeError, ValueError):
            given = ()
        given = torch.as_tensor(given, dtype=torch.float64)
        if given.ndim == 0 or given.shape[-1] not in (2, 3):
            raise ValueError(
                "a transform maps points in LPS mm: a tensor, an array or lists of shape (..., 2) "
                f"or (..., 3); found {type(points).__name__} of shape {tuple(given.shape)}"
            )
        moved = call(self, given)
        return moved if isinstance(points, Tensor) else moved.numpy()

    return called


class Transform(Protocol):
    """x -> T(x), fixed LPS mm to moving LPS mm."""

    def __call__(self, points: Tensor) -> Tensor: ...

    def inverse(self) -> Transform: ...


@dataclass(frozen=True, eq=False)
class AffineTransform:
    """x -> M x + t, given as one homogeneous matrix (D+1, D+1),
    float64. Rigid is a special case.
    """

    matrix: Tensor

    def __post_init__(self):
        matrix = torch.as_tensor(self.matrix, dtype=torch.float64)
        if matrix.shape not in ((3, 3), (4, 4)):
            raise ValueError(f"an affine needs a 3x3 or 4x4 matrix, found {tuple(matrix.shape)}")
        if not torch.isfinite(matrix).all():
            raise ValueError("the affine matrix has numbers that are not finite")
        last = torch.eye(len(matrix), dtype=torch.float64)[-1]
        if not torch.allclose(matrix[-1], last):
            raise ValueError(f"the last row of an affine is 0 ... 0 1, found {matrix[-1].tolist()}")
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_parts(cls, linear, translation, center=None) -> AffineTransform:
        """x -> linear (x - center) + center + translation: how ITK writes it."""
        linear = torch.as_tensor(linear, dtype=torch.float64)
        translation = torch.as_tensor(translation, dtype=torch.float64)
        center = torch.zeros_like(translation) if center is None else torch.as_tensor(center)
        center = center.to(torch.float64)
        matrix = torch.eye(len(translation) + 1, dtype=torch.float64)
        matrix[:-1, :-1] = linear
        matrix[:-1, -1] = translation + center - linear @ center
        return cls(matrix)

    @property
    def linear(self) -> Tensor:
        return self.matrix[:-1, :-1]

    @property
    def translation(self) -> Tensor:
        return self.matrix[:-1, -1]

    @of_points
    def __call__(self, points: Tensor) -> Tensor:
        return apply_matrix(self.matrix, points)

    def inverse(self) -> AffineTransform:
        """Closed form. ValueError where the matrix is singular."""
        if abs(torch.linalg.det(self.linear).item()) < 1e-12:
            raise ValueError("this affine has no inverse: its matrix is singular")
        return AffineTransform(torch.linalg.inv(self.matrix))


def rigid(angles_deg: Sequence[float], translation_mm: Sequence[float], center) -> AffineTransform:
    """Rotation about ``center`` (LPS mm), then translation.

    angles_deg: one angle in 2D; in 3D about the x, y and z axes, R = Rz Rx Ry as ITK's
    Euler3DTransform.
    """
    if (len(angles_deg), len(translation_mm)) not in ((1, 2), (3, 3)):
        raise ValueError(
            f"a rigid transform has 1 angle and 2 mm in 2D, 3 and 3 in 3D; found "
            f"{len(angles_deg)} angles and {len(translation_mm)} mm"
        )
    angles = [math.radians(angle) for angle in angles_deg]
    if len(angles) == 1:
        c, s = math.cos(angles[0]), math.sin(angles[0])
        return AffineTransform.from_parts([[c, -s], [s, c]], translation_mm, center)
    (cx, cy, cz), (sx, sy, sz) = zip(*[(math.cos(a), math.sin(a)) for a in angles], strict=True)
    rotate_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], dtype=torch.float64)
    rotate_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    rotate_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]], dtype=torch.float64)
    return AffineTransform.from_parts(rotate_z @ rotate_x @ rotate_y, translation_mm, center)


@dataclass(frozen=True, eq=False)
class BSplineTransform:
    """x -> x + sum of B-splines: a free-form deformation (Rueckert 1999), as in ITK and elastix.

    coefficients: displacements of the control points in mm, shape (D, *control grid), float64.
    grid: the control grid. A point that lacks some of its order + 1 neighbors along an axis is not
        moved, as in ITK.
    """

    coefficients: Tensor
    grid: Grid
    order: int = 3

    def __post_init__(self):
        coefficients = torch.as_tensor(self.coefficients, dtype=torch.float64)
        _check_vectors(coefficients, self.grid)
        if self.order not in (1, 2, 3):
            raise ValueError(f"B-splines of order 1, 2 and 3 are known, found {self.order}")
        if min(self.grid.shape) < self.order + 1:
            raise ValueError(
                f"a B-spline of order {self.order} needs at least {self.order + 1} control points "
                f"along every axis, found {self.grid.shape}"
            )
        object.__setattr__(self, "coefficients", coefficients)

    @cached_property
    def _displacement(self) -> BSpline:
        return BSpline(self.coefficients, self.order)

    @of_points
    def __call__(self, points: Tensor) -> Tensor:
        flat = _flat(points, self.grid)
        index = apply_matrix(self.grid.physical_to_voxel(), flat)
        margin = (self.order - 1) / 2
        last = torch.tensor(self.grid.size, dtype=torch.float64) - 1 - margin
        inside = ((index >= margin) & (index <= last + 1e-12)).all(-1)
        if inside.all():
            moved = flat + self._displacement(index)
        else:
            moved = flat.clone()
            moved[inside] += self._displacement(index[inside])
        return moved.reshape(points.shape).to(points.dtype)

    def inverse(self) -> NumericalInverse:
        return NumericalInverse(self)


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """x -> x + u(x), u interpolated linearly between samples and zero outside the grid, as in ITK.

    vectors: u in mm, (x, y, z) components first, shape (D, *grid.shape), float32 or float64.
    """

    vectors: Tensor
    grid: Grid

    def __post_init__(self):
        vectors = torch.as_tensor(self.vectors)
        _check_vectors(vectors, self.grid)
        object.__setattr__(self, "vectors", vectors)

    @classmethod
    def sampled(cls, transform: Transform, grid: Grid) -> DisplacementField:
        """Any transform as its displacements (float32) on a grid."""
        vectors = torch.empty(grid.dimension, *grid.shape)
        affine = affine_of(transform, grid.dimension)
        for rows, slab in grid.slabs():
            if affine is not None:
                matrix = affine.matrix - torch.eye(len(affine.matrix))
                _linear_function(matrix, slab, out=vectors[:, rows])
                continue
            points = slab.points()
            vectors[:, rows] = (transform(points) - points).movedim(-1, 0)
        return cls(vectors, grid)

    @of_points
    def __call__(self, points: Tensor) -> Tensor:
        vectors, inside = interpolate(self.vectors, self.grid, points)
        return points + (vectors * inside).movedim(0, -1).to(points.dtype)

    def inverse(self) -> NumericalInverse:
        return NumericalInverse(self)


@dataclass(frozen=True, eq=False)
class CompositeTransform:
    """x -> parts[0](parts[1](... (x))): the last part is applied first. Without parts: identity."""

    parts: tuple[Transform, ...] = ()

    @of_points
    def __call__(self, points: Tensor) -> Tensor:
        for part in reversed(self.parts):
            points = part(points)
        return points

    def inverse(self) -> CompositeTransform:
        return CompositeTransform(tuple(part.inverse() for part in reversed(self.parts)))


IDENTITY = CompositeTransform()


def compose(*transforms: Transform) -> Transform:
    """x -> a(b(...(x))) with nested composites flattened and adjacent affines multiplied.

    >>> compose(rigid([90], [0, 0], [0, 0]), rigid([-90], [0, 0], [0, 0])).matrix[0, 0].item()
    1.0
    """
    parts: list[Transform] = []
    for part in _opened(transforms):
        if parts and isinstance(part, AffineTransform) and isinstance(parts[-1], AffineTransform):
            parts[-1] = AffineTransform(parts[-1].matrix @ part.matrix)
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else CompositeTransform(tuple(parts))


def parts_of(transform: Transform) -> tuple[Transform, ...]:
    """The parts of a transform after ``compose``, the last applied first; () for the identity."""
    total = compose(transform)
    return total.parts if isinstance(total, CompositeTransform) else (total,)


def affine_of(transform: Transform, dimension: int) -> AffineTransform | None:
    """The transform as one affine, the identity included; None if it is none."""
    parts = parts_of(transform)
    if not parts:
        return AffineTransform(torch.eye(dimension + 1))
    return parts[0] if len(parts) == 1 and isinstance(parts[0], AffineTransform) else None


def _opened(transforms: Iterable[Transform]) -> Iterable[Transform]:
    for transform in transforms:
        if isinstance(transform, CompositeTransform):
            yield from _opened(transform.parts)
        else:
            yield transform


@dataclass(frozen=True, eq=False)
class NumericalInverse:
    """y -> x with T(x) = y, by Broyden's method at every point separately, starting at x = y.

    For any transform, at any points, in float64; for displacements on a lattice see
    ``kernels.inversion``.
    A point has converged when |T(x) - y| is under ``tolerance_mm``. Where T folds or is
    discontinuous there is no solution, and ``solve`` returns the residual.
    """

    transform: Transform
    tolerance_mm: float = 1e-4
    iterations: int = 40

    @of_points
    def __call__(self, points: Tensor) -> Tensor:
        return self.solve(points)[0]

    def solve(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The points x, shape (..., D), and the residual |T(x) - y| in mm, shape (...)."""
        dimension = points.shape[-1]
        y = points.reshape(-1, dimension).to(torch.float64)
        x, error = y.clone(), y - self.transform(y)
        distance = error.norm(dim=-1)
        slope = torch.eye(dimension, dtype=torch.float64).repeat(len(y), 1, 1)  # dx / dT(x)
        for _ in range(self.iterations):
            todo = (distance > self.tolerance_mm).nonzero()[:, 0]
            if len(todo) == 0:
                break
            before = error[todo, :, None]
            step = slope[todo] @ before
            trial = x[todo] + step[..., 0]
            after = y[todo] - self.transform(trial)
            slope[todo] = _improved(slope[todo], step, before - after[..., None])
            better = after.norm(dim=-1) < distance[todo]
            won = todo[better]
            x[won], error[won] = trial[better], after[better]
            distance[won] = after[better].norm(dim=-1)
        return x.reshape(points.shape).to(points.dtype), distance.reshape(points.shape[:-1])

    def inverse(self) -> Transform:
        return self.transform


def _improved(slope: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Broyden's update: the nearest slope (N, D, D) that maps this change to this step (N, D, 1).

    Where that would invert the slope (beyond a fold), it is not changed.
    """
    guess = slope @ change
    row = step.mT @ slope
    scale = row @ change
    sound = scale > 0.1 * (step.mT @ step)
    update = (step - guess) @ row / torch.where(sound, scale, 1.0)
    return slope + torch.where(sound, update, 0.0)


def interpolate(data: Tensor, grid: Grid, points: Tensor) -> tuple[Tensor, Tensor]:
    """Linear interpolation as in ITK: values (C, ...) and bool (...), true inside the grid.

    data: shape (C, *grid.shape); points: LPS mm, shape (..., D). Outside, values repeat the border.
    The arithmetic is float64: float32 coordinates would cost 1e-4 of a voxel on large grids.
    """
    flat = _flat(points, grid)
    if found := at_points(data, grid.physical_to_voxel(), flat):
        values, inside = found
        return values.reshape(len(data), *points.shape[:-1]), inside.reshape(points.shape[:-1])
    normalized = apply_matrix(grid.to_normalized(), flat)
    values = F.grid_sample(
        data[None].to(torch.float64),
        normalized.reshape(1, -1, *[1] * (grid.dimension - 1), grid.dimension),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    inside = (normalized.abs() <= 1).all(-1)
    return values.reshape(len(data), *points.shape[:-1]), inside.reshape(points.shape[:-1])


def _linear_function(matrix: Tensor, grid: Grid, *, out: Tensor):
    """M x + t at every voxel x of a grid, (D, *shape); computed in float64, without the points."""
    by_voxel = matrix @ grid.voxel_to_physical()
    values = by_voxel[:-1, -1].reshape(-1, *[1] * grid.dimension)
    for axis, count in reversed(list(enumerate(grid.size))):
        steps = by_voxel[:-1, axis, None] * torch.arange(count, dtype=torch.float64)
        where = [1] * grid.dimension
        where[grid.dimension - 1 - axis] = count
        steps = steps.reshape(-1, *where)
        values = torch.add(values, steps, out=out) if axis == 0 else values + steps


def _flat(points: Tensor, grid: Grid) -> Tensor:
    """The points as (N, D), float64."""
    if points.shape[-1] != grid.dimension:
        raise ValueError(f"{points.shape[-1]}D points do not fit what is {grid.dimension}D")
    return points.reshape(-1, grid.dimension).to(torch.float64)


def _check_vectors(vectors: Tensor, grid: Grid):
    if tuple(vectors.shape) != (grid.dimension, *grid.shape):
        raise ValueError(
            f"displacements of shape {tuple(vectors.shape)} do not fit a grid of shape "
            f"{grid.shape}: expected {(grid.dimension, *grid.shape)}"
        )
    if not torch.isfinite(torch.stack(vectors.aminmax())).all():
        raise ValueError("displacements have numbers that are not finite")
