"""Pairs of images of a case table as the input of a network, for training without ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from hybridreg.case_files import read_case, start_of
from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.io.files import errors_of
from hybridreg.io.tables import CaseRow
from hybridreg.network_inputs import NetworkInputs
from hybridreg.training_domain import TrainingDomain

Pair = tuple[Tensor, Tensor]
"""Fixed and moving, each of shape (C, *shape)."""


@dataclass
class ImagePairs:
    """Draws batches of pairs; a batch depends on its generator alone.

    cases: each with its initial transform, through which the moving image is taken, if it has one.
    size: voxels (x, y, z) of a drawn pair; larger images are cropped at random, smaller ones
        padded.
    pairs_in_memory: how many are kept, those drawn last.
    """

    cases: Sequence[CaseRow]
    inputs: NetworkInputs
    size: tuple[int, ...]
    pairs_in_memory: int = 400
    _cache: dict[int, Pair] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        if not self.cases:
            raise ValueError("there are no cases to draw pairs from")
        if min(self.size) < 1:
            raise ValueError(
                f"the size must be at least 1 voxel along each axis, found {self.size}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a drawn image, in array order."""
        return tuple(self.size[::-1])

    def draw(self, count: int, generator: Generator) -> dict[str, Tensor]:
        """A batch: {"fixed", "moving": (count, C, *shape)};
        the two change roles in half of the pairs.
        """
        pairs = []
        for number in torch.randint(len(self.cases), (count,), generator=generator).tolist():
            *place, swap = torch.rand(len(self.size) + 1, generator=generator).tolist()
            pair = self._cut(self._pair(number), place)
            pairs.append(pair if swap < 0.5 else pair[::-1])
        return _batch(pairs)

    def middle(self, count: int) -> Iterator[dict[str, Tensor]]:
        """All pairs in order, from the middle of their images, in batches of ``count``;
        for validation.
        """
        for start in range(0, len(self.cases), count):
            numbers = range(start, min(start + count, len(self.cases)))
            yield _batch([self._cut(self._pair(n), [0.5] * len(self.size)) for n in numbers])

    def domain(self, most: int = 20) -> TrainingDomain:
        """What the images are like, from ``most`` cases at most, evenly over the table."""
        step = -(-len(self.cases) // most)
        images = []
        for row in self.cases[::step]:
            pair, seen = self._images(row)
            images += [(pair.fixed, seen.fixed), (pair.moving, seen.moving)]
        return TrainingDomain.of(images)

    def _pair(self, number: int) -> Pair:
        found = self._cache.pop(number, None) or self._read(self.cases[number])
        self._cache[number] = found  # most recently used last
        while len(self._cache) > self.pairs_in_memory:
            del self._cache[next(iter(self._cache))]
        return found

    def _cut(self, pair: Pair, place: Sequence[float]) -> list[Tensor]:
        """Both images cropped to the size; place: 0 is the first possible corner, 1 the last."""
        shapes = zip(place, pair[0].shape[1:], self.shape, strict=True)
        corner = [int(where * (n - wanted + 1)) for where, n, wanted in shapes]
        cut = tuple(slice(a, a + n) for a, n in zip(corner, self.shape, strict=True))
        return [image[(slice(None), *cut)] for image in pair]

    def _read(self, row: CaseRow) -> Pair:
        seen = self._images(row)[1]
        return seen.fixed.data, seen.moving.data

    def _images(self, row: CaseRow) -> tuple[ImagePair, ImagePair]:
        """A case's pair, as it is and as the network sees it."""
        with errors_of(row.name):
            pair = read_case(row.fixed, row.moving).pair
            if pair.dimension != len(self.size):
                raise ValueError(
                    f"the images are {pair.dimension}D, and the size {self.size} has "
                    f"{len(self.size)} axes: give as many"
                )
            start = start_of(row.initial, pair)
            return pair, self.inputs(pair, start, self._grid(pair.fixed.grid))

    def _grid(self, fixed: Grid) -> Grid:
        """All of the fixed image in the network's voxels, extended evenly to the size."""
        grid = fixed.with_spacing([self.inputs.spacing_mm] * fixed.dimension)
        missing = [max(0, n - had) for n, had in zip(self.shape, grid.shape, strict=True)]
        stop = [n + less - less // 2 for n, less in zip(grid.shape, missing, strict=True)]
        return grid.crop([-(less // 2) for less in missing], stop)

    def __getstate__(self) -> dict:
        """Without the cache: each worker process fills its own."""
        return {**self.__dict__, "_cache": {}}


def _batch(pairs: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    fixed, moving = zip(*pairs, strict=True)
    return {"fixed": torch.stack(fixed), "moving": torch.stack(moving)}
