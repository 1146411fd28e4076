"""Runs each case of a worker in an expendable child process with limits of time and memory.

The worker itself computes nothing, so it neither grows nor dies with a case. Nothing here imports
Dask, torch or ITK.
"""

from __future__ import annotations

import json
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from hybridreg.child_process import ChildProcess, inherited

HEADER = 8  # bytes with the length of a request
CASES = 200  # per child process: then a new one bounds memory leaks
_CHILD = "hybridreg.cluster.child"
_POLL_S = 0.5  # measuring the memory takes 4 ms
# Set by Dask for its workers; a case would take a third longer with it.
_OF_DASK = {"MALLOC_TRIM_THRESHOLD_"}
_STARTS = 3  # attempts to start a child that dies before it starts the case


class ClusterError(RuntimeError):
    """The workers cannot be reached or were lost; the message says what to do."""


@dataclass(frozen=True)
class Limits:
    """Limits of one case; a case that exceeds them is ended and tried once more in a new process.

    time_s: wall seconds. memory_bytes: resident memory of the case's process and all that it
    started, together. None sets no limit. threads: for computation, in each process.
    """

    time_s: float | None = None
    memory_bytes: int | None = None
    threads: int = 1
    attempts: int = 2

    def __post_init__(self):
        for name in ("time_s", "memory_bytes", "threads", "attempts"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"the limit {name} must be more than 0, found {value}")


@dataclass(frozen=True)
class Ended:
    """How a case ended.

    result: what the function returned, as decoded from JSON; None if there is none.
    reason: why there is no result; empty if there is one. attempts: 2 where the first process died.
    seconds: wall. cpu_s: processor seconds of all attempts. peak_memory_bytes: the maximum resident
    memory of the case's process and all its child processes, together, sampled twice a second.
    details: the traceback, for a side log. host: where it ran.
    """

    name: str
    result: Mapping[str, Any] | None = None
    reason: str = ""
    attempts: int = 1
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    details: str = ""
    host: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.reason)


@dataclass
class _Usage:
    """What a case used so far, over all its attempts."""

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0


class _Died(Exception):
    """The child ended, or was ended, while computing; the text says why."""


class _Gone(Exception):
    """The child ended before it started the case; the text says how."""


def supervise(name: str, question: bytes, *, limits: Limits, run: str) -> dict[str, Any]:
    """Runs one case in a child process; the fields of ``Ended``.

    question: the pickled (function, name, case). run: its identifier for ``abandon``.
    """
    start, reason = time.monotonic(), ""
    answer: dict[str, Any] = {}
    usage, attempts = _Usage(), 0
    while attempts < limits.attempts and run not in _abandoned:
        attempts += 1
        try:
            answer = _ask(question, limits, run, usage)
            break
        except _Died as death:
            reason = str(death)
    return {
        "name": name,
        "result": answer.get("result"),
        "reason": answer.get("error", "" if answer else reason or "abandoned"),
        "attempts": attempts,
        "seconds": round(time.monotonic() - start, 3),
        "cpu_s": round(usage.cpu_s, 2),
        "peak_memory_bytes": usage.peak_memory_bytes,
        "details": answer.get("traceback", ""),
        "host": socket.gethostname(),
    }


def abandon(run: str):
    """Ends all cases of a run that are being computed here, and accepts no more of it."""
    _abandoned.add(run)
    with _lock:
        children = [child for child, of_run in _busy.items() if of_run == run]
    for child in children:
        child.stop()
    while _idle:
        _idle.pop().stop()


def dask_setup(_worker):
    """Called by Dask in workers that we start: Ctrl-C is handled by the caller."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_lock = threading.Lock()
_idle: list[_Child] = []
_busy: dict[_Child, str] = {}
_abandoned: set[str] = set()


def _ask(question: bytes, limits: Limits, run: str, usage: _Usage) -> dict[str, Any]:
    """The answer of a child process; _Died if it ended without one."""
    for _ in range(_STARTS):
        try:
            with _child(limits.threads, run) as child:
                return child.ask(question, limits, usage)
        except _Gone as gone:
            ending = str(gone)
    raise _Died(f"its process could not be started: it {ending}")


@contextmanager
def _child(threads: int, run: str) -> Iterator[_Child]:
    """A child process for exclusive use; it is kept for the next case if it is still usable."""
    with _lock:
        fitting = [child for child in _idle if child.threads == threads]
        child = fitting[0] if fitting else _Child(threads)
        _idle[:] = [other for other in _idle if other is not child]
        _busy[child] = run
    try:
        yield child
    except BaseException:
        child.stop()
        raise
    finally:
        with _lock:
            del _busy[child]
            if child.is_sound() and run not in _abandoned:
                _idle.append(child)
            else:
                child.stop()


class _Child:
    """One process that computes cases."""

    def __init__(self, threads: int):
        self.threads, self.cases, self._cpu_s = threads, 0, 0.0
        # Ctrl-C is handled by the caller
        self._process = ChildProcess(_CHILD, _environment(threads), own_session=True)

    def ask(self, question: bytes, limits: Limits, usage: _Usage) -> dict[str, Any]:
        """The answer to a request, adding to ``usage``. _Gone or _Died if there is none."""
        try:
            self._process.ask(len(question).to_bytes(HEADER, "big") + question)
        except OSError:
            raise _Gone(self._how_it_ended()) from None
        if not self._next():  # the message that it has started
            raise _Gone(self._how_it_ended())
        self.cases += 1
        before = self._cpu_s = sum(map(_processor_s, self._tree()))
        try:
            answer = self._next(limits, usage)
        finally:
            usage.cpu_s += max(0.0, self._cpu_s - before)
        if not answer:
            raise _Died(f"its process {self._how_it_ended()}")
        return json.loads(answer)

    def _next(self, limits: Limits = Limits(), usage: _Usage | None = None) -> str:
        """The next line, empty if the child ended; _Died if it exceeded a limit."""
        start, usage = time.monotonic(), usage or _Usage()
        while True:
            try:
                answer = self._process.answer(wait_s=_POLL_S)
            except queue.Empty:
                self._check(time.monotonic() - start, limits, usage)
            else:
                self._measure(usage)
                return answer

    def _measure(self, usage: _Usage) -> int:
        """Resident bytes now; updates their maximum and the processor seconds so far."""
        tree = self._tree()
        used = sum(map(_resident, tree))
        usage.peak_memory_bytes = max(usage.peak_memory_bytes, used)
        self._cpu_s = max(self._cpu_s, sum(map(_processor_s, tree)))
        return used

    def _check(self, seconds: float, limits: Limits, usage: _Usage):
        used = self._measure(usage)
        if limits.time_s is not None and seconds > limits.time_s:
            raise _Died(f"it took longer than its limit of {limits.time_s:g} s")
        if limits.memory_bytes is not None and used > limits.memory_bytes:
            raise _Died(
                f"it used {used / 1e9:.2f} GB of memory, more than its limit of "
                f"{limits.memory_bytes / 1e9:.2f} GB"
            )

    def _tree(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _how_it_ended(self) -> str:
        """How the process ended."""
        code, complaint = self._process.last_words()
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL): the system does so when memory runs out"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with code {code}" + (f": {complaint}" if complaint else "")

    def is_sound(self) -> bool:
        """Whether it can compute another case."""
        return self._process.is_alive() and self.cases < CASES

    def stop(self):
        """Ends the process and all its child processes, whatever they are doing."""
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.stop()


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _processor_s(process: psutil.Process) -> float:
    """Processor seconds of the process and of its children that have ended."""
    try:
        return sum(process.cpu_times()[:4])
    except psutil.NoSuchProcess:
        return 0.0


def _environment(threads: int) -> dict[str, str]:
    """The environment of a child with so many compute threads in torch, NumPy and ITK."""
    kept = {k: v for k, v in inherited().items() if k not in _OF_DASK}
    names = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "ITK_GLOBAL_DEFAULT_NUMBER_OF")
    return kept | {f"{name}_THREADS": str(threads) for name in names}
