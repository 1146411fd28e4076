"""Trains any task: Lightning runs the loop, and the run's folder holds everything to resume it."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridreg.io.checkpoints import write_checkpoint
from hybridreg.training.folder import RunFolder
from hybridreg.training.task import Task

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import nn

    from hybridreg.training.loop import Best

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def train(
    task: Task,
    folder: str | Path,
    *,
    max_time_s: float | None = None,
    max_epochs: int | None = None,
    patience: int = 20,
    resume: bool = False,
    seed: int = 0,
    device: str = "cpu",
    devices: int = 1,
    precision: str = "float32",
    workers: int = 0,
    save_every_s: float = 60.0,
) -> Path:
    """Trains until a limit is reached; returns the path of the checkpoint with the best weights.

    It ends after max_time_s of training (all starts of the run together), after max_epochs, or when
    the validation loss has not decreased for ``patience`` epochs, whichever comes first. The
    weights are those with the lowest validation loss.

    resume: continues the run in the folder, or starts it if there is none; killed at any moment, it
    loses at most save_every_s. The batch of step n depends on (seed, n, number of the device)
    alone, and so do random numbers within the network: a resumed run takes the same steps as
    one that never stopped.
    precision: float32, or bfloat16 or float16 where the network's operations support it.
    devices: GPUs (or CPU processes), each of which processes its own batch at every step.
    workers: processes that prefetch batches; 0 draws them between the steps.
    """
    require_lightning()
    _check_settings(max_time_s, max_epochs, patience, device, devices, precision)
    run = RunFolder(Path(folder))
    identity = {"kind": task.kind, "seed": seed, "devices": devices, "task": dict(task.settings)}
    state = _begin(run, identity, resume=resume)
    from hybridreg.training.loop import Learner, Watch

    with _lightning_silenced():
        learner = Learner(task, seed=seed, workers=workers)
        watch = Watch.over(run, max_time_s=max_time_s, patience=patience, save_every_s=save_every_s)
        trainer = _trainer(
            run,
            callbacks=list(watch),
            max_epochs=-1 if max_epochs is None else max_epochs,
            precision=PRECISIONS[precision],
            log_every_n_steps=min(10, task.steps_per_epoch),
            **_hardware(device, devices),
        )
        _fit(trainer, learner, state)
    if not _is_first_process():
        raise SystemExit(0)  # started by Lightning for another device: its work is done
    history = {
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "seconds": round(watch.timer.time_elapsed()),
        "precision": precision,
        "devices": devices,
        "ended": watch.why_ended(),
    }
    return _finish(run, task, learner.network, watch.keeper.best, seed=seed, history=history)


def require_lightning():
    """Raises ValueError, with what to install, if the training libraries are missing."""
    try:
        import lightning.pytorch  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"training needs Lightning and TensorBoard, and {error.name} is not installed: "
            "pip install 'hybridreg[train]'"
        ) from error


def _check_settings(
    max_time_s: float | None,
    max_epochs: int | None,
    patience: int,
    device: str,
    devices: int,
    precision: str,
):
    for name, value in (
        ("time", max_time_s),
        ("number of epochs", max_epochs),
        ("patience", patience),
        ("number of devices", devices),
    ):
        if value is not None and not value > 0:
            raise ValueError(f"the {name} must be more than 0, found {value}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}; found {precision!r}")
    if precision == "float16" and device == "cpu":
        raise ValueError("float16 needs a GPU: use bfloat16 or float32 on the CPU")
    if ":" in device and devices > 1:
        raise ValueError(f"{device} is one device and {devices} were requested: give cuda alone")


def _begin(run: RunFolder, identity: dict[str, Any], *, resume: bool) -> Path | None:
    """Opens the folder of the run; the state to continue from, if there is one."""
    if _is_first_process():
        run.open(identity, resume=resume)
    if resume and run.state.is_file():
        run.check_state()
        return run.state
    return None


def _is_first_process() -> bool:
    """Whether this is the main process; Lightning starts one more for each further device."""
    from lightning.pytorch.utilities import rank_zero_only

    return rank_zero_only.rank == 0


def _hardware(device: str, devices: int) -> dict[str, Any]:
    kind, _, number = device.partition(":")
    return {
        "accelerator": "gpu" if kind == "cuda" else kind,
        "devices": [int(number)] if number else devices,
        "strategy": "ddp" if devices > 1 else "auto",
    }


def _trainer(run: RunFolder, **settings) -> pl.Trainer:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    # A folder for each start, since CSVLogger (2.6) deletes the table that it finds.
    start = len(list(run.logs.glob("start_*"))) + 1
    place = {"save_dir": run.path, "name": run.logs.name, "version": f"start_{start}"}
    return Trainer(
        default_root_dir=run.path,
        logger=[CSVLogger(**place), TensorBoardLogger(**place)],
        enable_checkpointing=False,  # Keeper saves one file that is never truncated
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # batches depend on the device number already
        **settings,
    )


def _fit(trainer: pl.Trainer, learner: pl.LightningModule, state: Path | None):
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(learner, ckpt_path=state, weights_only=True)
    except MisconfigurationException as error:
        if state is None or "current_epoch" not in str(error):
            raise
        raise ValueError(
            f"this run has already had more than {trainer.max_epochs} epochs: give a "
            "larger number, "
            "or none"
        ) from error
    except SystemExit:
        if not trainer.interrupted:
            raise
        # Lightning (2.6) ends the process on Ctrl-C and leaves further ones ignored.
        signal.signal(signal.SIGINT, interrupt)
        raise KeyboardInterrupt from None


@contextmanager
def _lightning_silenced() -> Iterator[None]:
    """Without Lightning's hints and banners; hybridreg reports relevant warnings itself."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        try:
            yield
        finally:
            logger.setLevel(level)


def _finish(
    run: RunFolder, task: Task, network: nn.Module, best: Best | None, *, seed: int, history: dict
) -> Path:
    """Writes the checkpoint of the best weights with its card."""
    if best is None:
        raise ValueError(
            f"{run.path}: the time was up before the first validation: resume with more time"
        )
    network.load_state_dict(best.weights)
    network.eval().cpu()
    card = task.card()
    card = replace(
        card,
        seed=seed,
        validation=best.scores,
        test=task.test(network),
        training={**card.training, "best_step": best.step, **history},
        version=version("hybridreg"),
    )
    return write_checkpoint(run.checkpoint(task.kind), best.weights, card=card)
