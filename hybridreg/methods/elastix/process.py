"""The parent's side of the child process: start, requests, replacement and end.

elastix can kill the process it runs in, blocks all Python threads, and takes seconds to
import. So it runs in a child that is reused for many registrations: one per thread count.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable

from hybridreg.child_process import ChildProcess, inherited

CASES = 200  # per child process: then a new one bounds memory leaks
_POLL_S = 0.2
_WORKER = "hybridreg.methods.elastix.worker"


class ChildDied(Exception):
    """The child ended during a registration; the text says how."""


def _answer(
    child: ChildProcess, job: dict, *, timeout_s: float | None, meanwhile: Callable[[], None]
) -> dict:
    """The answer to a job. TimeoutError or ChildDied if there is none."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        child.ask(json.dumps(job).encode() + b"\n")
    except BrokenPipeError:
        raise ChildDied(_last_words(child)) from None
    while True:
        try:
            answer = child.answer(wait_s=_POLL_S)
        except queue.Empty:
            meanwhile()
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError from None
            continue
        if not answer:
            raise ChildDied(_last_words(child))
        return json.loads(answer)


def _last_words(child: ChildProcess) -> str:
    code, complaint = child.last_words()
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return complaint or f"ended with code {code}"


class Worker:
    """Manages one child process, which is replaced when needed; one request at a time."""

    def __init__(self, threads: int | None):
        self._threads = threads
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._cases = 0  # that it was given

    def start(self):
        """Starts the child, if there is none, without waiting for it."""
        with self._lock:
            self._living_child()

    def ask(
        self,
        job: dict,
        *,
        timeout_s: float | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict:
        """The child's answer. TimeoutError or ChildDied if there is none.

        meanwhile: called a few times a second while the child works.
        """
        with self._lock:
            child = self._living_child()
            try:
                self._cases += 1
                answer = _answer(child, job, timeout_s=timeout_s, meanwhile=meanwhile)
            except BaseException:  # also Ctrl-C: a child that is still busy cannot be reused
                self._drop()
                raise
            if self._cases >= CASES:
                self._drop()
            return answer

    @property
    def pid(self) -> int | None:
        """The number of the child's process, while there is one."""
        child = self._child
        return None if child is None else child.pid

    def _living_child(self) -> ChildProcess:
        if self._child is not None and not self._child.is_alive():
            self._drop()
        if self._child is None:
            self._child, self._cases = ChildProcess(_WORKER, _environment(self._threads)), 0
        return self._child

    def _drop(self):
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def close(self):
        """Ends the child, even one that another thread is waiting for."""
        self._drop()

    def forget(self):
        """Releases a child that belongs to the process this one was forked from."""
        child, self._child = self._child, None
        if child is not None:
            child.let_go()


_workers: dict[int | None, Worker] = {}
_registry = threading.Lock()


def worker(threads: int | None) -> Worker:
    """The worker of this process for so many threads; None leaves their number to ITK."""
    with _registry:
        return _workers.setdefault(threads, Worker(threads))


def warm_up(threads: int | None = None):
    """Starts elastix ahead of its first use, without waiting: it takes some seconds to load."""
    worker(threads).start()


@atexit.register
def close():
    """Ends all children of this process; the next request starts new ones."""
    for each in list(_workers.values()):
        each.close()


def _after_fork():
    global _registry
    _registry = threading.Lock()
    for each in _workers.values():
        each.forget()
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _environment(threads: int | None) -> dict[str, str]:
    """The thread count goes this way alone: elastix crashes where it is set by its own function.

    (itk-elastix 0.25.4: B-spline registrations end in a segmentation fault.)
    """
    if threads is None:
        return inherited()
    return inherited() | {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads)}
