"""``hybridreg register``: two image files in, an output folder out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.fuse import show_fusion
from hybridreg.cli.session import DONE, VERDICT_FAIL, session


def register(
    fixed: Annotated[Path, typer.Option("--fixed", "-f", help="The image that stays.")],
    moving: Annotated[Path, typer.Option("--moving", "-m", help="The image that is aligned.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must be new.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="Preset, method or TOML file: see `hybridreg methods`.", show_default="rigid"
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameters", "-p", help="elastix parameter file; repeat for stages."),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(help="Start: a transform file (fixed to moving), 'centers' or 'mass'."),
    ] = None,
    fixed_frame: options.FixedFrame = None,
    moving_frame: options.MovingFrame = None,
    fixed_mask: Annotated[
        str | None,
        typer.Option(help="Where to compare, on the fixed image's grid; 'auto': the patient."),
    ] = None,
    moving_mask: Annotated[
        str | None, typer.Option(help="The same, on the moving image's grid.")
    ] = None,
    fixed_points: Annotated[
        Path | None, typer.Option(help="Points in the fixed image that guide the registration.")
    ] = None,
    moving_points: Annotated[
        Path | None, typer.Option(help="The corresponding points in the moving image.")
    ] = None,
    fixed_labels: options.FixedLabels = None,
    moving_labels: options.MovingLabels = None,
    fixed_landmarks: options.FixedLandmarks = None,
    moving_landmarks: options.MovingLandmarks = None,
    fuse: Annotated[
        bool, typer.Option("--fuse", help="Fuse fixed and moved into one image as well, scored.")
    ] = False,
    fusion_rule: Annotated[
        str | None,
        typer.Option(
            help="How to fuse, as in `hybridreg fuse --rule`; includes --fuse.",
            show_default="salience",
        ),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html as well.")] = True,
    seed: options.Seed = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    keep_identifiers: options.KeepIdentifiers = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Align the moving image to the fixed one; write moved image, transform, figures, report."""
    with session(as_json=json, quiet=quiet, threads=threads) as current:
        from hybridreg.io.output import check_output

        if method and parameters:
            raise ValueError("give either --method or elastix files with -p, not both")
        check_output(out, overwrite=overwrite)
        import hybridreg
        from hybridreg.cli.devices import resolve_device
        from hybridreg.fusing import DEFAULT_RULE

        outcome = hybridreg.register(
            fixed,
            moving,
            _method(method, parameters),
            initial=_initial(initial),
            fixed_frame=fixed_frame,
            moving_frame=moving_frame,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            fixed_points=fixed_points,
            moving_points=moving_points,
            fixed_labels=fixed_labels,
            moving_labels=moving_labels,
            fixed_landmarks=fixed_landmarks,
            moving_landmarks=moving_landmarks,
            threads=threads,
            seed=seed,
            device=resolve_device(device),
            keep_identifiers=keep_identifiers,
            fuse=fusion_rule or (DEFAULT_RULE if fuse else None),
        )
        command = shlex.join(["hybridreg", *sys.argv[1:]]) if keep_identifiers else None
        outcome.save(out, overwrite=overwrite, report=report, command=command)
        current.answer = {"folder": str(out), **outcome.summary(command)}
        del current.answer["trace"]
        current.exit_code = VERDICT_FAIL if outcome.verdict.status == "fail" else DONE
        say_outcome(current, outcome, out)


def _method(method: str | None, parameters: list[str] | None) -> str | dict:
    """What was asked for; a person's own elastix files mean exactly what they mean to elastix."""
    if parameters:
        return {"name": "elastix", "parameter_files": parameters, "schedule": "elastix"}
    return method or "rigid"


def say_outcome(current, outcome, folder: Path):
    """The verdict and the few numbers a person wants at once."""
    current.say(f"verdict: {outcome.verdict.status}")
    for reason in outcome.verdict.reasons:
        current.say(f"  {reason}")
    before, after = outcome.similarity
    scores_before, scores_after = (scores.to_dict() for scores in outcome.scores)
    rows = [("overlap", f"{before.overlap:.1%}", f"{after.overlap:.1%}")]
    for name in ("mutual_information", "correlation"):
        values = getattr(before, name), getattr(after, name)
        rows.append((name.replace("_", " "), *map(_number, values)))
    for name, old, new in headline(scores_before, scores_after):
        rows.append((name, _number(old), _number(new)))
    current.show("", rows, ("", "before", "after"))
    if outcome.fused:
        show_fusion(current, outcome.fused)
    for warning in outcome.warnings:
        current.say(f"warning: {warning}")
    current.say(f"wrote {folder}" + (f"; open {folder / 'report.html'}"))


def headline(before: dict, after: dict) -> list[tuple[str, float | None, float | None]]:
    """The leading score of each kind that was measured: name, before, after."""
    rows = []
    for name, path in (
        ("mean Dice", ("dice", "mean")),
        ("target registration error, mean mm", ("landmarks", "mean_mm")),
        ("folded voxels, %", ("jacobian", "folding_percent")),
    ):
        old, new = (_dig(scores, path) for scores in (before, after))
        if new is not None:
            rows.append((name, old, new))
    return rows


def _dig(value, path: tuple[str, ...]):
    for key in path:
        value = (value or {}).get(key)
    return value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _initial(initial: str | None) -> str | Path | None:
    from hybridreg.initialization import INITIALIZATIONS

    return initial if initial in (None, *INITIALIZATIONS) else Path(initial)
