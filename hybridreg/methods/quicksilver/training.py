"""The training settings of Quicksilver's networks, as in their TOML files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hybridreg.io.checkpoints import Checkpoint, checkpoint_path, read_card, read_checkpoint
from hybridreg.io.files import sha256_of
from hybridreg.io.target_store import TargetStore
from hybridreg.methods.quicksilver.correction import Residual
from hybridreg.methods.quicksilver.network import CORRECTION_KIND, KIND, PATCH
from hybridreg.methods.quicksilver.prediction import trained
from hybridreg.methods.quicksilver.task import LOSSES, MomentumTask, Stated, Steps

log = logging.getLogger(__name__)

_EVERY = 10  # of the images, if the settings name no validation cases


@dataclass(frozen=True, kw_only=True)
class QuicksilverTraining:
    """Trains the network that predicts momenta (Yang 2017).

    store: made by `hybridreg targets --kind momentum`. validation: names of the cases that choose
    the weights, with wildcards such as "1013-*"; by default the pairs of every tenth image among
    themselves. excluded: names of cases that are not used. Cases that share an image with a
    validation case are not trained on.
    width: 64 as published; the cost grows with its square. patch: voxels along each axis of a
    patch, in training and in use: 15 as published, or 19, 23, 27 ...
    dropout: 0.2 for the probabilistic network. start: weights of the same dimension and width to
    begin with, a file or a packaged name. loss: "absolute" as published, or "smoothed": the squared
    difference smoothed by the root of the kernel, on which the map depends.
    contrast: "remapped" gives the moving image a random contrast in every patch, for images of two
    modalities. mirror: exchange left and right in half of the patches.
    batch_size, learning_rate, halved_every, steps_per_epoch, validation_batches: see
    ``task.Steps``.
    """

    store: Path
    validation: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    width: int = 64
    dropout: float = 0.0
    start: str | None = None
    contrast: str = "same"
    loss: str = "absolute"
    patch: int = PATCH
    mirror: bool = False
    batch_size: int = 64
    learning_rate: float = 1e-4
    halved_every: int = 0
    steps_per_epoch: int = 200
    validation_batches: int = 8
    data: str = "not stated"
    data_licence: str = "not stated"
    weights_licence: str = "not stated"

    def __post_init__(self):
        if self.contrast not in ("same", "remapped"):
            raise ValueError(f'contrast is "same" or "remapped", found {self.contrast!r}')
        if self.loss not in LOSSES:
            raise ValueError(f"loss is one of {', '.join(LOSSES)}; found {self.loss!r}")
        if self.patch < PATCH or self.patch % 4 != 3:
            raise ValueError(f"patch is 15, 19, 23, 27 ... voxels, found {self.patch}")
        for name in (
            "width",
            "batch_size",
            "learning_rate",
            "steps_per_epoch",
            "validation_batches",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}")
        if self.halved_every < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "halved_every must be at least 0, and dropout from 0 to less than 1; found "
                f"{self.halved_every} and {self.dropout}"
            )

    def task(self) -> MomentumTask:
        """What ``training.train`` takes."""
        return self._task(kind=KIND)

    def _task(self, **more) -> MomentumTask:
        store = TargetStore.open(self.store)
        train, validation = split(store, self.validation, self.excluded)
        return MomentumTask(
            store,
            train,
            validation,
            self._steps,
            Stated(self.data, self.data_licence, self.weights_licence),
            width=self.width,
            dropout=self.dropout,
            remap=self.contrast == "remapped",
            mirror=self.mirror,
            loss=self.loss,
            patch=self.patch,
            start=_start(self.start, more["kind"]),
            **more,
        )

    @property
    def _steps(self) -> Steps:
        return Steps(
            self.batch_size,
            self.learning_rate,
            self.halved_every,
            self.steps_per_epoch,
            self.validation_batches,
        )


@dataclass(frozen=True, kw_only=True)
class CorrectionTraining(QuicksilverTraining):
    """Trains the network that corrects a trained prediction (Yang 2017); same cases, same settings.

    prediction: weights of a ``quicksilver`` training, a file or a packaged name. ``start`` may be
    the same weights: a network that aligns images also reduces what is left between them.
    """

    prediction: str

    def task(self) -> MomentumTask:
        """What ``training.train`` takes."""
        predictor = trained(self.prediction)
        if predictor.patch != self.patch:
            raise ValueError(
                f"{self.prediction} sees patches of {predictor.patch} voxels and these "
                "settings say "
                f"{self.patch}: set patch = {predictor.patch}"
            )
        about = {"corrects": sha256_of(checkpoint_path(self.prediction))}
        return self._task(kind=CORRECTION_KIND, prepare=Residual(predictor), about=about)


def _start(name: str | None, kind: str) -> Checkpoint | None:
    """Weights to begin with; a correction may begin with a prediction."""
    if name is None:
        return None
    if kind == CORRECTION_KIND and read_card(name).kind == KIND:
        kind = KIND
    return read_checkpoint(name, kind=kind)


def _neighbors(name: str, images: Mapping[str, frozenset[str]]) -> int:
    return sum(bool(images[name] & other) for other in images.values())


def split(
    store: TargetStore, validation: Sequence[str], excluded: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The cases to train on and to choose by, which share no image (ValueError if none is left).

    Images are told apart by their content, so a person scanned twice counts as two.
    """
    images = {
        name: frozenset(store.read(name).images[side] for side in ("fixed", "moving"))
        for name in store.finished()
        if not _matches(name, excluded)
    }
    if validation:
        chosen = [name for name in images if _matches(name, validation)]
    else:
        every = sorted(frozenset().union(*images.values())) if images else []
        held = set(every[:: max(2, min(_EVERY, len(every) // 2))])
        chosen = [name for name, both in images.items() if both <= held]
        if images and not chosen:  # no pair of images held back: the case with the fewest neighbors
            chosen = [min(images, key=lambda name: (_neighbors(name, images), name))]
    known = frozenset().union(*(images[name] for name in chosen)) if chosen else frozenset()
    train = [name for name, both in images.items() if not both & known]
    if not (train and chosen):
        raise ValueError(
            f"{store.path}: of {len(images)} cases {len(train)} are left to train on and "
            f"{len(chosen)} to choose the weights by, without a common image: name "
            "other validation "
            "cases, or add cases"
        )
    left = len(images) - len(train) - len(chosen)
    if left:
        log.warning("%d cases share an image with a validation case and are not used", left)
    return train, chosen


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
