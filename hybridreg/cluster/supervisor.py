"""What a worker does with a case: hands it to a child process, watches it, and may end it.

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

HEADER = 8  # bytes that tell the length of a question
CASES = 200  # then a fresh child takes over, so that nothing can pile up in the old one
_CHILD = "hybridreg.cluster.child"
_POLL_S = 0.5  # a look at the memory takes 4 ms
_OF_DASK = {"MALLOC_TRIM_THRESHOLD_"}  # what it sets for its workers: a case would take a third longer
_STARTS = 3  # of a child that dies before it begins with the case


class ClusterError(RuntimeError):
    """The place where cases should run is gone or was never there; says what to do."""


@dataclass(frozen=True)
class Limits:
    """What a case may use; what needs more is ended and tried once more in a fresh process.

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

    result: what the function gave, as it comes back from JSON; None where there is nothing.
    reason: why there is no result; empty where there is. attempts: 2 where the first process died.
    seconds: wall. cpu_s: processor seconds of all attempts. peak_memory_bytes: the most resident
    memory that was seen of the case's process and all that it started, together; twice a second.
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
    """The child ended, or was ended, in the middle of its work; says why."""


class _Gone(Exception):
    """The child ended before it began; says how."""


def supervise(name: str, question: bytes, *, limits: Limits, run: str) -> dict[str, Any]:
    """Runs one case in a child process; the fields of ``Ended``.

    question: the pickled (function, name, case). run: by which ``abandon`` knows it.
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
    """Ends all cases of a run that are being computed here, and takes no more of it."""
    _abandoned.add(run)
    with _lock:
        children = [child for child, of_run in _busy.items() if of_run == run]
    for child in children:
        child.stop()
    while _idle:
        _idle.pop().stop()


def dask_setup(_worker):
    """Called by Dask in workers that we start: Ctrl-C is the caller's to decide about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_lock = threading.Lock()
_idle: list[_Child] = []
_busy: dict[_Child, str] = {}
_abandoned: set[str] = set()


def _ask(question: bytes, limits: Limits, run: str, usage: _Usage) -> dict[str, Any]:
    """The answer of a child that lived to give it."""
    for _ in range(_STARTS):
        try:
            with _child(limits.threads, run) as child:
                return child.ask(question, limits, usage)
        except _Gone as gone:
            words = str(gone)
    raise _Died(f"its process could not be started: it {words}")


@contextmanager
def _child(threads: int, run: str) -> Iterator[_Child]:
    """One that nobody else uses meanwhile; it is kept for the next case if it is still sound."""
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
        # Ctrl-C is the caller's to decide about
        self._process = ChildProcess(_CHILD, _environment(threads), own_session=True)

    def ask(self, question: bytes, limits: Limits, usage: _Usage) -> dict[str, Any]:
        """The answer to a question, and what it used. _Gone and _Died where there is none."""
        try:
            self._process.ask(len(question).to_bytes(HEADER, "big") + question)
        except OSError:
            raise _Gone(self._last_words()) from None
        if not self._next():  # it says that it has started
            raise _Gone(self._last_words())
        self.cases += 1
        before = self._cpu_s = sum(map(_processor_s, self._tree()))
        try:
            answer = self._next(limits, usage)
        finally:
            usage.cpu_s += max(0.0, self._cpu_s - before)
        if not answer:
            raise _Died(f"its process {self._last_words()}")
        return json.loads(answer)

    def _next(self, limits: Limits = Limits(), usage: _Usage | None = None) -> str:
        """The next line, empty where the child ended; _Died where it went beyond a limit."""
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
        """Resident bytes now, noted where they are the most; also the processor seconds so far."""
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

    def _last_words(self) -> str:
        """How the process ended."""
        code, complaint = self._process.last_words()
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL): the system does so when memory runs out"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with code {code}" + (f": {complaint}" if complaint else "")

    def is_sound(self) -> bool:
        """Whether the next case can be given to it."""
        return self._process.is_alive() and self.cases < CASES

    def stop(self):
        """Ends the process and all that it started, whatever they are doing."""
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
    """Of the process and of its children that have ended."""
    try:
        return sum(process.cpu_times()[:4])
    except psutil.NoSuchProcess:
        return 0.0


def _environment(threads: int) -> dict[str, str]:
    """One compute thread a case, or as many as it was given: in torch, NumPy and ITK alike."""
    kept = {k: v for k, v in inherited().items() if k not in _OF_DASK}
    names = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "ITK_GLOBAL_DEFAULT_NUMBER_OF")
    return kept | {f"{name}_THREADS": str(threads) for name in names}
