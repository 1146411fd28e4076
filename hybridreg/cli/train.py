"""``hybridreg train``: trains a network, by the table of training tasks."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.devices import check_device, resolve_device
from hybridreg.cli.refusals import check_files, check_name
from hybridreg.cli.session import Session, session
from hybridreg.registry import TASKS


class Precision(StrEnum):
    """The number type of the computations during training."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def train(
    task: Annotated[
        str, typer.Argument(help="What to train; `hybridreg methods` lists the tasks.")
    ],
    config: Annotated[Path, typer.Argument(help="TOML file with the settings of the task.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    max_time: Annotated[
        str | None, typer.Option(help="When to stop, such as 30m, 2h or 00:30:00.")
    ] = None,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="When to stop.")] = None,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a lower validation loss, then stop.")
    ] = 20,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the folder, or start it.")
    ] = False,
    precision: Annotated[Precision, typer.Option(help="float16 needs a GPU.")] = Precision.float32,
    devices: Annotated[int, typer.Option(min=1, help="How many GPUs.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prefetch batches.")] = 0,
    seed: options.Seed = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Train a network; interruptible and resumable (needs: pip install 'hybridreg\\[train]')."""
    with session(as_json=json, quiet=quiet) as current:
        check_name(TASKS, task)
        check_files(config)
        check_device(device)
        limit = None if max_time is None else seconds(max_time)
        current.limit_threads(threads)
        from hybridreg.config import load_training

        settings = load_training(task, config)
        from hybridreg.training import require_lightning
        from hybridreg.training import train as run

        require_lightning()
        to_learn = settings.task()
        checkpoint = run(
            to_learn,
            out,
            max_time_s=limit,
            max_epochs=max_epochs,
            patience=patience,
            resume=resume,
            seed=seed or 0,
            device=resolve_device(device),
            devices=devices,
            precision=precision.value,
            workers=workers,
        )
        say_checkpoint(current, checkpoint, to_learn.kind)


def say_checkpoint(current: Session, path: Path, kind: str):
    """Prints the scores of the trained weights, and their path."""
    from dataclasses import asdict

    from hybridreg.io.checkpoints import card_path, read_checkpoint

    card = read_checkpoint(path, kind=kind).card
    current.answer = {"checkpoint": str(path), "card": asdict(card)}
    for part in ("validation", "test"):
        rows = [(name, f"{value:.4g}") for name, value in getattr(card, part).items()]
        current.show(part, rows)
    current.say(
        f"{card.training['ended']}: {card.training['steps']} steps in "
        f"{card.training['seconds']} s, the best after {card.training['best_step']}"
    )
    current.say(f"wrote {path} and {card_path(path).name}")


def seconds(duration: str) -> float:
    """The seconds in a text such as 90s, 30m, 2h, 1d, 30:00 or 00:30:00 (ValueError)."""
    unit = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", duration)
    clock = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d?\d):(\d\d)", duration)
    if unit:
        return float(unit[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit[2]]
    if clock:
        days, hours, minutes, left = (int(part or 0) for part in clock.groups())
        return float(86400 * days + 3600 * hours + 60 * minutes + left)
    raise ValueError(f"a time is given as 30m, 2h or 00:30:00 (h:m:s); found {duration!r}")
