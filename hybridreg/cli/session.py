"""Common behavior of all subcommands: progress, messages, JSON, and errors as exit codes."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

DONE, FAILED, WRONG_INPUT, VERDICT_FAIL, PARTLY_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def code_of(failed: int, count: int) -> int:
    """The exit code of many cases of which some failed."""
    return DONE if not failed else PARTLY_FAILED if failed < count else FAILED


class Session:
    """The output of a subcommand: its JSON answer, its exit code, and messages to the user."""

    def __init__(self, *, as_json: bool, quiet: bool):
        self.answer: dict[str, Any] = {}
        self.exit_code = DONE
        self._silent = quiet or as_json
        self._out = Console()

    def limit_threads(self, threads: int | None):
        """Limits the processor threads; loads torch, so it comes after all checks of the input."""
        if threads is not None:
            import torch

            torch.set_num_threads(threads)

    def say(self, text: str = ""):
        """Prints a line, unless the output is JSON or quiet."""
        if not self._silent:
            self._out.print(self._printable(text), highlight=False, markup=False, soft_wrap=True)

    def show(self, title: str, rows: list[tuple[str, ...]], header: tuple[str, ...] = ()):
        """Prints a small table, unless the output is JSON or quiet."""
        if self._silent or not rows:
            return
        table = Table(
            title=self._printable(title), title_justify="left", show_header=bool(header), box=None
        )
        for name in header or [""] * len(rows[0]):
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*[_escaped(self._printable(cell)) for cell in row])
        self._out.print(table)

    def _printable(self, value) -> str:
        """The text with characters escaped that the terminal cannot encode."""
        encoding = self._out.encoding
        return str(value).encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def session(*, as_json: bool = False, quiet: bool = False) -> Iterator[Session]:
    """Runs a subcommand: every error becomes one line on stderr and an exit code."""
    current = Session(as_json=as_json, quiet=quiet)
    error: str | None = None
    with ExitStack() as stack:
        stack.enter_context(_logs_on_stderr())
        stack.enter_context(_progress_bar(shown=not quiet and sys.stderr.isatty()))
        try:
            yield current
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            current.exit_code, error = INTERRUPTED, "interrupted"
        except Exception as caught:
            current.exit_code, error = _explain(caught)
            if os.environ.get("HYBRIDREG_DEBUG"):
                traceback.print_exc()
    if error is not None:
        current.answer = {"error": error}
        print(f"error: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({**_plain(current.answer), "exit_code": current.exit_code}))
    if current.exit_code:
        raise typer.Exit(current.exit_code)


def _explain(error: Exception) -> tuple[int, str]:
    if _is_failure(error):
        return FAILED, str(error)
    if isinstance(error, FileNotFoundError) and error.filename:
        return WRONG_INPUT, f"there is no file {error.filename}"
    if isinstance(error, (ValueError, FileNotFoundError)):
        return WRONG_INPUT, str(error)
    if isinstance(error, OSError):
        return FAILED, f"{error.strerror or error}: {error.filename or 'while writing'}"
    if isinstance(error, MemoryError):
        return FAILED, "not enough memory: use coarser images or a machine with more"
    return FAILED, (
        f"unexpected {type(error).__name__}: {error}. This is a bug in hybridreg; "
        "run again with HYBRIDREG_DEBUG=1 for the traceback to report"
    )


def _is_failure(error: Exception) -> bool:
    """Whether a tool failed, not its input; a class that was never loaded raised nothing."""
    for module, name in (
        ("hybridreg.methods.base", "RegistrationError"),
        ("hybridreg.cluster", "ClusterError"),
    ):
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return True
    return False


@contextmanager
def _logs_on_stderr() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger("hybridreg")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _progress_bar(*, shown: bool) -> Iterator[None]:
    """A bar on stderr with the remaining time, shown after two seconds."""
    if not shown:
        yield
        return
    import time

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from hybridreg.progress import listening

    bar = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=1.0)
    started = time.monotonic()

    def listener(fraction: float, doing: str):
        bar.update(task, completed=fraction, description=doing)
        if time.monotonic() - started > 2:
            bar.start()

    with listening(listener):
        try:
            yield
        finally:
            bar.stop()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _plain(value):
    from hybridreg.io.output import finite

    return finite(value) if isinstance(value, Mapping) else value
