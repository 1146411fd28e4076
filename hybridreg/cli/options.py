"""Options common to several subcommands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; logs go to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no summary.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Processor threads.", show_default="all")
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of random numbers, for reproducibility.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")]
KeepIdentifiers = Annotated[
    bool,
    typer.Option("--keep-identifiers", help="Write file names into results, not only hashes."),
]
Initial = Annotated[
    str | None,
    typer.Option(
        "--initial", help="Initial transform: a file (fixed to moving), 'centers' or 'mass'."
    ),
]
FixedFrame = Annotated[
    int | None, typer.Option(min=0, help="Which image of a fixed file that holds several, from 0.")
]
MovingFrame = Annotated[
    int | None, typer.Option(min=0, help="Which image of a moving file that holds several, from 0.")
]
FixedLabels = Annotated[
    Path | None, typer.Option(help="Label map of the fixed image, for evaluation only.")
]
MovingLabels = Annotated[
    Path | None, typer.Option(help="Label map of the moving image, for evaluation only.")
]
FixedLandmarks = Annotated[
    Path | None, typer.Option(help="Points in the fixed image, for evaluation only.")
]
MovingLandmarks = Annotated[Path | None, typer.Option(help="The same points in the moving image.")]


class Interpolation(StrEnum):
    """How images are resampled; label maps are always resampled by nearest neighbor."""

    linear = "linear"
    nearest = "nearest"
    cubic = "cubic"


Interpolated = Annotated[
    Interpolation,
    typer.Option(help="Interpolation of the moved image: cubic keeps thick slices sharper."),
]
