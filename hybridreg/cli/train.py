"""``hybridreg train``: networks trained anew, each by a subcommand of its own."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.session import Session, session

app = typer.Typer(
    no_args_is_help=True,
    help="Train a network; stops and continues at will (needs: pip install 'hybridreg\\[train]').",
)


class Precision(StrEnum):
    """What numbers a network computes with while it learns."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Optimizer(StrEnum):
    """sgd is the published one."""

    adam = "adam"
    sgd = "sgd"


MaxTime = Annotated[
    str | None, typer.Option("--max-time", help="When to stop, such as 30m, 2h or 00:30:00.")
]
MaxEpochs = Annotated[int | None, typer.Option("--max-epochs", min=1, help="When to stop.")]
Patience = Annotated[
    int,
    typer.Option("--patience", min=1, help="Epochs without a lower validation loss, then stop."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in the folder, or start it.")
]
Devices = Annotated[int, typer.Option("--devices", min=1, help="How many GPUs.")]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that draw batches ahead.")
]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="float16 needs a GPU.")]


@app.callback()
def _train():
    """Keeps the subcommand's name while there is only one."""


@app.command()
def fusion(
    images: Annotated[
        list[Path],
        typer.Option("--images", help="Photographs to learn from: a file or folder; repeatable."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="Photographs to choose the weights by. By default every tenth image."),
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="Photographs to score once, at the end.")
    ] = None,
    optimizer: Annotated[Optimizer, typer.Option()] = Optimizer.adam,
    learning_rate: Annotated[
        float | None, typer.Option(help="Larger learns faster, until it diverges.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Answers to learn from at a step.")] = 128,
    data: Annotated[
        str, typer.Option(help="What the photographs are, for the card of the weights.")
    ] = "natural photographs",
    data_licence: Annotated[
        str, typer.Option(help="Of the photographs, for the card of the weights.")
    ] = "not stated",
    weights_licence: Annotated[str, typer.Option(help="Of the weights, for their card.")] = (
        "not stated"
    ),
    max_time: MaxTime = None,
    max_epochs: MaxEpochs = None,
    patience: Patience = 20,
    resume: Resume = False,
    precision: PrecisionOption = Precision.float32,
    devices: Devices = 1,
    workers: Workers = 0,
    seed: options.Seed = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Teach the fusion network which of two patches of a photograph is the sharper."""
    with session(as_json=json, quiet=quiet, threads=threads) as current:
        from hybridreg.training import require_lightning

        require_lightning()
        limit = None if max_time is None else seconds(max_time)
        from hybridreg.cli.devices import resolve_device
        from hybridreg.fusion.focus import FocusTask
        from hybridreg.io.photographs import read_photographs
        from hybridreg.training import train

        learned, judged = _divided(
            read_photographs(images), read_photographs(validation) if validation else None
        )
        task = FocusTask(
            learned,
            judged,
            read_photographs(test or []),
            optimizer_name=optimizer.value,
            learning_rate=learning_rate,
            batch_size=batch_size,
            data=data,
            data_licence=data_licence,
            weights_licence=weights_licence,
        )
        checkpoint = train(
            task,
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
        say_checkpoint(current, checkpoint, task.kind)


def say_checkpoint(current: Session, path: Path, kind: str):
    """What the weights reached, and where they lie."""
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


def _divided(images: dict, validation: dict | None) -> tuple[dict, dict]:
    """Photographs to learn from and to choose by; every tenth, from the first, where none are given."""
    if validation is not None:
        return images, validation
    kept = list(images)[::10]
    return {n: p for n, p in images.items() if n not in kept}, {n: images[n] for n in kept}
