"""``hybridreg targets``: training targets for networks, for all cases of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridreg.choices import TARGET_KINDS
from hybridreg.cli import cases, options
from hybridreg.cli.devices import check_device, resolve_device
from hybridreg.cli.refusals import check_method
from hybridreg.cli.session import session


def targets(
    out: Annotated[Path, typer.Option("--out", "-o", help="Zarr store to create or continue.")],
    kind: Annotated[
        str, typer.Option(help="field, known, momentum or momentum-from-elastix: see README.")
    ],
    table: Annotated[
        Path | None, typer.Argument(metavar="[CASES.csv]", help="Table of cases.")
    ] = None,
    pairs_of: cases.PairsOf = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Preset, method or TOML file that finds the target.", show_default="by kind"
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="momentum: method whose result initializes LDDMM.")
    ] = None,
    lddmm: Annotated[
        str | None,
        typer.Option(
            help="momentum-from-elastix: LDDMM preset with the kernel and spacing.",
            show_default="brain-lddmm",
        ),
    ] = None,
    amplitude: Annotated[
        float | None, typer.Option(help="known: maximum displacement in mm.", show_default="10")
    ] = None,
    wavelength: Annotated[
        float | None,
        typer.Option(help="known: wavelength in mm; longer is smoother.", show_default="40"),
    ] = None,
    bends: Annotated[
        int | None, typer.Option(help="known: number of composed deformations.", show_default="4")
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(help="Resample images to this spacing first, in mm.")
    ] = None,
    seed: options.Seed = None,
    workers: cases.Workers = None,
    scheduler: cases.SchedulerAddress = None,
    slurm: cases.SlurmFile = None,
    case_time: cases.CaseTime = None,
    case_memory: cases.CaseMemory = None,
    threads: cases.Threads = 1,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 or auto.", show_default="cpu")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Make training targets of many pairs; interruptible and resumable."""
    with session(as_json=json, quiet=quiet) as current:
        if kind not in TARGET_KINDS:
            known = ", ".join(TARGET_KINDS)
            raise ValueError(f"there is no kind {kind!r} of targets; known are {known}")
        check_device(device)
        where = cases.where_of(workers, scheduler, slurm, case_time, case_memory, threads)
        for name in (method, start, lddmm):
            check_method(name)
        rows = cases.read_rows(current, table, pairs_of)
        from hybridreg.targets import Recipe, load_kind, make_targets

        chosen = load_kind(
            kind,
            method=method,
            start=start,
            lddmm=lddmm,
            amplitude_mm=amplitude,
            wavelength_mm=wavelength,
            bends=bends,
            device=device and resolve_device(device),
        )
        made = make_targets(
            rows,
            out,
            Recipe(kind, chosen, seed=seed or 0, spacing_mm=spacing),
            **where,
            callback=cases.ProgressLine(current, len(rows)),
        )
        counts = cases.answer_for(
            current,
            count=len(rows),
            skipped=made.skipped,
            changed=made.changed,
            ends=made.ends,
        )
        verdicts = [ended.result["verdict"] for ended in made.ends if not ended.failed]
        found = {status: verdicts.count(status) for status in ("pass", "warn", "fail")}
        current.answer = {"store": str(out), **counts, "verdicts": found}
        current.say(f"wrote {out}; verdicts of this run: {found}")
