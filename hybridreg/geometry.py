"""Grid: the position of an image's voxels in the patient; the only place where axes are flipped.

Four coordinate frames, named once for the whole package:

array       indices ``data[z, y, x]``; shapes are written in this order
voxel       continuous indices (x, y, z), 0 at the center of the first voxel
physical    LPS millimeters (x, y, z), as in ITK and DICOM
normalized  (x, y, z) in [-1, 1], the outer faces of the first and last voxel: ``grid_sample``
            with ``align_corners=False``, where |u| <= 1 is exactly ITK's "inside the buffer"
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

_float64 = partial(torch.tensor, dtype=torch.float64)


@dataclass(frozen=True)
class Grid:
    """The sampling lattice of a 2D or 3D image.

    shape: number of voxels in array order, (z, y, x) or (y, x).
    spacing: distance between voxel centers in mm, (x, y, z) order.
    origin: LPS mm of the center of the first voxel.
    direction: D rows of D numbers; column j is the unit vector of voxel axis j in LPS. It may be
        left-handed, but not sheared or singular (ValueError).
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    origin: tuple[float, ...] = ()
    direction: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self):
        dimension = len(self.shape)
        if dimension not in (2, 3):
            raise ValueError(f"an image has 2 or 3 axes, found shape {tuple(self.shape)}")
        rows = self.direction if len(self.direction) else np.eye(dimension)
        fields = {
            "shape": tuple(int(n) for n in self.shape),
            "spacing": _floats(self.spacing if len(self.spacing) else np.ones(dimension)),
            "origin": _floats(self.origin if len(self.origin) else np.zeros(dimension)),
            "direction": tuple(_floats(row) for row in rows),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self):
        dimension = len(self.shape)
        if min(self.shape) < 1:
            raise ValueError(f"every axis needs at least one voxel, found shape {self.shape}")
        for name in ("spacing", "origin", "direction"):
            value = np.asarray(getattr(self, name))
            wanted = (dimension, dimension) if name == "direction" else (dimension,)
            if value.shape != wanted:
                raise ValueError(f"{name} needs shape {wanted}, found {value.shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name} has numbers that are not finite: {value.tolist()}")
        if min(self.spacing) <= 0:
            raise ValueError(f"spacing must be positive mm, found {self.spacing}")
        axes = np.asarray(self.direction)
        deviation = np.abs(axes.T @ axes - np.eye(dimension)).max()
        if deviation > 1e-3:
            raise ValueError(
                f"the axes of the image are not at right angles or not of unit length "
                f"(off by {deviation:.3g}): resample it to a right-angled grid first"
            )

    @property
    def dimension(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> tuple[int, ...]:
        """Number of voxels in (x, y, z) order."""
        return self.shape[::-1]

    @property
    def extent(self) -> tuple[float, ...]:
        """Physical length of each voxel axis in mm, from face to face, (x, y, z) order."""
        return tuple(n * s for n, s in zip(self.size, self.spacing, strict=True))

    @property
    def diagonal(self) -> float:
        """Length of the space diagonal in mm, from face to face."""
        return math.hypot(*self.extent)

    @property
    def center(self) -> Tensor:
        """LPS mm of the middle of the field of view, shape (D,)."""
        return apply_matrix(self.to_physical(), torch.zeros(self.dimension, dtype=torch.float64))

    def voxel_to_physical(self) -> Tensor:
        """Matrix from voxel (x, y, z) to LPS mm, shape (D+1, D+1), float64."""
        matrix = torch.eye(self.dimension + 1, dtype=torch.float64)
        matrix[:-1, :-1] = _float64(self.direction) * _float64(self.spacing)
        matrix[:-1, -1] = _float64(self.origin)
        return matrix

    def physical_to_voxel(self) -> Tensor:
        """Matrix from LPS mm to voxel (x, y, z), shape (D+1, D+1), float64."""
        return torch.linalg.inv(self.voxel_to_physical())

    def to_physical(self) -> Tensor:
        """Matrix from normalized (x, y, z) in [-1, 1] to LPS mm, shape (D+1, D+1), float64.

        -1 and 1 are the outer faces of the first and last voxel: |u| <= 1 is ITK's "inside".
        """
        size = _float64(self.size)
        to_voxel = torch.eye(self.dimension + 1, dtype=torch.float64)
        to_voxel[:-1, :-1] = torch.diag(size / 2)
        to_voxel[:-1, -1] = (size - 1) / 2
        return self.voxel_to_physical() @ to_voxel

    def to_normalized(self) -> Tensor:
        """Matrix from LPS mm to normalized (x, y, z), shape (D+1, D+1), float64."""
        return torch.linalg.inv(self.to_physical())

    def points(self) -> Tensor:
        """LPS mm of every voxel center, shape (*shape, D), float64."""
        matrix = self.voxel_to_physical()
        points = matrix[:-1, -1].expand(*self.shape, -1)
        for axis, count in enumerate(self.size):
            steps = torch.arange(count, dtype=torch.float64)[:, None] * matrix[:-1, axis]
            where = [1] * self.dimension
            where[self.dimension - 1 - axis] = count
            points = points + steps.reshape(*where, self.dimension)
        return points

    def corners(self) -> Tensor:
        """LPS mm of the outer corners of the field of view, shape (2**D, D)."""
        unit = torch.cartesian_prod(*[_float64([-1, 1])] * self.dimension)
        return apply_matrix(self.to_physical(), unit)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """The voxels start <= index < stop, both in array order, at the same positions.

        Negative starts and stops beyond the shape extend the grid.
        """
        first = _float64([float(n) for n in start[::-1]])
        origin = apply_matrix(self.voxel_to_physical(), first)
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        return replace(self, shape=shape, origin=tuple(origin.tolist()))

    def slabs(self, voxels: int = 1 << 18) -> Iterator[tuple[slice, Grid]]:
        """The grid in slabs of about ``voxels`` voxels along the first array axis."""
        rows = max(1, voxels // math.prod(self.shape[1:]))
        for start in range(0, self.shape[0], rows):
            stop = min(start + rows, self.shape[0])
            ends = (stop, *self.shape[1:])
            yield slice(start, stop), self.crop((start, *[0] * (self.dimension - 1)), ends)

    def with_spacing(self, spacing: Sequence[float]) -> Grid:
        """The same field of view (with the same center) at another spacing, (x, y, z) mm.

        The number of voxels is rounded up, so the new grid covers the old one.
        """
        size = [max(1, math.ceil(e / s - 1e-6)) for e, s in zip(self.extent, spacing, strict=True)]
        half = (_float64(size) - 1) / 2 * _float64(spacing)
        origin = self.center - _float64(self.direction) @ half
        return replace(
            self, shape=tuple(size[::-1]), spacing=tuple(spacing), origin=tuple(origin.tolist())
        )

    def upright_axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The order and flips for ``with_axes`` that are nearest to the patient's axes."""
        axes, last = np.abs(self.direction), self.dimension - 1
        best = max(  # voxel axis nearest to x, y, z
            itertools.permutations(range(self.dimension)),
            key=lambda voxel: sum(axes[i, v] for i, v in enumerate(voxel)),
        )
        order = tuple(last - best[last - axis] for axis in range(self.dimension))
        turned = tuple(
            axis
            for axis in range(self.dimension)
            if self.direction[last - axis][best[last - axis]] < 0
        )
        return order, turned

    def axis_letters(self) -> str:
        """The direction of each voxel axis (x, y, z), nearest of L R P A S I; such as "LPS".

        No two axes have the same letter or opposite letters, as in nibabel.
        """
        axes = np.array(self.direction)
        letters = [""] * self.dimension
        for voxel in np.argsort(-np.abs(axes).max(0)):
            patient = np.abs(axes[:, voxel]).argmax()
            letters[voxel] = side(patient, axes[patient, voxel])
            axes[patient] = 0
        return "".join(letters)

    def with_axes(self, order: Sequence[int], turned: Sequence[int]) -> Grid:
        """The grid of ``data.permute(order).flip(turned)``: the same voxels and positions."""
        last = self.dimension - 1
        voxel = [last - order[last - i] for i in range(self.dimension)]  # axes (x, y, z)
        signs = np.array([-1.0 if last - i in turned else 1.0 for i in range(self.dimension)])
        first = [self.size[v] - 1.0 if s < 0 else 0.0 for v, s in zip(voxel, signs, strict=True)]
        steps = (np.array(self.direction) * self.spacing)[:, voxel]
        return Grid(
            tuple(self.shape[axis] for axis in order),
            tuple(self.spacing[v] for v in voxel),
            tuple(np.array(self.origin) + steps @ first),
            np.array(self.direction)[:, voxel] * signs,
        )

    def contains(self, points: Tensor) -> Tensor:
        """Which points in LPS mm, shape (..., D), lie in the field of view; bool, shape (...)."""
        return (apply_matrix(self.to_normalized(), points).abs() <= 1).all(-1)

    def matches(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """True if the corners of both differ by at most ``tolerance`` voxels (header rounding)."""
        if self.shape != other.shape:
            return False
        distance = (self.corners() - other.corners()).norm(dim=-1).max().item()
        return distance <= tolerance * min(self.spacing)


def side(axis: int, way: float) -> str:
    """The letter of the patient's side in the direction of x, y or z (0 to 2), or its opposite."""
    return ("LPS" if way > 0 else "RAI")[axis]


def apply_matrix(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (..., D) mapped by a homogeneous matrix (D+1, D+1), in the points' number type."""
    if points.shape[-1] != len(matrix) - 1:
        raise ValueError(f"{points.shape[-1]}D points do not fit what is {len(matrix) - 1}D")
    matrix = matrix.to(points)
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def _floats(values) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
