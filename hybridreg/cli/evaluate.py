"""``hybridreg evaluate``: scores of finished registrations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.refusals import check_files
from hybridreg.cli.register import number
from hybridreg.cli.session import Session, code_of, session


def evaluate(
    what: Annotated[
        Path,
        typer.Argument(help="Output folder, transform file, or a table of cases (CSV)."),
    ],
    fixed: Annotated[
        Path | None, typer.Option("--fixed", "-f", help="Fixed image; not with a table.")
    ] = None,
    moving: Annotated[
        Path | None, typer.Option("--moving", "-m", help="Moving image; not with a table.")
    ] = None,
    fixed_frame: options.FixedFrame = None,
    moving_frame: options.MovingFrame = None,
    fixed_labels: options.FixedLabels = None,
    moving_labels: options.MovingLabels = None,
    fixed_landmarks: options.FixedLandmarks = None,
    moving_landmarks: options.MovingLandmarks = None,
    results: Annotated[
        Path | None,
        typer.Option(help="With a table: the folder with one output folder per case."),
    ] = None,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Score a transform by labels, landmarks, Jacobian and inverse consistency."""
    with session(as_json=json, quiet=quiet) as current:
        if what.suffix == ".csv":
            if results is None:
                raise ValueError("with a table of cases, --results names the folder of its results")
            check_files(what, results)
            current.limit_threads(threads)
            _evaluate_table(current, what, results)
            return
        if fixed is None or moving is None:
            raise ValueError("give the two images of the registration with -f and -m")
        check_files(what, fixed, moving, fixed_labels, moving_labels)
        check_files(fixed_landmarks, moving_landmarks)
        current.limit_threads(threads)
        inputs = {
            "fixed_frame": fixed_frame,
            "moving_frame": moving_frame,
            "fixed_labels": fixed_labels,
            "moving_labels": moving_labels,
            "fixed_landmarks": fixed_landmarks,
            "moving_landmarks": moving_landmarks,
        }
        current.answer = _scores(what, fixed, moving, inputs)
        _show(current, str(what), current.answer)


def _evaluate_table(current: Session, table: Path, results: Path):
    from hybridreg import progress
    from hybridreg.case_files import LABELS, LANDMARKS
    from hybridreg.io.tables import read_case_table

    cases = read_case_table(table)
    records, failures = {}, {}
    for count, row in enumerate(cases):
        progress.report(count / len(cases), row.name)
        inputs = {name: getattr(row, name) for name in (*LABELS, *LANDMARKS)}
        try:
            records[row.name] = _scores(results / row.name, row.fixed, row.moving, inputs)
        except (ValueError, FileNotFoundError) as error:
            failures[row.name] = str(error)
    current.answer = {"cases": records, "failures": failures}
    for name, scores in records.items():
        _show(current, name, scores)
    for name, reason in failures.items():
        current.say(f"{name}: {reason}")
    current.exit_code = code_of(len(failures), len(cases))


def _scores(what: Path, fixed: Path, moving: Path, inputs: dict) -> dict:
    from hybridreg.case_files import read_case
    from hybridreg.evaluation import evaluate as scores_of
    from hybridreg.io.output import INVERSE, TRANSFORM
    from hybridreg.io.transforms import read_transform
    from hybridreg.transforms import IDENTITY

    _check_sides(what, fixed, moving)
    case = read_case(fixed, moving, **inputs)
    folder = what.is_dir()
    transform = read_transform(what / TRANSFORM if folder else what)
    known = folder and (what / INVERSE).is_file()
    inverse = read_transform(what / INVERSE) if known else transform.inverse()
    after = scores_of(case, transform, inverse=inverse)
    return {"before": scores_of(case, IDENTITY).to_dict(), "after": after.to_dict()}


def _check_sides(what: Path, fixed: Path, moving: Path):
    """Raises ValueError if fixed and moving are exchanged, by the hashes in the result."""
    from hybridreg.io.output import registered_side

    for given, image in (("fixed", fixed), ("moving", moving)):
        side = registered_side(what, image)
        if side not in (None, given):
            raise ValueError(
                f"the {given} image given is the {side} image of this registration (by its hash): "
                "fixed and moving are exchanged, give them the other way round"
            )


def _show(current: Session, title: str, scores: dict):
    """The headlines of scores before and after."""
    from hybridreg.records import compared

    rows = [(name, number(old), number(new)) for name, old, new in compared({"scores": scores})]
    current.show(title, rows, ("", "before", "after"))
