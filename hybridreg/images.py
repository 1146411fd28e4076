"""Images, label maps and landmarks: values with their geometry."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hybridreg.geometry import Grid

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Image:
    """Intensities or descriptor channels on a grid; resampled by interpolation.

    data: shape (C, *grid.shape), float32; one channel may be given without its axis.
    dtype: number type of its file, such as "int16"; a writer rounds and clamps to it.
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
        """The labels that occur, without 0, in ascending order."""
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
        names = tuple(self.names) or _numbers(len(points))
        if len(names) != len(points):
            raise ValueError(f"{len(points)} landmarks but {len(names)} names")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "names", names)


def corresponding(fixed: LandmarkSet, moving: LandmarkSet, *, what: str) -> LandmarkSet:
    """The moving points in the order of the fixed ones. what: their kind, for the error message.

    Points with the same names, ignoring case, correspond by name; sets without
    any common name correspond row by row. ValueError for anything in between, which is ambiguous.
    """
    a, b = ([name.casefold() for name in points.names] for points in (fixed, moving))
    if len(a) != len(b) or (set(a) & set(b) and sorted(a) != sorted(b)):
        raise ValueError(
            f"{len(a)} fixed {what} but {len(b)} moving {what}, and not all names occur in both "
            f"({_lacking(a, b)}): give each point in both files, under the same name"
        )
    if a == b or not set(a) & set(b):
        return moving
    if len(set(a)) < len(a) or _numbers(len(a)) in (tuple(a), tuple(b)):
        raise ValueError(
            f"fixed and moving {what} have the same names in another order, and the names do not "
            "define which belong together (several are the same, or one side is only numbered): "
            "give each point a name of its own, or put both files in the same order"
        )
    log.info("the moving %s were matched to the fixed ones by name", what)
    order = [b.index(name) for name in a]
    return LandmarkSet(moving.points[order], tuple(moving.names[i] for i in order))


def _lacking(fixed: list[str], moving: list[str]) -> str:
    """The names that occur on one side only, at most five of each."""
    sides = (("fixed", fixed, moving), ("moving", moving, fixed))
    only = [(side, list((Counter(one) - Counter(other)).elements())) for side, one, other in sides]
    return "; ".join(f"only {side}: {', '.join(names[:5])}" for side, names in only if names)


def _numbers(count: int) -> tuple[str, ...]:
    """Default names of points."""
    return tuple(str(i + 1) for i in range(count))


def kind_of(value: Any) -> str:
    """The type of a value for messages, such as "numpy.ndarray"."""
    kind = type(value)
    return f"{kind.__module__.split('.')[0]}.{kind.__name__}".removeprefix("builtins.")


def check_kind(what: str, value: Any, *kinds: type):
    """Raises ValueError for a value that is not of one of these types of hybridreg."""
    if not isinstance(value, kinds):
        wanted = " or ".join(f"hybridreg.{kind.__name__}" for kind in kinds)
        raise ValueError(
            f"{what} is a {wanted}; found {kind_of(value)}: hybridreg.as_image and as_labels make "
            "one of a SimpleITK or nibabel image; an array needs its hybridreg.Grid"
        )


def _check_shape(what: str, found: tuple[int, ...], grid: Grid):
    if found != grid.shape:
        raise ValueError(f"{what} of shape {found} does not fit its grid of shape {grid.shape}")
