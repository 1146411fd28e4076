"""From a table of cases to a store of targets, on the cluster; interruptible and resumable."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hybridreg.case_files import MASKS, POINTS, read_case, start_of
from hybridreg.cases import ImagePair
from hybridreg.cluster import Ended, Limits, Local, Place, run
from hybridreg.config import files_of
from hybridreg.io.files import sha256_of
from hybridreg.io.images import read_image
from hybridreg.io.inputs import changed_inputs
from hybridreg.io.tables import CaseRow, absolute, without_files
from hybridreg.io.target_store import TargetStore
from hybridreg.network_inputs import on_grid
from hybridreg.preprocessing import coarser
from hybridreg.targets.target import Kind, Target
from hybridreg.transforms import IDENTITY
from hybridreg.warping import warp

log = logging.getLogger(__name__)

_LIBRARIES = ("hybridreg", "itk-elastix", "torch", "numpy", "zarr")


@dataclass(frozen=True)
class Recipe:
    """The settings common to all targets of a store.

    spacing_mm: images are first resampled to it; None leaves them as they are. seed: the seed of
    each case is drawn from it and the name of the case, so cases may be added and their order may
    change.
    """

    name: str
    kind: Kind
    seed: int = 0
    spacing_mm: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        kind = self.kind.settings
        return {**kind, "seed": self.seed, "spacing_mm": self.spacing_mm, **files_of(kind)}

    def seed_of(self, case: str) -> int:
        """31 bits that depend on the seed and the name of the case alone."""
        words = np.frombuffer(hashlib.sha256(case.encode()).digest(), dtype="<u4")
        state = np.random.SeedSequence([self.seed, *words.tolist()]).generate_state(1, np.uint64)
        return int(state[0] >> 33)


@dataclass(frozen=True)
class Made:
    """The results of a run. skipped: cases that were finished before. ends: of all others.

    changed: those finished before from other inputs.
    """

    store: Path
    skipped: tuple[str, ...]
    changed: tuple[str, ...]
    ends: tuple[Ended, ...]

    @property
    def failures(self) -> dict[str, str]:
        """The reason of every case that has no target."""
        return {ended.name: ended.reason for ended in self.ends if ended.failed}


def make_targets(
    rows: Sequence[CaseRow],
    path: str | Path,
    recipe: Recipe,
    *,
    place: Place = Local(),
    limits: Limits = Limits(),
    callback: Callable[[Ended], None] = lambda ended: None,
) -> Made:
    """Makes the targets of all cases that the store does not have yet.

    Killed at any moment and started again, it ends in the same arrays and attributes as if it had
    never been stopped. Targets whose input files have changed since (by their hashes) are removed
    and made again. When, where and how long every case ran, and why it failed, is written to
    ``<path>.log.jsonl``, where files are named by their columns. Labels and landmarks of the rows
    are ignored.
    """
    store = TargetStore.begin(path, recipe.name, recipe.settings)
    with store.writing():
        done = set(store.finished())
        finished = [row for row in rows if row.name in done]
        changed = changed_inputs(
            {row.name: _files(row, recipe.kind) for row in finished},
            {row.name: store.read(row.name).attributes.get("inputs", {}) for row in finished},
        )
        store.remove(changed)
        done -= changed.keys()
        cases = {row.name: absolute(row) for row in rows if row.name not in done}
        ends: list[Ended] = []

        def on_end(ended: Ended):
            reason, details = (
                without_files(text, cases[ended.name]) for text in (ended.reason, ended.details)
            )
            ends.append(replace(ended, reason=reason, details=details))
            _log(store.path, ends[-1])
            callback(ends[-1])

        make = partial(make_target, store.path.resolve(), recipe)
        run(make, cases, place=place, limits=limits, callback=on_end)
    skipped = tuple(row.name for row in rows if row.name in done)
    return Made(store.path, skipped, tuple(changed), tuple(ends))


def make_target(path: Path, recipe: Recipe, name: str, row: CaseRow) -> dict[str, Any]:
    """Makes and stores the target of one case; returns a summary to display."""
    store = TargetStore.open(path)
    pair = _pair(row, recipe)
    start = start_of(row.initial, pair) if recipe.kind.uses_fixed else IDENTITY
    seed = recipe.seed_of(name)
    target = recipe.kind(pair, start, seed=seed)
    facts = {
        **target.facts,
        "seed": seed,
        "versions": {library: version(library) for library in _LIBRARIES},
        "inputs": {name: sha256_of(file) for name, file in _files(row, recipe.kind).items()},
    }
    store.write(
        name,
        grid=target.grid,
        affine=target.affine,
        images=_images(target),
        arrays=target.arrays,
        attributes=facts,
    )
    return {"verdict": facts["verdict"]["status"], "residual_mm": facts["residual_mm"]["mean"]}


def _pair(row: CaseRow, recipe: Recipe) -> ImagePair:
    moving = read_image(row.moving)
    if not recipe.kind.uses_fixed:
        pair = read_case(moving, moving).pair
    else:
        more = {name: getattr(row, name) for name in (*MASKS, *POINTS)}
        pair = read_case(row.fixed, moving, **more).pair
    if recipe.spacing_mm is None:
        return pair
    fixed, moving = (coarser(image, recipe.spacing_mm) for image in (pair.fixed, pair.moving))
    masks = {
        f"{side}_mask": mask and warp(mask, IDENTITY, onto=image.grid)
        for side, mask, image in (
            ("fixed", pair.fixed_mask, fixed),
            ("moving", pair.moving_mask, moving),
        )
    }
    return replace(pair, fixed=fixed, moving=moving, **masks)


def _images(target: Target) -> dict[str, Any]:
    """The images as they were registered, and both on the grid of the target."""
    shown = on_grid(target.pair, target.affine, target.grid)
    return {
        "fixed": target.pair.fixed,
        "moving": target.pair.moving,
        "fixed_on_grid": shown.fixed,
        "moving_on_grid": shown.moving,
    }


def _files(row: CaseRow, kind: Kind) -> dict[str, Path]:
    """The input files of a target."""
    names = ("fixed", "moving", *MASKS, *POINTS, "initial") if kind.uses_fixed else ("moving",)
    return {name: getattr(row, name) for name in names if getattr(row, name) is not None}


def _log(path: Path, ended: Ended):
    """One line of JSON per case, beside the store: what differs from run to run."""
    line = {
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "case": ended.name,
        "host": ended.host,
        "seconds": ended.seconds,
        "attempts": ended.attempts,
        "reason": ended.reason,
        "details": ended.details,
    }
    try:
        descriptor = os.open(log_of(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)
    except OSError as error:  # not worth failing the cases in progress
        log.warning("%s could not be written: %s", log_of(path), error.strerror)


def log_of(path: Path) -> Path:
    """The side log of a store."""
    return path.with_name(path.name + ".log.jsonl")
