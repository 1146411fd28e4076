"""Radiographs: projections onto a flat detector from a point source, placed in the frame of the C-arm.

The C-arm's frame is in mm, with the isocenter at the origin and axes that a patient lying face up,
head first and straight has in LPS. The header of a radiograph knows no other; a pose, an
AffineTransform from this frame to the LPS of a CT, says where the patient lies in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from hybridreg.geometry import Grid

_NEAREST_MM = 1.0  # of a source to its detector


@dataclass(frozen=True)
class Detector:
    """Where the pixels of a radiograph and its X-ray source are, in mm of the C-arm's frame.

    grid: 3D, of one slice: shape (1, rows, columns); a ray ends in the middle of each pixel.
    source: the point (x, y, z) that all rays start from.
    """

    grid: Grid
    source: tuple[float, float, float]

    def __post_init__(self):
        source = tuple(float(c) for c in self.source)
        if self.grid.dimension != 3 or self.grid.shape[0] != 1:
            raise ValueError(
                f"a detector is a 3D grid of one slice, (1, rows, columns); found {self.grid.shape}"
            )
        if len(source) != 3 or not all(map(math.isfinite, source)):
            raise ValueError(f"the X-ray source is a point (x, y, z) in mm; found {source}")
        object.__setattr__(self, "source", source)
        if abs(self.distance) < _NEAREST_MM:
            raise ValueError(
                "the X-ray source lies in the plane of the detector: check both positions"
            )

    @classmethod
    def of_c_arm(
        cls,
        size: Sequence[int],
        spacing: Sequence[float],
        *,
        source_to_detector: float,
        source_to_isocenter: float,
        primary_deg: float = 0.0,
        secondary_deg: float = 0.0,
        principal_point: Sequence[float] | None = None,
    ) -> Detector:
        """As DICOM describes a C-arm, in pixels and mm, both in the order (column, row).

        primary_deg: 0 with the detector in front of the patient (-y), 90 to their left (LAO).
        secondary_deg: 90 with the detector above the head (cranial).
        principal_point: pixel, counted from 0 at the middle of the first one, that the ray through
            the isocenter meets; by default the middle of the detector.
        Columns run to the patient's left and rows to the feet at 0, 0.
        """
        if not 0 < source_to_isocenter < source_to_detector:
            raise ValueError(
                "the isocenter lies between source and detector; found a source to "
                "detector distance of "
                f"{source_to_detector:g} mm and source to isocenter of {source_to_isocenter:g} mm"
            )
        (cos_1, sin_1), (cos_2, sin_2) = (
            (math.cos(a), math.sin(a)) for a in map(math.radians, (primary_deg, secondary_deg))
        )
        outward = torch.tensor([sin_1 * cos_2, -cos_1 * cos_2, sin_2], dtype=torch.float64)
        right = torch.tensor([cos_1, sin_1, 0.0], dtype=torch.float64)
        down = torch.tensor([sin_1 * sin_2, -cos_1 * sin_2, -cos_2], dtype=torch.float64)
        point = [(n - 1) / 2 for n in size] if principal_point is None else principal_point
        corner = outward * (source_to_detector - source_to_isocenter)
        corner = corner - right * (point[0] * spacing[0]) - down * (point[1] * spacing[1])
        axes = torch.stack([right, down, -outward], 1)
        grid = Grid((1, size[1], size[0]), (*spacing, 1.0), corner.tolist(), axes.tolist())
        return cls(grid, tuple((outward * -source_to_isocenter).tolist()))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.grid.shape[1:]

    @property
    def distance(self) -> float:
        """From the detector's plane to the source in mm, along the third axis of the grid."""
        offset = torch.tensor(self.source, dtype=torch.float64) - self.grid.center
        return (offset @ self._normal).item()

    @cached_property
    def rays(self) -> Tensor:
        """From the source to the middle of every pixel, (rows * columns, 3) mm, float64."""
        source = torch.tensor(self.source, dtype=torch.float64)
        return self.grid.points().reshape(-1, 3) - source

    @property
    def _normal(self) -> Tensor:
        return torch.tensor(self.grid.direction, dtype=torch.float64)[:, 2]

    def crop(self, rows: slice, columns: slice) -> Detector:
        """A region of interest: those rows and columns of the same detector."""
        (top, bottom, _), (left, right, _) = (
            s.indices(n) for s, n in zip((rows, columns), self.shape, strict=True)
        )
        return replace(self, grid=self.grid.crop((0, top, left), (1, bottom, right)))

    def with_spacing(self, spacing: Sequence[float]) -> Detector:
        """The same field of view in pixels of another size, (along a row, along a column) in mm."""
        return replace(self, grid=self.grid.with_spacing((*spacing, self.grid.spacing[2])))

    def depth(self, points: Tensor) -> Tensor:
        """How far points (..., 3) of the C-arm's frame are on the way: 0 at the source,
        1 at the detector.
        """
        source = torch.tensor(self.source, dtype=torch.float64)
        return (source - points.to(torch.float64)) @ self._normal / self.distance

    def shadows(self, points: Tensor) -> Tensor:
        """Where points (..., 3) of the C-arm's frame are cast onto the detector's plane, (...,
        3) mm.
        """
        source = torch.tensor(self.source, dtype=torch.float64)
        rays = points.to(torch.float64) - source
        return source - rays * (self.distance / (rays @ self._normal))[..., None]


@dataclass(frozen=True, eq=False)
class Radiograph:
    """An X-ray projection: what each pixel measured, larger where more was absorbed.

    data: shape (C, rows, columns), float32; one channel may be given without its axis. In line
        integrals of the attenuation (no unit) where the exposure is known, else up to scale and
        offset.
    detector: of as many rows and columns.
    """

    data: Tensor
    detector: Detector

    def __post_init__(self):
        data = torch.as_tensor(self.data, dtype=torch.float32)
        if data.ndim == 2:
            data = data[None]
        if data.ndim != 3 or tuple(data.shape[1:]) != self.detector.shape:
            raise ValueError(
                f"a radiograph of shape {tuple(data.shape)} does not fit its detector of "
                f"{self.detector.shape} rows and columns"
            )
        object.__setattr__(self, "data", data)

    @property
    def grid(self) -> Grid:
        return self.detector.grid

    @property
    def source(self) -> tuple[float, float, float]:
        return self.detector.source

    def crop(self, rows: slice, columns: slice) -> Radiograph:
        """A region of interest, where it was."""
        return Radiograph(self.data[:, rows, columns], self.detector.crop(rows, columns))
