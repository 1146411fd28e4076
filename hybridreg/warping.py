"""Resampling through transforms, their Jacobian determinants and their inverses as fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from scipy import ndimage
from torch import Tensor

from hybridreg.geometry import Grid, apply_matrix
from hybridreg.images import Image, LabelMap, check_kind
from hybridreg.kernels.interpolation import resampled
from hybridreg.kernels.jacobians import determinants
from hybridreg.kernels.matrices import determinant
from hybridreg.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    NumericalInverse,
    Transform,
    affine_of,
    compose,
    interpolate,
    parts_of,
)

Warpable = TypeVar("Warpable", Image, LabelMap)


def warp(
    moving: Warpable,
    transform: Transform,
    *,
    onto: Grid,
    interpolation: str = "linear",
    default: float | Tensor | None = None,
) -> Warpable:
    """The moving image (or labels) resampled through a transform: out(x) = moving(T(x)).

    transform: fixed LPS mm -> moving LPS mm. onto: the fixed grid.
    interpolation: "linear", "nearest" or "cubic" (B-spline) for images; a label map is always
        warped by nearest neighbor, because of its type.
    default: the value where T(x) lies outside the moving image, or one per channel. None means
        ``lowest``: air in CT, of RGB the darkest of each color, and 0 in a label map.
    """
    check_interpolation(interpolation)
    check_kind("what is warped", moving, Image, LabelMap)
    check_kind("what it is warped onto", onto, Grid)
    if moving.grid.dimension != onto.dimension:
        raise ValueError(
            f"a {moving.grid.dimension}D image cannot be warped onto {onto.dimension}D"
        )
    labels = isinstance(moving, LabelMap)
    data = moving.data[None] if labels else moving.data
    kind = "nearest" if labels else interpolation
    outside = lowest(moving) if default is None else torch.as_tensor(default, dtype=torch.float64)
    out = _by_loops(data, moving.grid, transform, onto, kind, outside.reshape(-1))
    if out is not None:
        return replace(moving, data=out[0] if labels else out, grid=onto)
    sample = _SAMPLERS[kind](data, moving.grid)
    outside = outside.reshape(-1, *[1] * onto.dimension)  # (C or 1, z, y, x)
    out = torch.empty(len(data), *onto.shape, dtype=data.dtype)
    for rows, slab in onto.slabs():
        values, inside = sample(_mapped(transform, slab, onto, rows))
        out[:, rows] = torch.where(inside, values, outside).to(out.dtype)
    return replace(moving, data=out[0] if labels else out, grid=onto)


def _by_loops(
    data: Tensor, grid: Grid, transform: Transform, onto: Grid, kind: str, outside: Tensor
) -> Tensor | None:
    """The values at all voxels in one pass, for affines and for fields on the grid itself."""
    if kind == "cubic":
        return None
    to_voxel = grid.physical_to_voxel()
    how = {"outside": outside, "nearest": kind == "nearest"}
    if (affine := affine_of(transform, onto.dimension)) is not None:
        matrix = to_voxel @ affine.matrix @ onto.voxel_to_physical()
        return resampled(data, matrix, onto.shape, **how)
    if isinstance(transform, DisplacementField) and transform.grid == onto:
        matrix = to_voxel @ onto.voxel_to_physical()
        how |= {"displacement": transform.vectors, "scales": to_voxel[:-1, :-1]}
        return resampled(data, matrix, onto.shape, **how)
    return None


def lowest(image: Warpable) -> Tensor:
    """The background value of an image: the smallest finite value of each channel.

    Shape (C,), float64. 0 for a label map, and for a channel without any finite value.
    """
    if isinstance(image, LabelMap):
        return torch.zeros(1, dtype=torch.float64)
    channels = image.data.flatten(1)
    least = channels.amin(1).to(torch.float64)
    if least.isfinite().all():
        return least
    least = torch.where(channels.isfinite(), channels, torch.inf).amin(1).to(torch.float64)
    return torch.where(least.isfinite(), least, 0.0)


def check_interpolation(name: str):
    """Raises ValueError for an interpolation that ``warp`` does not support."""
    if name not in _SAMPLERS:
        raise ValueError(f"interpolation is one of {', '.join(_SAMPLERS)}; found {name!r}")


def _mapped(transform: Transform, slab: Grid, grid: Grid, rows: slice) -> Tensor:
    """T at the voxels of a slab; a field on this same grid is used without interpolation."""
    points = slab.points()
    if isinstance(transform, DisplacementField) and transform.grid == grid:
        return points + transform.vectors[:, rows].movedim(0, -1)
    return transform(points)


Sampler = Callable[[Tensor], tuple[Tensor, Tensor]]


def _linear(data: Tensor, grid: Grid) -> Sampler:
    data = data.to(torch.float64)
    return lambda points: interpolate(data, grid, points)


def _nearest(data: Tensor, grid: Grid) -> Sampler:
    data = data.flatten(1)
    last = torch.tensor(grid.size) - 1
    strides = torch.tensor([1, grid.size[0], grid.size[0] * grid.size[1]][: grid.dimension])

    def sample(points: Tensor) -> tuple[Tensor, Tensor]:
        index, inside = _index(grid, points)
        nearest = (index + 0.5).floor().long().clamp(min=0).minimum(last)  # halves go up, as in ITK
        return data[:, (nearest * strides).sum(-1)], inside

    return sample


def _cubic(data: Tensor, grid: Grid) -> Sampler:
    coefficients = [ndimage.spline_filter(c, order=3, mode="mirror") for c in data.double().numpy()]

    def sample(points: Tensor) -> tuple[Tensor, Tensor]:
        index, inside = _index(grid, points)
        where = index.flip(-1).movedim(-1, 0).numpy()
        values = [
            ndimage.map_coordinates(c, where, order=3, mode="mirror", prefilter=False)
            for c in coefficients
        ]
        return torch.stack([torch.from_numpy(v) for v in values]), inside

    return sample


_SAMPLERS = {"linear": _linear, "nearest": _nearest, "cubic": _cubic}


def _index(grid: Grid, points: Tensor) -> tuple[Tensor, Tensor]:
    """Continuous voxel indices (..., D) and which of them are inside the buffer, as in ITK."""
    index = apply_matrix(grid.physical_to_voxel(), points)
    size = torch.tensor(grid.size, dtype=index.dtype)
    return index, ((index >= -0.5) & (index <= size - 0.5)).all(-1)


def jacobian_determinant(transform: Transform, grid: Grid) -> Image:
    """det(dT/dx) at every voxel: the local change of volume; 1 keeps it, 0 or less is a fold.

    By central differences between neighboring voxels (one-sided at the border) of the
    displacement in mm, so it detects exactly the folds of the warped image. An axis of one
    voxel counts as undeformed. Of an affine it is one number, without memory for every voxel.
    """
    affine = affine_of(transform, grid.dimension)
    if affine is not None and min(grid.shape) > 1:
        return Image(torch.linalg.det(affine.linear).float().expand(1, *grid.shape), grid)
    field = transform
    if not (isinstance(field, DisplacementField) and field.grid == grid):
        field = DisplacementField.sampled(transform, grid)
    if field.vectors.dtype == torch.float32:
        axes = torch.tensor(grid.direction, dtype=torch.float32)
        along = torch.einsum("ca,c...->a...", axes, field.vectors)
        return Image(determinants(along, grid.spacing), grid)
    # d(index)/dx: rows are voxel axes (x, y, z), columns LPS.
    index_by_mm = torch.linalg.inv(grid.voxel_to_physical()[:-1, :-1]).to(field.vectors.dtype)
    out = torch.empty(grid.shape)
    for rows, _ in grid.slabs():
        start, stop = max(rows.start - 1, 0), min(rows.stop + 1, grid.shape[0])
        gradient = _differences(field.vectors[:, start:stop])  # (D components, D axes, *slab)
        gradient = gradient[:, :, rows.start - start : rows.stop - start]
        jacobian = torch.einsum("ca...,ab->...cb", gradient, index_by_mm)
        jacobian += torch.eye(grid.dimension)
        out[rows] = determinant(jacobian.movedim((-2, -1), (0, 1)))
    return Image(out, grid)


def _differences(vectors: Tensor) -> Tensor:
    """Derivative of each component along each voxel axis (x, y, z order), per voxel."""
    axes = range(vectors.ndim - 1, 0, -1)
    return torch.stack([_along(vectors, axis) for axis in axes], 1)


def _along(values: Tensor, axis: int) -> Tensor:
    if values.shape[axis] == 1:
        return torch.zeros_like(values)
    return torch.gradient(values, dim=axis)[0]


@dataclass(frozen=True)
class Inverse:
    """An inverse and its residual.

    transform: moving LPS mm -> fixed LPS mm. residual_mm: mean and maximum of |T(x) - y| over the
    moving points y; both 0 if the inverse has a closed form.
    """

    transform: Transform
    mean_residual_mm: float = 0.0
    max_residual_mm: float = 0.0


def invert(transform: Transform, *, onto: Grid) -> Inverse:
    """The inverse in a form that can be written to a file, by ``NumericalInverse`` at every voxel.

    Affine parts are inverted in closed form. Deformable parts become one displacement field,
    sampled on ``onto`` (the moving grid, or a coarser one over it).
    """
    parts = parts_of(transform)
    if all(isinstance(part, AffineTransform) for part in parts):
        return Inverse(compose(transform).inverse())
    first_affine = parts[-1] if isinstance(parts[-1], AffineTransform) else None
    deformable = compose(*(parts[:-1] if first_affine else parts))
    vectors = torch.empty(onto.dimension, *onto.shape)
    residuals = torch.empty(onto.shape, dtype=torch.float64)
    for rows, slab in onto.slabs():
        y = slab.points()
        x, residuals[rows] = _solve(deformable, y)
        vectors[:, rows] = (x - y).movedim(-1, 0)
    field = DisplacementField(vectors, onto)
    inverse = compose(first_affine.inverse(), field) if first_affine else field
    return Inverse(inverse, residuals.mean().item(), residuals.max().item())


def measured(inverse: Transform, transform: Transform, *, onto: Grid) -> Inverse:
    """An inverse given by a method, with its residual over a grid."""
    total, largest = 0.0, 0.0
    for _, slab in onto.slabs():
        y = slab.points()
        residual = (transform(inverse(y)) - y).norm(dim=-1)
        total, largest = total + residual.sum().item(), max(largest, residual.max().item())
    return Inverse(inverse, total / math.prod(onto.shape), largest)


def _solve(transform: Transform, y: Tensor) -> tuple[Tensor, Tensor]:
    """Solves part by part, since each is nearer to the identity than their composition."""
    if not isinstance(transform, CompositeTransform):
        return NumericalInverse(transform).solve(y)
    x = transform.inverse()(y)
    return x, (transform(x) - y).norm(dim=-1)
