"""Random patches of a store of targets, for training: the two images and their targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor

from hybridreg.io.target_store import StoredTarget, TargetStore
from hybridreg.network_inputs import scaled

IMAGES = {"fixed": "fixed_on_grid", "moving": "moving_on_grid"}  # on the grid of the target
SHOWN = "shown"  # the foreground of either image, (1, *grid.shape), bool
_TRIES = 20  # to draw a patch of foreground; then one of background is used

Prepare = Callable[[StoredTarget, dict[str, Tensor]], dict[str, Tensor]]
"""Changes the values of a case when it is read: images, arrays and ``SHOWN``, (C, *shape) each."""


@dataclass
class TargetPatches:
    """Draws batches of random cubic patches; a batch depends on its generator alone.

    store: or its path. size: voxels along every axis. arrays: which of the case's, such as
        ("momentum",); None for all that the first case has.
    cases: their names, such as those of the training persons; None for all.
    intensity: see ``network_inputs.NetworkInputs``.
    cases_per_draw: maximum number of cases per batch. A larger number mixes better, and
        reads more if not all cases fit into the cache.
    cases_in_memory: how many cases are kept, those drawn last.
    prepare: a change of every case when it is read, such as of its orientation; picklable if
        batches are drawn by worker processes.

    ValueError, before any long reading, for settings that do not fit the store.
    """

    store: TargetStore
    size: int = 15
    arrays: Sequence[str] | None = None
    cases: Sequence[str] | None = None
    intensity: str | None = "percentiles"
    cases_per_draw: int = 8
    cases_in_memory: int = 32
    prepare: Prepare | None = None
    _cache: dict[str, _Case] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        if not isinstance(self.store, TargetStore):
            self.store = TargetStore.open(Path(self.store))
        if self.cases is None:
            self.cases = self.store.finished()
        for what, value in (
            ("size", self.size),
            ("cases_per_draw", self.cases_per_draw),
            ("cases_in_memory", self.cases_in_memory),
            ("number of cases", len(self.cases)),
        ):
            if value < 1:
                raise ValueError(f"{self.store.path}: the {what} must be at least 1, found {value}")
        self.arrays = _checked(self.store, self.cases[0], self.size, self.arrays)

    def draw(self, count: int, generator: Generator) -> dict[str, Tensor]:
        """A batch: {"fixed", "moving": (count, C, *size), each array: (count, D, *size)}.

        Also "case": (count,), the number of each patch's case, and "corner": (count, D), its first
        voxel in array order. The center of a patch lies where an image is above its lowest value.
        """
        few = torch.randperm(len(self.cases), generator=generator)[: self.cases_per_draw]
        chosen = few[torch.randint(len(few), (count,), generator=generator)]
        patches: list[dict[str, Tensor]] = [{}] * count
        for number in chosen.unique().tolist():  # a case is read once per batch
            case = self._case(self.cases[number])
            for place in (chosen == number).nonzero().flatten().tolist():
                patches[place] = case.patch(self.size, generator)
        batch = {name: torch.stack([patch[name] for patch in patches]) for name in patches[0]}
        return {**batch, "case": chosen}

    def _case(self, name: str) -> _Case:
        found = self._cache.pop(name, None) or self._read(name)
        self._cache[name] = found  # most recently used last
        while len(self._cache) > self.cases_in_memory:
            del self._cache[next(iter(self._cache))]
        return found

    def _read(self, name: str) -> _Case:
        case = self.store.read(name)
        images = {what: self.store.image(case.images[role]) for what, role in IMAGES.items()}
        shown = [(image.data > image.data.min()).any(0) for image in images.values()]
        values = {what: scaled(image, self.intensity).data for what, image in images.items()}
        values |= {what: self.store.array(name, what) for what in self.arrays}
        values[SHOWN] = torch.stack(shown).any(0)[None]
        if self.prepare is not None:
            values = self.prepare(case, values)
        return _Case(values, values.pop(SHOWN)[0])

    def __getstate__(self) -> dict:
        """Without the cache: each worker process fills its own."""
        return {**self.__dict__, "_cache": {}}


@dataclass(frozen=True)
class _Case:
    """A case in memory. shown: the foreground of either image, shape (*grid.shape)."""

    values: dict[str, Tensor]
    shown: Tensor

    def patch(self, size: int, generator: Generator) -> dict[str, Tensor]:
        limits = [n - size + 1 for n in self.shown.shape]
        for _ in range(_TRIES):
            draws = torch.rand(len(limits), generator=generator, dtype=torch.float64).tolist()
            corner = [int(draw * count) for draw, count in zip(draws, limits, strict=True)]
            if self.shown[tuple(start + size // 2 for start in corner)]:
                break
        where = (slice(None), *[slice(start, start + size) for start in corner])
        cut = {what: values[where].clone() for what, values in self.values.items()}
        return {**cut, "corner": torch.tensor(corner)}


def _checked(
    store: TargetStore, name: str, size: int, arrays: Sequence[str] | None
) -> tuple[str, ...]:
    """The arrays to read (ValueError if the first case lacks one, or is too small)."""
    case = store.read(name)
    wanted = case.array_names if arrays is None else tuple(arrays)
    if missing := set(wanted) - set(case.array_names):
        raise ValueError(
            f"{store.path}: the cases have no array {', '.join(sorted(missing))}; "
            f"they have {', '.join(case.array_names)}"
        )
    if size > min(case.grid.shape):
        raise ValueError(
            f"{store.path}: patches of {size} voxels do not fit into the case {name} of "
            f"{case.grid.shape}: make them smaller"
        )
    return wanted
