"""``hybridreg train``: networks trained anew, each by a subcommand of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

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


Images = Annotated[
    list[Path],
    typer.Option("--images", help="Photographs to learn from: a file or folder; repeatable."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")]
Validation = Annotated[
    list[Path] | None,
    typer.Option(
        "--validation", help="Photographs to choose the weights by. By default every tenth image."
    ),
]
Test = Annotated[
    list[Path] | None, typer.Option("--test", help="Photographs to score once, at the end.")
]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", help="Larger learns faster, until it diverges.")
]
Data = Annotated[
    str, typer.Option("--data", help="What the photographs are, for the card of the weights.")
]
DataLicence = Annotated[
    str, typer.Option("--data-licence", help="Of the photographs, for the card of the weights.")
]
WeightsLicence = Annotated[
    str, typer.Option("--weights-licence", help="Of the weights, for their card.")
]


@app.command()
def fusion(
    images: Images,
    out: Out,
    validation: Validation = None,
    test: Test = None,
    optimizer: Annotated[Optimizer, typer.Option()] = Optimizer.adam,
    learning_rate: LearningRate = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Answers to learn from at a step.")] = 128,
    data: Data = "natural photographs",
    data_licence: DataLicence = "not stated",
    weights_licence: WeightsLicence = "not stated",
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

    def task(*photographs: dict):
        from hybridreg.fusion.focus import FocusTask

        return FocusTask(
            *photographs,
            optimizer_name=optimizer.value,
            learning_rate=learning_rate,
            batch_size=batch_size,
            data=data,
            data_licence=data_licence,
            weights_licence=weights_licence,
        )

    with session(as_json=json, quiet=quiet, threads=threads) as current:
        limits = {"max_time": max_time, "max_epochs": max_epochs, "patience": patience}
        where = {"device": device, "devices": devices, "workers": workers}
        how = {"resume": resume, "precision": precision.value, "seed": seed or 0}
        _teach(current, task, (images, validation, test), out, **limits, **where, **how)


@app.command()
def fusion_fast(
    images: Images,
    out: Out,
    validation: Validation = None,
    test: Test = None,
    teacher: Annotated[
        str, typer.Option(help="Weights that `train fusion` made: a file or the name of our own.")
    ] = "fusion-focus",
    pictures: Annotated[
        int, typer.Option(min=16, help="How many the teacher judges before the first step.")
    ] = 768,
    learning_rate: LearningRate = None,
    data: Data = "natural photographs",
    data_licence: DataLicence = "not stated",
    weights_licence: WeightsLicence = "not stated",
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
    """Teach a small network to answer as the fusion network does, in a hundredth of its time."""

    def task(*photographs: dict):
        from hybridreg.fusion.distillation import FastTask
        from hybridreg.fusion.focus import trained_network

        return FastTask(
            *photographs,
            teacher=trained_network(teacher),
            teacher_name=Path(teacher).stem,
            pictures=pictures,
            learning_rate=learning_rate,
            data=data,
            data_licence=data_licence,
            weights_licence=weights_licence,
        )

    with session(as_json=json, quiet=quiet, threads=threads) as current:
        limits = {"max_time": max_time, "max_epochs": max_epochs, "patience": patience}
        where = {"device": device, "devices": devices, "workers": workers}
        how = {"resume": resume, "precision": precision.value, "seed": seed or 0}
        _teach(current, task, (images, validation, test), out, **limits, **where, **how)


def _teach(
    current: Session,
    task_of: Callable[..., Any],
    photographs: tuple[list[Path], list[Path] | None, list[Path] | None],
    out: Path,
    *,
    max_time: str | None,
    device: str,
    **how,
):
    """Trains what ``task_of`` makes of photographs to learn from, choose by and test on."""
    from hybridreg.training import require_lightning

    require_lightning()
    limit = None if max_time is None else seconds(max_time)
    from hybridreg.cli.devices import resolve_device
    from hybridreg.io.photographs import read_photographs
    from hybridreg.training import train

    images, validation, test = photographs
    learned, judged = _divided(
        read_photographs(images), read_photographs(validation) if validation else None
    )
    task = task_of(learned, judged, read_photographs(test or []))
    checkpoint = train(task, out, max_time_s=limit, device=resolve_device(device), **how)
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
