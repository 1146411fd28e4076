"""What a network's own module says about its training, and nothing else."""

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

    All chance comes from the generators that are handed in. It must be possible to send a task to
    another process (pickle), if batches are to be drawn by ``workers``.
    """

    kind: str
    """Of the checkpoint, such as "fusion"."""

    steps_per_epoch: int
    """Batches between two validations."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a run must have in common with the one that it continues, ready for JSON."""
        ...

    def network(self, generator: Generator) -> nn.Module:
        """A new network with its first weights."""
        ...

    def optimizer(self, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and its learning rate as a function of the step."""
        ...

    def batch(self, generator: Generator) -> Batch:
        """One batch to learn from."""
        ...

    def validation(self) -> Iterable[Batch]:
        """The batches that tell when to stop and which weights are best; always the same ones."""
        ...

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The named terms whose sum is minimized."""
        ...

    def scores(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """How well the network does in terms a person understands; shown, not minimized."""
        ...

    def test(self, network: nn.Module) -> dict[str, float]:
        """Scores on what was kept back until the end, if anything was."""
        ...

    def card(self) -> Card:
        """What is known of the weights before training; ``train`` adds seed, scores and history."""
        ...
