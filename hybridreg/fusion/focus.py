"""Training of the fusion network: which of two patches of a photograph is sharp (Liu 2017)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hybridreg.fusion.network import PATCH, FusionNetwork
from hybridreg.fusion.photograph_tasks import card_of, check_apart, fingerprints
from hybridreg.fusion.windows import (
    BLUR_REACH,
    LEVELS,
    SCALES,
    SIGMA,
    TAPS,
    Windows,
    blurred,
    middle,
    other_contrast,
)
from hybridreg.io.checkpoints import Card, read_checkpoint

KIND = "fusion"
ARCHITECTURE = (
    "siamese network of Liu 2017: conv 3x3x64, conv 3x3x128, max pooling 2, conv 3x3x256, "
    "conv 8x8x2 on the features of both images, softmax"
)
_WINDOW = PATCH + 2 * BLUR_REACH
_MIN_VARIANCE = 25 / 255**2
_TRIES = 100  # draws of patches before photographs count as empty


def trained_network(weights: str | Path = "fusion-focus") -> FusionNetwork:
    """The fusion network with trained weights: packaged ones by name, or a checkpoint file."""
    return read_checkpoint(weights, kind=KIND).fill(FusionNetwork())


class Patches:
    """Patches of photographs, sharp and blurred, drawn many at a time.

    photographs: by name, shape (y, x), uint8, at least 46 pixels along each side.
    varied: with augmentation: smaller copies, mirrored, rotated by multiples of 90 degrees, other
    brightness and contrast, and negatives.
    """

    def __init__(self, photographs: Mapping[str, Tensor], *, varied: bool):
        self._varied = varied
        self._photographs = Windows(photographs, size=_WINDOW, varied=varied)

    def draw(self, number: int, random: Generator) -> tuple[Tensor, Tensor]:
        """Sharp patches and the same ones blurred, each of shape (number, 1, 16, 16), in [0, 1].

        Drawn evenly from photographs, their scales, places and levels of blur, as long as the sharp
        patch has a variance above 25 (of gray values to 255).
        """
        windows = self._windows(number, random)
        if self._varied:
            windows = other_contrast(windows, random)
        level = torch.randint(LEVELS, (number,), generator=random)
        soft = torch.stack([middle(b, PATCH) for b in blurred(windows)])
        return middle(windows, PATCH)[:, None], soft[level, torch.arange(number)][:, None]

    def _windows(self, number: int, random: Generator) -> Tensor:
        """Patches of sufficient variance, with the margin that blurring needs: (number, 46, 46)."""
        found: list[Tensor] = []
        for _ in range(_TRIES):
            windows = self._photographs.draw(2 * number, random)
            patches = middle(windows, PATCH).flatten(1)
            found.append(windows[patches.var(1, correction=0) > _MIN_VARIANCE])
            if sum(map(len, found)) >= number:
                return torch.cat(found)[:number]
        raise ValueError(
            "the photographs are too uniform: hardly a patch has a variance above 25; give others"
        )


@dataclass(frozen=True, eq=False)
class FocusTask:
    """Two classes: the second patch is the sharp one (0), or the first (1).

    Photographs by name, each of shape (y, x), uint8: for training, validation and a final test.
    batch_size: examples per step, half of them in each order.
    learning_rate: None is the default of the optimizer; halved every ``halving`` steps.
    """

    photographs: Mapping[str, Tensor]
    validation_photographs: Mapping[str, Tensor]
    test_photographs: Mapping[str, Tensor] = field(default_factory=dict)
    batch_size: int = 128
    optimizer_name: str = "adam"
    learning_rate: float | None = None
    halving: int = 500
    validation_size: int = 1024
    steps_per_epoch: int = 50
    data: str = "natural photographs"
    data_licence: str = "not stated"
    weights_licence: str = "not stated"
    kind: str = KIND

    def __post_init__(self):
        parts = (self.photographs, self.validation_photographs, self.test_photographs)
        check_apart(*parts)
        if self.optimizer_name not in _OPTIMIZERS:
            raise ValueError(
                f"the optimizer is one of {', '.join(_OPTIMIZERS)}; found {self.optimizer_name!r}"
            )
        for part in parts[1:]:
            _ = [Patches({name: photo}, varied=False) for name, photo in part.items()]
        self._patches.draw(1, Generator().manual_seed(0))  # raises for empty photographs at once

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "optimizer": self.optimizer_name,
            "learning_rate": self.first_rate,
            "halving": self.halving,
            "validation_size": self.validation_size,
            "steps_per_epoch": self.steps_per_epoch,
            "photographs": fingerprints(self.photographs),
            "validation_photographs": fingerprints(self.validation_photographs),
        }

    @property
    def first_rate(self) -> float:
        return _RATES[self.optimizer_name] if self.learning_rate is None else self.learning_rate

    @cached_property
    def _patches(self) -> Patches:
        return Patches(self.photographs, varied=True)

    def network(self, generator: Generator) -> FusionNetwork:
        network = FusionNetwork()
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)
        return network.to(memory_format=torch.channels_last)  # a fifth faster on the CPU

    def optimizer(self, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
        optimizer = _OPTIMIZERS[self.optimizer_name](network.parameters(), self.first_rate)
        return optimizer, LambdaLR(optimizer, lambda step: 0.5 ** (step / self.halving))

    def batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        return self._patches.draw(self.batch_size // 2, generator)

    def validation(self) -> Iterable[tuple[Tensor, Tensor]]:
        return _validation_patches(self.validation_photographs, self.validation_size // 2)

    def losses(self, network: FusionNetwork, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"softmax": F.cross_entropy(*_answers(network, batch))}

    def scores(self, network: FusionNetwork, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        scores, right = _answers(network, batch)
        return {"accuracy": (scores.argmax(1) == right).float().mean()}

    def test(self, network: FusionNetwork) -> dict[str, float]:
        return accuracies(network, self.test_photographs)

    def card(self) -> Card:
        return card_of(
            self,
            architecture=ARCHITECTURE,
            training_grid=f"{PATCH} x {PATCH} pixels of photographs at scales 1 to "
            f"{SCALES[-1]:.2f}",
            training={
                "task": f"sharp or blurred {LEVELS} times at most (Gaussian of {SIGMA:g} pixels "
                f"cut to {TAPS} x {TAPS}); patches of variance above 25; softmax loss",
                "batch_size": self.batch_size,
                "optimizer": self.optimizer_name,
                "learning_rate": self.first_rate,
                "halved_every": self.halving,
            },
        )


@torch.no_grad()
def accuracies(
    network: FusionNetwork, photographs: Mapping[str, Tensor], *, number: int = 2000
) -> dict[str, float]:
    """The fraction of correct answers for each photograph, and over all of them ("accuracy").

    number: minimum number of patches of each photograph, without augmentation; both orders are
    tested.
    """
    fractions = {}
    for name, photo in photographs.items():
        right = [_right(network, batch) for batch in _validation_patches({name: photo}, number)]
        fractions[name] = torch.cat(right).double().mean().item()
    return {**fractions, "accuracy": sum(fractions.values()) / len(fractions)} if fractions else {}


def _right(network: FusionNetwork, batch: tuple[Tensor, Tensor]) -> Tensor:
    scores, right = _answers(network, batch)
    return scores.argmax(1) == right


def _answers(network: FusionNetwork, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scores (2 N, 2) of N pairs in both orders, from features computed once; their class (2 N)."""
    sharp, blurred = network.features(torch.cat(batch)).chunk(2)
    orders = torch.cat([torch.cat([sharp, blurred], 1), torch.cat([blurred, sharp], 1)])
    right = torch.tensor([1, 0], device=sharp.device).repeat_interleave(len(sharp))
    return network.scores(orders).flatten(1), right


def _validation_patches(
    photographs: Mapping[str, Tensor], number: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fixed patches of photographs, without augmentation, in batches of 64."""
    random = Generator().manual_seed(0)
    patches = Patches(photographs, varied=False)
    for start in range(0, number, 64):
        yield patches.draw(min(64, number - start), random)


def _sgd(parameters: Iterable[nn.Parameter], learning_rate: float) -> Optimizer:
    return SGD(parameters, learning_rate, momentum=0.9, weight_decay=5e-4)  # as published


_OPTIMIZERS = {"adam": Adam, "sgd": _sgd}
_RATES = {"adam": 3e-4, "sgd": 1e-2}
