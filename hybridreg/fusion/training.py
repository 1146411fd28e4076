"""The training settings of fusion networks, as in their TOML files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from hybridreg.fusion.distillation import FastTask
from hybridreg.fusion.focus import FocusTask, trained_network
from hybridreg.io.photographs import read_photographs


@dataclass(frozen=True, kw_only=True)
class PhotographSettings:
    """The photographs of a training, and their description in the model card.

    images: photographs for training, files or folders. validation: for choosing the weights; by
    default every tenth image. test: scored once, at the end.
    learning_rate: of the first step; larger learns faster, until it diverges.
    """

    images: tuple[Path, ...]
    validation: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    learning_rate: float | None = None
    data: str = "natural photographs"
    data_licence: str = "not stated"
    weights_licence: str = "not stated"

    def photographs(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Photographs by name: for training, validation and test."""
        images = read_photographs(self.images)
        if self.validation:
            validation = read_photographs(self.validation)
        else:
            validation = {name: images[name] for name in list(images)[::10]}
            images = {name: photo for name, photo in images.items() if name not in validation}
        return images, validation, read_photographs(self.test)

    @property
    def stated(self) -> dict[str, str]:
        """For the card."""
        names = ("data", "data_licence", "weights_licence")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class FusionTraining(PhotographSettings):
    """Trains the published network: which of two patches of a photograph is sharper (Liu 2017).

    batch_size: examples per step. optimizer: "sgd" is the published one.
    """

    optimizer: Literal["adam", "sgd"] = "adam"
    batch_size: int = 128

    def task(self) -> FocusTask:
        """What ``training.train`` takes."""
        return FocusTask(
            *self.photographs(),
            optimizer_name=self.optimizer,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            **self.stated,
        )


@dataclass(frozen=True, kw_only=True)
class FastFusionTraining(PhotographSettings):
    """Distills the published network into a small one.

    teacher: weights of a ``fusion`` training, a file or a packaged name. pictures: how many the
    teacher evaluates before the first step.
    """

    teacher: str = "fusion-focus"
    pictures: int = 768

    def task(self) -> FastTask:
        """What ``training.train`` takes."""
        return FastTask(
            *self.photographs(),
            teacher=trained_network(self.teacher),
            teacher_name=Path(self.teacher).stem,
            pictures=self.pictures,
            learning_rate=self.learning_rate,
            **self.stated,
        )
