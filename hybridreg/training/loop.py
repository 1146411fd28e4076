"""A task as a Lightning module, and its callbacks: best weights, resume state, progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, Timer
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from hybridreg.progress import report
from hybridreg.training.folder import RunFolder
from hybridreg.training.task import Batch, Task

LOSS = "validation/loss"


def generator(*entropy: int) -> Generator:
    """A random generator seeded by these numbers alone."""
    return Generator().manual_seed(_mixed(entropy))


@contextmanager
def _seeded(*entropy: int, device: torch.device) -> Iterator[None]:
    """Seeds operations without a generator, such as dropout, by these numbers alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_mixed(entropy))
        yield


def _mixed(entropy: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


class Learner(pl.LightningModule):
    """The network of a task, with its steps."""

    def __init__(self, task: Task, *, seed: int, workers: int):
        super().__init__()
        self.task, self.seed, self.workers = task, seed, workers
        with _seeded(seed, device=self.device):
            self.network: nn.Module = task.network(generator(seed))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        with _seeded(self.seed, self.global_step, self.global_rank, device=self.device):
            terms = self.task.losses(self.network, batch)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"train/{name}": term for name, term in {**terms, "loss": loss}.items()})
        return loss

    def validation_step(self, batch: Batch, number: int):
        with _seeded(self.seed, number, device=self.device):
            terms = self.task.losses(self.network, batch)
            scores = self.task.scores(self.network, batch)
        loss = torch.stack(list(terms.values())).sum()
        named = {f"validation/{name}": v for name, v in {**terms, **scores, "loss": loss}.items()}
        # Every device validates on all batches with equal weight: scores do not depend on devices.
        self.log_dict(named, on_epoch=True, batch_size=1)

    def on_validation_epoch_end(self):
        loss = self.trainer.callback_metrics[LOSS]
        if not torch.isfinite(loss):
            raise ValueError(
                f"the training diverged: the validation loss is {loss.item()} after "
                f"{self.global_step} steps; start again with a lower learning rate"
            )

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, schedule = self.task.optimizer(self.network)
        every_step = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": every_step}

    def train_dataloader(self) -> DataLoader:
        drawn = _Drawn(self.task, self.seed, self.global_rank)
        drawing = generator(self.seed)  # so that the global generator is not used
        return DataLoader(
            drawn, None, sampler=_Steps(self), num_workers=self.workers, generator=drawing
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(list(self.task.validation()), None, generator=generator(self.seed))


class _Drawn(Dataset):
    """Training batches by step: each depends on seed, step and device number only."""

    def __init__(self, task: Task, seed: int, rank: int):
        self.task, self.seed, self.rank = task, seed, rank

    def __getitem__(self, step: int) -> Batch:
        return self.task.batch(generator(self.seed, step, self.rank))


class _Steps(Sampler):
    """The numbers of the remaining steps, from that of the saved state."""

    def __init__(self, learner: Learner):
        self.learner = learner

    def __iter__(self) -> Iterator[int]:
        return count(self.learner.global_step)

    def __len__(self) -> int:
        return self.learner.task.steps_per_epoch


class Best(NamedTuple):
    """The weights with the lowest validation loss so far."""

    loss: float
    scores: dict[str, float]
    step: int
    weights: dict[str, Tensor]


class Keeper(pl.Callback):
    """Keeps the best weights, and saves the state after each validation and every save_every_s."""

    def __init__(self, folder: RunFolder, *, save_every_s: float):
        self.best: Best | None = None
        self._folder, self._save_every_s = folder, save_every_s
        self._saved_at = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, learner: pl.LightningModule):
        shown = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if self.best is None or shown[LOSS] < self.best.loss:
            scores = {
                name.removeprefix("validation/"): value
                for name, value in shown.items()
                if name.startswith("validation/")
            }
            state = learner.network.state_dict()
            weights = {name: values.cpu().clone() for name, values in state.items()}
            self.best = Best(shown[LOSS], scores, trainer.global_step, weights)

    def on_train_batch_end(self, trainer: pl.Trainer, *_):
        # The last step of an epoch is saved with its validation.
        ends = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.should_stop
        due = not ends and time.monotonic() - self._saved_at >= self._save_every_s
        if trainer.strategy.broadcast(due):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, _):
        self._save(trainer)

    def _save(self, trainer: pl.Trainer):
        self._folder.replace_state(trainer.save_checkpoint, first_process=trainer.is_global_zero)
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best is None else {"best": self.best._asdict()}

    def load_state_dict(self, state: dict[str, Any]):
        if "best" in state:
            self.best = Best(**state["best"])


class Stopping(EarlyStopping):
    """Lightning's early stopping for resumed runs: a finished run stops unless patience grew."""

    def load_state_dict(self, state: dict[str, Any]):
        super().load_state_dict({**state, "patience": self.patience})  # not that of the first start

    def on_fit_start(self, trainer: pl.Trainer, _):
        if self.ran_out:
            trainer.should_stop = True

    @property
    def ran_out(self) -> bool:
        return self.wait_count >= self.patience


class ProgressReport(pl.Callback):
    """Reports progress: the fraction of the run's time, of its epochs, or of its patience."""

    def __init__(self, timer: Timer, stopping: Stopping, *, max_time_s: float | None):
        self._timer, self._stopping, self._max_time_s = timer, stopping, max_time_s

    def on_train_batch_end(self, trainer: pl.Trainer, learner: pl.LightningModule, *_):
        fractions = [self._stopping.wait_count / self._stopping.patience]
        if self._max_time_s is not None:
            fractions = [self._timer.time_elapsed() / self._max_time_s]
        if trainer.max_epochs not in (None, -1):
            within = trainer.fit_loop.epoch_loop.batch_idx / learner.task.steps_per_epoch
            epochs = (trainer.current_epoch + within) / max(trainer.max_epochs, 1)
            fractions = [*(fractions if self._max_time_s is not None else []), epochs]
        loss = trainer.callback_metrics.get(LOSS)
        known = "" if loss is None else f", loss {loss.item():.4g}"
        report(max(fractions), f"epoch {trainer.current_epoch + 1}{known}")


class Watch(NamedTuple):
    """The callbacks of a run, in the order in which Lightning calls them."""

    timer: Timer
    stopping: Stopping
    keeper: Keeper
    progress: ProgressReport

    @classmethod
    def over(
        cls, run: RunFolder, *, max_time_s: float | None, patience: int, save_every_s: float
    ) -> Watch:
        timer = Timer({"seconds": max_time_s} if max_time_s else None, verbose=False)
        stopping = Stopping(
            LOSS,
            patience=patience,
            check_finite=False,  # the learner does, with an error that says what to do
            check_on_train_epoch_end=False,  # that would be after the state was saved
        )
        keeper = Keeper(run, save_every_s=save_every_s)
        return cls(timer, stopping, keeper, ProgressReport(timer, stopping, max_time_s=max_time_s))

    def why_ended(self) -> str:
        left = self.timer.time_remaining()
        if left is not None and left <= 0:
            return "the time was up"
        if self.stopping.ran_out:
            return f"the validation loss was not lower for {self.stopping.patience} epochs"
        return "all epochs were done"
