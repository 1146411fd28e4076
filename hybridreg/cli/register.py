"""``hybridreg register``: two image files in, an output folder out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import cases, options
from hybridreg.cli.devices import check_device, resolve_device
from hybridreg.cli.fuse import show_fusion
from hybridreg.cli.refusals import check_files, check_initial, check_method, check_name
from hybridreg.cli.session import DONE, VERDICT_FAIL, session
from hybridreg.registry import DEFAULT_RULE, RULES


def register(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must be new.")],
    fixed: Annotated[
        Path | None, typer.Option("--fixed", "-f", help="The reference image.")
    ] = None,
    moving: Annotated[
        Path | None, typer.Option("--moving", "-m", help="The image to align to it.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Argument(metavar="[CASES.csv]", help="Table of cases, in place of two images."),
    ] = None,
    pairs_of: cases.PairsOf = None,
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
    initial: options.Initial = None,
    fixed_frame: options.FixedFrame = None,
    moving_frame: options.MovingFrame = None,
    fixed_mask: Annotated[
        str | None,
        typer.Option(help="Mask of the compared region in the fixed image; 'auto': the patient."),
    ] = None,
    moving_mask: Annotated[
        str | None, typer.Option(help="Mask of the compared region in the moving image.")
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
    truth: Annotated[
        Path | None, typer.Option(help="The true transform, for evaluation only.")
    ] = None,
    geometry: Annotated[
        Path | None,
        typer.Option(
            help="Detector and source of a radiograph (TOML).", show_default="beside it, or DICOM"
        ),
    ] = None,
    second: Annotated[
        Path | None, typer.Option(help="A second radiograph of the same moment (biplane).")
    ] = None,
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
    interpolation: options.Interpolated = options.Interpolation.linear,
    report: Annotated[bool, typer.Option(help="Write report.html as well.")] = True,
    seed: options.Seed = None,
    workers: cases.Workers = None,
    scheduler: cases.SchedulerAddress = None,
    slurm: cases.SlurmFile = None,
    case_time: cases.CaseTime = None,
    case_memory: cases.CaseMemory = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    keep_identifiers: options.KeepIdentifiers = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Align the moving image to the fixed one; write moved image, transform, figures, report."""
    with session(as_json=json, quiet=quiet) as current:
        if method and parameters:
            raise ValueError("give either --method or elastix files with -p, not both")
        inputs = {
            "fixed_frame": fixed_frame,
            "moving_frame": moving_frame,
            "fixed_mask": fixed_mask,
            "moving_mask": moving_mask,
            "fixed_points": fixed_points,
            "moving_points": moving_points,
            "fixed_labels": fixed_labels,
            "moving_labels": moving_labels,
            "fixed_landmarks": fixed_landmarks,
            "moving_landmarks": moving_landmarks,
            "truth": truth,
            "geometry": geometry,
            "second": second,
        }
        many = table is not None or pairs_of is not None
        if many:
            images = {"fixed": fixed, "moving": moving, "overwrite": overwrite or None}
            _refuse_beside_a_table({**images, **inputs})
            where = cases.where_of(workers, scheduler, slurm, case_time, case_memory, threads)
        elif fixed is None or moving is None:
            raise ValueError("give two images with -f and -m, or a table of cases (CSV)")
        else:
            from hybridreg.io.output import check_output

            check_output(out, overwrite=overwrite)
        chosen = _method(method, parameters)
        check_method(method)
        check_files(fixed, moving, parameters)
        check_files(*(path for path in inputs.values() if isinstance(path, Path)))
        check_files(*(path for path in (fixed_mask, moving_mask) if path != "auto"))
        start = check_initial(initial)
        check_name(RULES, fusion_rule)
        check_device(device)
        if many:
            rows = cases.read_rows(current, table, pairs_of)
        current.limit_threads(threads)
        settings = {
            "seed": seed,
            "device": resolve_device(device),
            "keep_identifiers": keep_identifiers,
            "fuse": fusion_rule or (DEFAULT_RULE if fuse else None),
            "interpolation": interpolation.value,
            "initial": start,
        }
        if many:
            from hybridreg.batch import Order

            order = Order(_absolute(chosen), report=report, **settings)
            _register_rows(current, rows, out, order, **where)
            return
        import hybridreg

        outcome = hybridreg.register(fixed, moving, chosen, threads=threads, **settings, **inputs)
        command = shlex.join(["hybridreg", *sys.argv[1:]]) if keep_identifiers else None
        outcome.save(out, overwrite=overwrite, report=report, command=command)
        current.answer = {"folder": str(out), **outcome.summary(command)}
        del current.answer["trace"]
        current.exit_code = VERDICT_FAIL if outcome.verdict.status == "fail" else DONE
        say_outcome(current, outcome, out)


def _refuse_beside_a_table(given: dict):
    """Raises ValueError for options of a single pair, which have columns in the table."""
    wrong = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} cannot be given with a table of cases: images, masks, points, "
            "labels and landmarks have columns in it, and finished cases are kept until their "
            "files change"
        )


def _register_rows(current, rows: list, out: Path, order, **where):
    """Registers the cases of a table; exit code 4 if some failed, 3 if a verdict is fail."""
    from hybridreg.batch import register_table

    progress = cases.ProgressLine(current, len(rows))
    batch = register_table(rows, out, order, callback=progress, **where)
    counts = cases.answer_for(
        current,
        count=len(rows),
        skipped=batch.skipped,
        changed=batch.changed,
        ends=batch.ends,
    )
    current.answer = {
        "folder": str(out),
        **counts,
        "records": [record.row() for record in batch.records],
    }
    verdicts = [record.verdict for record in batch.records]
    if "fail" in verdicts and current.exit_code == DONE:
        current.exit_code = VERDICT_FAIL
    shown = ("name", "status", "verdict", "dice", "tre_mean_mm", "folding_percent")
    cells = [[record.row()[column] for column in shown] for record in batch.records]
    current.show("", [tuple(map(_cell, row)) for row in cells], shown)
    current.say(f"wrote {out}; its records.csv has one row per case")


def _cell(value) -> str:
    return value if isinstance(value, str) else number(value)


def _absolute(method: str | dict) -> str | dict:
    """The method with absolute file paths."""
    if isinstance(method, dict):
        files = [str(Path(name).absolute()) for name in method["parameter_files"]]
        return {**method, "parameter_files": files}
    return str(Path(method).absolute()) if method.endswith(".toml") else method


def _method(method: str | None, parameters: list[str] | None) -> str | dict:
    """The requested method; given elastix files are used exactly as by elastix."""
    if parameters:
        return {"name": "elastix", "parameter_files": parameters, "schedule": "elastix"}
    return method or "rigid"


def say_outcome(current, outcome, folder: Path):
    """Prints the verdict and the main numbers."""
    from hybridreg.io.output import REPORT
    from hybridreg.records import compared

    current.say(f"verdict: {outcome.verdict.status}")
    for reason in outcome.verdict.reasons:
        current.say(f"  {reason}")
    before, after = outcome.similarity
    rows = [("Overlap", f"{before.overlap:.1%}", f"{after.overlap:.1%}")]
    rows += [(name, number(old), number(new)) for name, old, new in compared(outcome.summary())]
    current.show("", rows, ("", "before", "after"))
    if outcome.fused:
        show_fusion(current, outcome.fused)
    page = folder / REPORT
    current.say(f"wrote {folder}" + (f"; open {page}" if page.is_file() else ""))


def number(value: float | None) -> str:
    """Four digits, or a dash for None."""
    return "-" if value is None else f"{value:.4g}"
