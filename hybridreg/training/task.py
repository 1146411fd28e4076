"""The protocol of a training task: what a network's own module defines about its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hybridreg.io.checkpoints import Card

Batch = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]


class Task(Protocol):
    """A network to train: its batches, and the named terms of its loss.

    All randomness comes from the generators passed in. A task must be picklable if batches are
    drawn by ``workers``.
    """

    kind: str
    """Of the checkpoint, such as "fusion"."""

    steps_per_epoch: int
    """Batches between two validations."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that a run must share with the one it continues, ready for JSON."""
        ...

    def network(self, generator: Generator) -> nn.Module:
        """A new network with initialized weights."""
        ...

    def optimizer(self, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and its learning rate as a function of the step."""
        ...

    def batch(self, generator: Generator) -> Batch:
        """One batch to learn from."""
        ...

    def validation(self) -> Iterable[Batch]:
        """The batches that decide when to stop and which weights are best; always the same ones."""
        ...

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The named terms whose sum is minimized."""
        ...

    def scores(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Interpretable measures of the network's quality; reported, not minimized."""
        ...

    def test(self, network: nn.Module) -> dict[str, float]:
        """Scores on the held-out test data, if there are any."""
        ...

    def card(self) -> Card:
        """The model card before training; ``train`` adds seed, scores and history."""
        ...
