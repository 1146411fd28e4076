"""The job of the child process: a pair of images as .npy files in a folder, and a description."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.methods.elastix.parameter_maps import Parameters, dummies
from hybridreg.transforms import (
    AffineTransform,
    BSplineTransform,
    DisplacementField,
    Transform,
    parts_of,
)


def write_job(
    folder: Path, pair: ImagePair, stages: Sequence[Parameters], initial: Transform
) -> dict[str, Any]:
    """Writes the arrays of a registration into a folder; returns its description for JSON."""
    maps, channels = initial_maps(initial), pair.fixed.channels
    empty = [dummies(stage, channels) for stage in stages]
    points = None
    if pair.fixed_points is not None:
        points = [
            _write_points(folder / "fixed_points.txt", pair.fixed_points),
            _write_points(folder / "moving_points.txt", pair.moving_points),
        ]
    return {
        "folder": str(folder),
        "dimension": pair.dimension,
        "fixed": _channels(folder, "fixed", pair.fixed, max(empty)),
        "moving": _channels(folder, "moving", pair.moving, max(empty)),
        # one for each channel: elastix gives each mask to one metric
        "fixed_masks": _mask(folder, "fixed", pair.fixed, pair.fixed_mask) * channels,
        "moving_masks": _mask(folder, "moving", pair.moving, pair.moving_mask) * channels,
        "points": points,
        "initial": maps or [],
        "field": None if maps is not None else _field(folder, initial, pair.fixed.grid),
        "stages": [
            {"parameters": dict(stage), "images": channels + count}
            for stage, count in zip(stages, empty, strict=True)
        ],
    }


def initial_maps(transform: Transform) -> list[dict[str, list[str]]] | None:
    """A transform as exact transform parameter maps of elastix, in order of application.

    None if elastix has no such transform, as for displacement fields.
    """
    parts = parts_of(transform)
    maps = []
    for part in reversed(parts):
        if isinstance(part, AffineTransform):
            maps.append(_affine_map(part))
        elif isinstance(part, BSplineTransform) and part.order > 1:  # 1 has no second derivative
            maps.append(_bspline_map(part))
        else:
            return None
    return maps


def _affine_map(affine: AffineTransform) -> dict[str, list[str]]:
    dimension = len(affine.translation)
    return _map(
        "AffineTransform",
        dimension,
        [*affine.linear.flatten().tolist(), *affine.translation.tolist()],
        CenterOfRotationPoint=[0.0] * dimension,
    )


def _bspline_map(bspline: BSplineTransform) -> dict[str, list[str]]:
    grid = bspline.grid
    return _map(
        "BSplineTransform",
        grid.dimension,
        bspline.coefficients.flatten().tolist(),
        GridSize=grid.size,
        GridIndex=[0] * grid.dimension,
        GridSpacing=grid.spacing,
        GridOrigin=grid.origin,
        GridDirection=np.transpose(grid.direction).ravel().tolist(),  # column by column
        BSplineTransformSplineOrder=[bspline.order],
    )


def _map(kind: str, dimension: int, values: Sequence[float], **others: Sequence) -> dict:
    return {
        "Transform": [kind],
        "NumberOfParameters": [str(len(values))],
        "TransformParameters": [repr(value) for value in values],
        **{name: [str(value) for value in given] for name, given in others.items()},
        "HowToCombineTransforms": ["Compose"],
        "FixedImageDimension": [str(dimension)],
        "MovingImageDimension": [str(dimension)],
    }


def _channels(folder: Path, side: str, image: Image, empty: int) -> list[dict]:
    """The channels, then empty images on the same grid for metrics that use no image."""
    described = [
        _write(folder / f"{side}{c}.npy", channel.numpy(force=True), image.grid)
        for c, channel in enumerate(image.data)
    ]
    if empty:
        grid = image.grid
        spacing = [(n - 1) * s / 7 for n, s in zip(grid.size, grid.spacing, strict=True)]
        coarse = Grid((8,) * grid.dimension, spacing, grid.origin, grid.direction)
        zeros = np.zeros(coarse.shape, dtype=np.float32)
        described += [_write(folder / f"{side}_empty.npy", zeros, coarse)] * empty
    return described


def _mask(folder: Path, side: str, image: Image, mask: LabelMap | None) -> list[dict]:
    """The mask on the grid of its image: elastix refuses or misplaces masks of another header."""
    if mask is None:
        return []
    inside = (mask.data != 0).numpy(force=True).astype(np.uint8)
    return [_write(folder / f"{side}_mask.npy", inside, image.grid)]


def _field(folder: Path, transform: Transform, grid: Grid) -> dict:
    if not (isinstance(transform, DisplacementField) and transform.grid == grid):
        transform = DisplacementField.sampled(transform, grid)
    vectors = _components_last(transform.vectors)
    return _write(folder / "initial.npy", vectors, grid)


def _components_last(vectors: Tensor) -> np.ndarray:
    return vectors.movedim(0, -1).numpy(force=True).astype(np.float64)  # (z, y, x, 3)


def _write(path: Path, data: np.ndarray, grid: Grid) -> dict:
    np.save(path, np.ascontiguousarray(data))
    return {
        "file": path.name,
        "spacing": grid.spacing,
        "origin": grid.origin,
        "direction": grid.direction,
    }


def _write_points(path: Path, landmarks: LandmarkSet) -> str:
    rows = [" ".join(map(repr, point)) for point in landmarks.points.tolist()]
    path.write_text("\n".join(["point", str(len(rows)), *rows]) + "\n", encoding="utf-8")
    return path.name
