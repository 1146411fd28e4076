"""Stacks of DICOM slices: whether they form a regular grid, and resampling to one.

The position of a slice is given by ImagePositionPatient, ImageOrientationPatient and PixelSpacing,
in LPS mm; SliceThickness, SpacingBetweenSlices, GantryDetectorTilt and the numbering are not used
for geometry. Slices are ordered along the normal of their plane, so every grid is right-handed.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from hybridreg.geometry import Grid

# Headers round: positions to 0.01 mm or so, and normals to 1e-4, which is 0.02 mm along a stack.
_SAME_GAP_MM = 0.01
_SAME_GAP = 0.01  # relative
_OFF_LINE = 0.02  # of a gap, summed over the stack
_DRIFT = 0.1  # of a pixel, across the stack
_WIDEST_GAP = 4.0  # times the usual gap: larger ones are not interpolated
MAX_VOXELS = 1 << 31  # 8 GiB of float32


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel slices of one size, ordered along their normal.

    positions: LPS mm of the center of the first pixel of each slice, shape (n, 3).
    axes: unit vectors along a row of pixels, along a column and along the normal; shape (3, 3).
    spacing: mm between pixels, (x, y). size: pixels, (x, y). names: of the slices, for messages.
    """

    positions: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]
    names: tuple[str, ...]

    @property
    def heights(self) -> np.ndarray:
        """mm along the normal, rising; shape (n,)."""
        return self.positions @ self.axes[2]

    @property
    def gaps(self) -> np.ndarray:
        return np.diff(self.heights)

    @property
    def offsets(self) -> np.ndarray:
        """mm within the plane, (x, y); shape (n, 2)."""
        return self.positions @ self.axes[:2].T

    def problem(self) -> str:
        """Why the slices do not lie on a regular grid; "" if they do."""
        return "; ".join(filter(None, (self._tilt(), self._unevenness())))

    def grid(self) -> Grid:
        """The grid of the slices, if there is no problem."""
        offset = self.offsets.mean(0)
        gap = (self.heights[-1] - self.heights[0]) / len(self.gaps)
        return self._grid(offset, self.heights[0], (len(self.positions), *self.size[::-1]), gap)

    def _grid(self, offset, height: float, shape: tuple[int, ...], gap: float) -> Grid:
        origin = offset @ self.axes[:2] + height * self.axes[2]
        return Grid(shape, (*self.spacing, gap), origin, self.axes.T)

    def _tilt(self) -> str:
        heights = self.heights - self.heights.mean()
        drift = self.offsets - self.offsets.mean(0)
        tolerance = _DRIFT * min(self.spacing)
        if np.ptp(drift, axis=0).max() <= tolerance:
            return ""
        slope = heights @ drift / (heights @ heights)
        if np.abs(drift - np.outer(heights, slope)).max() <= tolerance:
            angle = math.degrees(math.atan(np.hypot(*slope)))
            return (
                f"the slices are stacked {angle:.1f} degrees off their normal, as by a tilted "
                "gantry, so the volume is sheared"
            )
        shift = np.ptp(drift, axis=0).max()
        return f"the slices are shifted against each other by up to {shift:.3g} mm"

    def _unevenness(self) -> str:
        gaps, usual = self.gaps, float(np.median(self.gaps))
        even = np.linspace(self.heights[0], self.heights[-1], len(self.heights))
        off_gap, off_line = np.abs(gaps - usual), np.abs(self.heights - even)
        same_gap = max(_SAME_GAP_MM, _SAME_GAP * usual)
        if off_gap.max() <= same_gap and off_line.max() <= max(_SAME_GAP_MM, _OFF_LINE * usual):
            return ""
        times = np.rint(gaps / usual)
        multiples = np.abs(gaps - times * usual) <= same_gap
        if multiples.all() and times.min() == 1 < times.max():
            return self._missing(times.astype(int) - 1, usual)
        return f"the gaps between slices are not equal: {_tally(gaps)}"

    def _missing(self, absent: np.ndarray, usual: float) -> str:
        holes = [
            f"{count} between {self.names[k]} and {self.names[k + 1]}"
            for k, count in enumerate(absent)
            if count > 0
        ]
        shown = ", ".join(holes[:3]) + (f" and {len(holes) - 3} more gaps" if holes[3:] else "")
        return f"slices {usual:.3g} mm apart are missing: {shown}"


def resampled(stack: Stack, values: np.ndarray, outside: float) -> tuple[np.ndarray, Grid]:
    """The slices (n, y, x) interpolated linearly onto a right-angled grid in their own planes.

    Along the normal the spacing is the gap that a quarter of the gaps do not exceed, from the first
    slice on, so an evenly spaced stack keeps its planes; within the planes the field of view grows
    to contain all slices. outside: the value where there is no slice. ValueError if gaps are too
    large to interpolate.
    """
    grid = _right_angled(stack)
    first = np.array(grid.origin) @ stack.axes[:2].T
    heights = stack.heights
    x, y = (first[i] + np.arange(grid.size[i]) * stack.spacing[i] for i in (0, 1))
    planes = np.full(grid.shape, outside, dtype=np.float32)
    for k in range(grid.shape[0]):
        height = min(heights[0] + k * grid.spacing[2], heights[-1])
        above = int(np.clip(np.searchsorted(heights, height), 1, len(heights) - 1))
        weight = (height - heights[above - 1]) / (heights[above] - heights[above - 1])
        total, weights = np.zeros(grid.shape[1:]), np.zeros(grid.shape[1:])
        for index, fraction in ((above - 1, 1 - weight), (above, weight)):
            if fraction < 1e-6:
                continue
            column, row = (
                (axis - stack.offsets[index, i]) / stack.spacing[i] for i, axis in enumerate((x, y))
            )
            covered = _covered(row, values.shape[1])[:, None] & _covered(column, values.shape[2])
            total += fraction * covered * _linear(_linear(values[index], row, 0), column, 1)
            weights += fraction * covered
        np.divide(total, weights, out=planes[k], where=weights > 0, casting="same_kind")
    return planes, grid


def _right_angled(stack: Stack) -> Grid:
    gaps = stack.gaps
    if gaps.max() > _WIDEST_GAP * np.median(gaps):
        k = int(gaps.argmax())
        raise ValueError(
            f"between {stack.names[k]} and {stack.names[k + 1]} there is a hole of "
            f"{gaps[k]:.3g} mm, where slices are usually {np.median(gaps):.3g} mm apart, "
            "too much to interpolate: find the missing slices, or read one part of the series from "
            "a folder of its own"
        )
    height = stack.heights[-1] - stack.heights[0]
    gap = float(np.quantile(gaps, 0.25, method="lower"))
    steps = round(height / gap)
    if abs(height / gap - steps) < 0.1:
        gap = height / steps  # a single gap has the rounding errors of two positions
    first, last = stack.offsets.min(0), stack.offsets.max(0)
    growth = np.ceil((last - first) / stack.spacing - _DRIFT)
    if (np.abs(np.diff(stack.offsets, axis=0)) >= np.multiply(stack.size, stack.spacing)).any():
        raise ValueError("its slices do not lie above each other, so they are no volume")
    shape = (steps + 1, *(int(n) for n in (growth + stack.size)[::-1]))
    if math.prod(shape) > MAX_VOXELS:
        raise ValueError(f"a right-angled grid would have {shape} voxels, too many to resample")
    return stack._grid(first, stack.heights[0], shape, gap)


def _covered(index: np.ndarray, count: int) -> np.ndarray:
    """Which indices lie within pixels, that is up to half a pixel beyond the outer centers."""
    return (index >= -0.5 - 1e-6) & (index <= count - 0.5 + 1e-6)


def _linear(values: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Values at fractional indices along one axis; the border repeats."""
    index = np.clip(index, 0, values.shape[axis] - 1)
    low = np.minimum(np.floor(index + 1e-6).astype(int), values.shape[axis] - 1)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    weight = np.clip(index - low, 0, 1)
    weight = weight[:, None] if axis == 0 else weight
    return (1 - weight) * values.take(low, axis) + weight * values.take(high, axis)


def _tally(gaps: np.ndarray) -> str:
    counts = Counter(f"{gap:.2f}" for gap in gaps)
    if len(counts) > 5:
        return f"from {gaps.min():.2f} to {gaps.max():.2f} mm"
    times = [f"{gap} mm ({'once' if n == 1 else f'{n} times'})" for gap, n in counts.items()]
    return ", ".join(times)
