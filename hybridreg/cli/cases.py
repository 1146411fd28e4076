"""Common parts of subcommands for many cases: the cases, where they run, and their report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridreg.cli.refusals import check_files
from hybridreg.cli.session import Session, code_of
from hybridreg.cli.train import seconds

if TYPE_CHECKING:
    from hybridreg.cluster import Ended, Limits, Place
    from hybridreg.io.tables import CaseRow

PairsOf = Annotated[
    Path | None,
    typer.Option("--pairs-of", help="Folder of images: all ordered pairs, in place of a table."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Parallel cases on this machine.", show_default="processors"
    ),
]
SchedulerAddress = Annotated[
    str | None,
    typer.Option("--scheduler", help="Run on a Dask scheduler, such as tcp://10.0.0.1:8786."),
]
SlurmFile = Annotated[
    Path | None, typer.Option("--slurm", help="Run in Slurm jobs described by this TOML file.")
]
CaseTime = Annotated[
    str | None, typer.Option("--case-time", help="Time limit of each case, such as 10m or 2h.")
]
CaseMemory = Annotated[
    str | None,
    typer.Option(
        "--case-memory",
        help="Memory limit of each case, such as 4GB.",
        show_default="an equal part of this machine's memory",
    ),
]

Threads = Annotated[int, typer.Option("--threads", min=1, help="Processor threads of each case.")]


def read_rows(current: Session, table: Path | None, pairs_of: Path | None) -> list[CaseRow]:
    """The cases of a table, or of a folder (ValueError where neither or both are given)."""
    if (table is None) == (pairs_of is None):
        raise ValueError("give either a table of cases (CSV) or a folder with --pairs-of")
    check_files(table, pairs_of)
    from hybridreg.io.tables import pairs_of_folder, read_case_table

    rows = pairs_of_folder(pairs_of) if table is None else read_case_table(table)
    if rows[0].more:
        current.say(f"columns of the table that no method uses: {', '.join(rows[0].more)}")
    return rows


def where_of(
    workers: int | None,
    scheduler: str | None,
    slurm: Path | None,
    case_time: str | None,
    case_memory: str | None,
    threads: int | None,
) -> dict[str, Place | Limits]:
    """``place`` and ``limits``: where the cases run, and what each may take (ValueError)."""
    from hybridreg.cluster import Limits

    limits = Limits(
        time_s=None if case_time is None else seconds(case_time),
        memory_bytes=None if case_memory is None else bytes_of(case_memory),
        threads=threads or 1,
    )
    return {"place": _place(workers, scheduler, slurm), "limits": limits}


def _place(workers: int | None, scheduler: str | None, slurm: Path | None) -> Place:
    """ValueError if several places are given."""
    if sum(given is not None for given in (workers, scheduler, slurm)) > 1:
        raise ValueError("--workers, --scheduler and --slurm exclude each other: give one")
    from hybridreg.cluster import Local, Scheduler, Slurm

    if scheduler is not None:
        return Scheduler(scheduler)
    if slurm is not None:
        place = Slurm(slurm)
        place.options()  # raises for an invalid file before any work
        return place
    return Local(workers)


def bytes_of(size: str) -> int:
    """The bytes in a text such as 500MB, 4GB or 1.5 TB (ValueError)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])(i?)B?", size, re.IGNORECASE)
    if not found:
        raise ValueError(f"an amount of memory is given as 500MB or 4GB; found {size!r}")
    step = 1024 if found[3] else 1000
    return int(float(found[1]) * step ** (2 + "MGT".index(found[2].upper())))


class ProgressLine:
    """A callback that updates the progress bar as cases end, and prints failures at once."""

    def __init__(self, current: Session, count: int):
        self._current, self._count, self._done = current, count, 0

    def expect(self, count: int):
        """Sets how many cases are to end."""
        self._count = count

    def __call__(self, ended: Ended):
        from hybridreg import progress

        self._done += 1
        progress.report(self._done / max(self._count, 1), f"{self._done} of {self._count} cases")
        if ended.failed:
            self._current.say(f"{ended.name}: {ended.reason}")


def answer_for(
    current: Session,
    *,
    count: int,
    skipped: Iterable[str],
    changed: Iterable[str],
    ends: Iterable[Ended],
) -> dict:
    """The counts and failures for the JSON answer; sets the exit code."""
    skipped, ends = list(skipped), list(ends)
    failures = {ended.name: ended.reason for ended in ends if ended.failed}
    done = len(ends) - len(failures)
    current.exit_code = code_of(len(failures), len(ends) + len(skipped))
    current.say(
        f"{done} of {count} cases done, {len(skipped)} finished before, {len(failures)} failed"
    )
    counts = {"cases": count, "done": done, "skipped": len(skipped)}
    return {**counts, "changed": list(changed), "failures": failures}
