"""Rigid, similarity and affine registration of whole images in a second or less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hybridreg import progress
from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.initialization import center_of_mass
from hybridreg.methods.base import RegistrationResult, TraceEntry
from hybridreg.methods.linear.fitting import Dissimilarity, fitted
from hybridreg.methods.linear.levels import Level, levels
from hybridreg.methods.linear.parameters import Family, Kind
from hybridreg.methods.linear.search import searched
from hybridreg.similarity import LNCC, Measure
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    CompositeTransform,
    Transform,
    compose,
)

_SEARCHED = 0.3  # of the time, about


@dataclass(frozen=True)
class Linear:
    """Registers by a rigid, similarity or affine transform, coarse to fine, with quasi-Newton
    steps.

    transform: what is found, on top of the initial transform.
    similarity: LNCC or NCC for one contrast, MI for any two.
    levels_mm: voxels at each level, coarse to fine; never finer than the images'. Where the longest
        side of the fixed image has fewer than 64 voxels of the finest, all are smaller by that
        factor.
    iterations: maximum at each level. tolerance: a level ends when a step is shorter, in voxels.
    search: at the coarsest level, rotations up to ``search_deg`` about centers of mass, of the
        fields of view and as the headers say. "auto": where the initial transform is none or a mere
        shift; a turned one is a start to trust.
    foreground_mm: compare, but for the coarsest level, only inside the fixed image's foreground
        grown by so many mm, where the pair has no fixed mask; None compares everywhere.
    scaled: bring one-channel images to [0, 1] first (``intensity.to_unit``); images of several
        channels are always taken as they are.
    threads: None takes as many as torch does.
    """

    transform: Kind = "affine"
    similarity: Measure = LNCC(2)
    levels_mm: tuple[float, ...] = (8.0, 4.0, 2.0)
    iterations: int = 40
    tolerance: float = 0.02
    search: Literal["auto", "always", "never"] = "auto"
    search_deg: float = 45.0
    foreground_mm: float | None = None
    scaled: bool = True
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self):
        object.__setattr__(self, "levels_mm", tuple(self.levels_mm))
        ordered = sorted(self.levels_mm, reverse=True)
        if not self.levels_mm or min(self.levels_mm) <= 0 or list(self.levels_mm) != ordered:
            raise ValueError(f"levels_mm goes from coarse to fine in mm, found {self.levels_mm}")
        if not 0 <= self.search_deg <= 90:
            raise ValueError(
                f"search_deg is from 0 to 90, found {self.search_deg}: a head turned "
                "further around "
                "looks like its mirror image"
            )
        for name in ("iterations", "tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}")

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> M(A(x)), A the initial one; an affine where that is one."""
        search = self._searches(initial, pair.dimension)
        check_pair(pair, None if search else initial)
        start, before = _split(initial, pair.dimension)
        with _threads(self.threads):
            found = levels(
                pair,
                self.levels_mm,
                before=before,
                scaled=self.scaled,
                foreground_mm=self.foreground_mm,
                threads=self.threads,
            )
            matrix, trace = self._fit(found, before, start, search)
        affine = AffineTransform(torch.from_numpy(matrix))
        total = affine if before is None else compose(affine, before)
        return RegistrationResult(total, inverse=total.inverse(), trace=trace)

    def _searches(self, initial: Transform, dimension: int) -> bool:
        if self.search != "auto":
            return self.search == "always"
        start, before = _split(initial, dimension)
        return before is None and np.array_equal(start[:-1, :-1], np.eye(dimension))

    def _fit(
        self, found: list[Level], before: Transform | None, start: np.ndarray, search: bool
    ) -> tuple[np.ndarray, tuple[TraceEntry, ...]]:
        where = _Middle.of(found[0], before)
        matrix, trace = start, []
        for number, level in enumerate(found):
            dissimilarity = Dissimilarity(level.to(self.device), self.similarity, self.threads)
            if search and number == 0:
                starts = [start, *where.shifted(found[0], start)]
                matrix = searched(
                    dissimilarity, where.center, where.radius, starts, self.search_deg, _searching
                )
            kinds = (self.transform,) if number or search else ("rigid", self.transform)
            for kind in dict.fromkeys(kinds):
                matrix = fitted(
                    dissimilarity,
                    Family(kind, where.under(matrix), where.radius),
                    matrix,
                    since=start,
                    iterations=self.iterations,
                    tolerance=self.tolerance,
                    report=_Recorder(kind, number, len(found), self.iterations, trace),
                )
        return matrix, tuple(trace)


@dataclass(frozen=True, eq=False)
class _Middle:
    """The center of mass of the fixed image after what comes before, LPS mm,
    and its mean extent.
    """

    center: np.ndarray
    radius: float

    @classmethod
    def of(cls, level: Level, before: Transform | None) -> _Middle:
        image, mask = Image(level.fixed, level.fixed_grid), _mask(level.weight, level.fixed_grid)
        center = center_of_mass(image, mask)
        radius = max(level.fixed_grid.extent) / 4
        return cls((center if before is None else before(center[None])[0]).numpy(), radius)

    def under(self, matrix: np.ndarray) -> np.ndarray:
        return (matrix @ np.append(self.center, 1))[:-1]

    def shifted(self, level: Level, start: np.ndarray) -> Iterator[np.ndarray]:
        """The start moved so that this center comes to the moving image's center of mass,
        and its middle.
        """
        moving = Image(level.moving, level.moving_grid)
        inner = (slice(1, -1),) * moving.grid.dimension
        mask = _mask(level.seen[0][inner], moving.grid) if level.masked else None
        for there in (center_of_mass(moving, mask), moving.grid.center):
            shift = np.eye(len(start))
            shift[:-1, -1] = there.numpy() - self.under(start)
            yield shift @ start


@dataclass(frozen=True)
class _Recorder:
    """Notes every iteration, and reports how far the whole is."""

    kind: str
    level: int
    levels: int
    most: int
    trace: list[TraceEntry]

    def __call__(self, iteration: int, value: float):
        self.trace.append(TraceEntry(self.kind, self.level, iteration, {"dissimilarity": value}))
        done = (self.level + min(iteration / self.most, 1.0)) / self.levels
        progress.report(
            _SEARCHED + (1 - _SEARCHED) * done,
            f"{self.kind}, level {self.level + 1} of {self.levels}",
        )


def _searching(done: float):
    progress.report(_SEARCHED * done, "searching")


def _mask(weight: Tensor | None, grid: Grid) -> LabelMap | None:
    return None if weight is None else LabelMap((weight > 0.5).int(), grid)


def _split(initial: Transform, dimension: int) -> tuple[np.ndarray, Transform | None]:
    """The matrix to begin with, and what acts before it where that is no affine."""
    total = compose(initial)
    if isinstance(total, AffineTransform):
        return total.matrix.numpy().copy(), None
    nothing = isinstance(total, CompositeTransform) and not total.parts
    return np.eye(dimension + 1), None if nothing else total


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many for torch too inside the block, as the measures ask it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
