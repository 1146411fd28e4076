"""Random patches of a store of targets, for training: the two images and what is true of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import IterableDataset, get_worker_info

from hybridreg.io.target_store import TargetStore

IMAGES = {"fixed": "fixed_on_grid", "moving": "moving_on_grid"}  # on the grid of the target
_TRIES = 20  # to hit the patient; then a patch of background will do


class TargetPatches(IterableDataset):
    """One epoch of random cubic patches at a time, through a shuffle buffer of cases.

    store: or its path. size: voxels along every axis. arrays: which of the case's, such as
        ("momentum",); None for all that the first case has.
    cases: their names, such as those of the training persons; None for all.
    patches_per_case: in an epoch; more of them make reading cheaper and neighbours more alike.
    cases_in_memory: that patches are drawn from at a time; more mix better and take more memory.
    seed: the patches depend on it, the epoch (``dataset.epoch = n``) and the number of DataLoader
        workers, which share the cases out between them, and on nothing else.

    Yields {"fixed", "moving": (C, *size), each array: (D, *size), "corner": (D,), first voxel in
    array order, "case": name}. The middle of a patch lies where one of the images is above its
    lowest value.
    """

    def __init__(
        self,
        store: TargetStore | str | Path,
        *,
        size: int = 15,
        arrays: Sequence[str] | None = None,
        cases: Sequence[str] | None = None,
        patches_per_case: int = 256,
        cases_in_memory: int = 8,
        seed: int = 0,
    ):
        self.store = store if isinstance(store, TargetStore) else TargetStore.open(store)
        self.names = list(cases) if cases is not None else self.store.finished()
        for what, value in (
            ("size", size),
            ("patches_per_case", patches_per_case),
            ("cases_in_memory", cases_in_memory),
            ("number of cases", len(self.names)),
        ):
            if value < 1:
                raise ValueError(f"{self.store.path}: the {what} must be at least 1, found {value}")
        self.arrays = _checked(self.store, self.names[0], size, arrays)
        self.size, self.seed, self.epoch = size, seed, 0
        self.patches_per_case, self.cases_in_memory = patches_per_case, cases_in_memory

    def __len__(self) -> int:
        return len(self.names) * self.patches_per_case

    def __iter__(self) -> Iterator[dict[str, Tensor | str]]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        order = _chance(self.seed, self.epoch)  # the same in every worker
        names = [self.names[i] for i in torch.randperm(len(self.names), generator=order)]
        chance = _chance(self.seed, self.epoch, count, number)
        waiting = iter(names[number::count])
        buffer: list[_Loaded] = []
        while True:
            while len(buffer) < self.cases_in_memory and (name := next(waiting, None)) is not None:
                buffer.append(self._load(name))
            if not buffer:
                return
            chosen = int(torch.randint(len(buffer), (), generator=chance))
            yield buffer[chosen].patch(self.size, chance)
            if buffer[chosen].left == 0:
                del buffer[chosen]

    def _load(self, name: str) -> _Loaded:
        case = self.store.read(name)
        values = {what: self.store.image(case.images[role]).data for what, role in IMAGES.items()}
        seen = torch.stack([(data > data.min()).any(0) for data in values.values()]).any(0)
        values |= {what: self.store.array(name, what) for what in self.arrays}
        return _Loaded(name, values, seen, self.patches_per_case)


@dataclass
class _Loaded:
    """A case in memory. seen: where an image shows anything, shape (*grid.shape). left: patches."""

    name: str
    values: dict[str, Tensor]
    seen: Tensor
    left: int

    def patch(self, size: int, chance: Generator) -> dict[str, Tensor | str]:
        self.left -= 1
        room = [n - size + 1 for n in self.seen.shape]
        for _ in range(_TRIES):
            draws = torch.rand(len(room), generator=chance, dtype=torch.float64).tolist()
            corner = [int(draw * count) for draw, count in zip(draws, room, strict=True)]
            if self.seen[tuple(start + size // 2 for start in corner)]:
                break
        where = (slice(None), *[slice(start, start + size) for start in corner])
        cut = {what: values[where].clone() for what, values in self.values.items()}
        return {**cut, "corner": torch.tensor(corner), "case": self.name}


def _chance(*entropy: int) -> Generator:
    """Random numbers that depend on these numbers alone."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0] >> 1))


def _checked(
    store: TargetStore, name: str, size: int, arrays: Sequence[str] | None
) -> tuple[str, ...]:
    """The arrays to read (ValueError where the first case has no such ones, or is too small)."""
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
