"""``hybridreg compare``: many methods on the cases of a table, with statistics and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import cases, options
from hybridreg.cli.devices import check_device, resolve_device
from hybridreg.cli.refusals import check_files, check_initial, check_method
from hybridreg.cli.session import code_of, session


def compare(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write; one of a comparison is continued.")
    ],
    table: Annotated[
        Path | None, typer.Argument(metavar="[CASES.csv]", help="Table of cases.")
    ] = None,
    pairs_of: cases.PairsOf = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Presets, methods and TOML files, separated by commas; 'peers' for all other "
            "packages' methods that are installed."
        ),
    ] = "",
    transform_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATTERN",
            help="Transforms made elsewhere (fixed to moving), such as lab=fields/{name}.nii.gz; "
            "repeat for several.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The method that others are tested against.", show_default="the first of --methods"
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="Main score, a column of records.csv.", show_default="dice, or landmark error"
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Loss in the main score that still counts as not inferior."),
    ] = None,
    starts: Annotated[
        int,
        typer.Option(min=0, max=8, help="Perturbed starts of each case, for the capture range."),
    ] = 0,
    initial: options.Initial = None,
    report: Annotated[
        bool, typer.Option(help="Write the page of every case and method as well.")
    ] = True,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed before.")
    ] = False,
    seed: options.Seed = None,
    workers: cases.Workers = None,
    scheduler: cases.SchedulerAddress = None,
    slurm: cases.SlurmFile = None,
    case_time: cases.CaseTime = None,
    case_memory: cases.CaseMemory = None,
    threads: cases.Threads = 1,
    device: options.Device = "cpu",
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Compare methods on the same cases: records, statistics, and one page."""
    with session(as_json=json, quiet=quiet) as current:
        names = [name.strip() for name in methods.split(",") if name.strip()]
        transforms = _transforms(transform_of or [])
        check_files(table, pairs_of)
        for name in names:
            check_method(None if name == "peers" else name)
        start = check_initial(initial)
        check_device(device)
        where = cases.where_of(workers, scheduler, slurm, case_time, case_memory, threads)
        rows = cases.read_rows(current, table, pairs_of)
        from hybridreg.comparison import Settings
        from hybridreg.comparison import compare as run

        settings = Settings(reference=reference, score=score, margin=margin, starts=starts)
        ends = []
        progress = cases.ProgressLine(current, 0)

        def on_end(ended):
            ends.append(ended)
            progress(ended)

        comparison = run(
            rows,
            names,
            out,
            settings=settings,
            transforms=transforms,
            seed=seed,
            device=resolve_device(device),
            initial=start,
            report=report,
            retry=retry_failed,
            **where,
            callback=on_end,
            announce=progress.expect,
        )
        _answer(current, comparison, len(ends))


def _transforms(given: list[str]) -> dict[str, str]:
    """The patterns by name (ValueError for anything else than NAME=PATTERN,
    and for a name twice).
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern):
            raise ValueError(
                f"--transform-of is given as NAME=PATTERN, such as lab=fields/{{name}}.nii.gz; "
                f"found {text!r}"
            )
        if name in found:
            raise ValueError(f"--transform-of gives the name {name!r} twice")
        found[name] = pattern
    return found


def _answer(current, comparison, ended: int):
    """The summary on the terminal and as JSON; exit code 4 if some registrations failed."""
    from hybridreg.comparison.tables import cost_table, main_table
    from hybridreg.comparison.words import sentences
    from hybridreg.io.output import REPORT

    records, summary = comparison.records, comparison.summary
    failed = [record for record in records if record.status == "failed"]
    current.exit_code = code_of(len(failed), len(records))
    current.answer = {
        "folder": str(comparison.folder),
        "records": len(records),
        "new": ended,
        "kept": comparison.kept,
        "failures": {f"{r.name}/{r.method}": r.reason for r in failed},
        "notes": list(comparison.notes),
        "summary": sentences(summary),
    }
    scores, costs = main_table(summary), cost_table(summary)
    names = ("Failed", "Wall s")
    rows = [
        (*(cell.text for cell in row[:4]), *(cost[costs.columns.index(n)].text for n in names))
        for row, cost in zip(scores.rows, costs.rows, strict=True)
    ]
    current.show("", rows, (*scores.columns[:4], *names))
    for sentence in sentences(summary):
        current.say(sentence)
    current.say(f"wrote {comparison.folder}; open {comparison.folder / REPORT}")
