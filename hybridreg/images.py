"""Images, label maps and landmarks: values that know where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hybridreg.geometry import Grid


@dataclass(frozen=True, eq=False)
class Image:
    """Intensities or descriptor channels on a grid; resampled by interpolation.

    data: shape (C, *grid.shape), float32; one channel may be given without its axis.
    dtype: number type of the file it came from, such as "int16"; a writer rounds and clamps to it.
    """

    data: Tensor
    grid: Grid
    dtype: str = "float32"

    def __post_init__(self):
        data = torch.as_tensor(self.data, dtype=torch.float32)
        if data.ndim == self.grid.dimension:
            data = data[None]
        _check_shape("image", tuple(data.shape[1:]), self.grid)
        object.__setattr__(self, "data", data)

    @property
    def channels(self) -> int:
        return self.data.shape[0]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Whole numbers that name structures, 0 for none; resampled by nearest neighbor.

    data: shape (*grid.shape), int32. A mask is a label map of 0 and anything else.
    names: label -> name, for tables.
    """

    data: Tensor
    grid: Grid
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self):
        data = torch.as_tensor(self.data)
        if data.is_floating_point() and not torch.equal(data, data.round()):
            raise ValueError("labels must be whole numbers; found fractions: is this an image?")
        _check_shape("label map", tuple(data.shape), self.grid)
        object.__setattr__(self, "data", data.to(torch.int32))

    def labels(self) -> list[int]:
        """The labels that occur, without 0, in rising order."""
        return [label for label in torch.unique(self.data).tolist() if label != 0]


@dataclass(frozen=True, eq=False)
class LandmarkSet:
    """Named points in LPS mm.

    points: shape (N, D), float64. names: N texts, by default "1", "2", ...
    """

    points: Tensor
    names: tuple[str, ...] = ()

    def __post_init__(self):
        points = torch.as_tensor(self.points, dtype=torch.float64)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise ValueError(f"landmarks need shape (N, 2) or (N, 3), found {tuple(points.shape)}")
        if not torch.isfinite(points).all():
            raise ValueError("landmarks have coordinates that are not finite")
        names = tuple(self.names) or tuple(str(i + 1) for i in range(len(points)))
        if len(names) != len(points):
            raise ValueError(f"{len(points)} landmarks but {len(names)} names")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "names", names)


def _check_shape(what: str, found: tuple[int, ...], grid: Grid):
    if found != grid.shape:
        raise ValueError(f"{what} of shape {found} does not fit its grid of shape {grid.shape}")
