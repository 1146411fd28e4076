"""The parent's side of the child process: started, asked, watched, replaced, and ended.

elastix can kill the process it runs in, keeps every Python thread waiting, and takes seconds to
import. So it lives in a child that stays for many registrations: one per thread count.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import hybridreg

CASES = 200  # then a fresh child takes over, so that nothing can pile up in the old one
_POLL_S = 0.2


class ChildDied(Exception):
    """The child ended in the middle of its work; says how."""


class _Child:
    """One worker process and the pipes to it."""

    def __init__(self, threads: int | None):
        self.cases = 0
        self._answers: queue.Queue[str] = queue.Queue()
        self._complaints = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  see stop
        self._process = subprocess.Popen(
            # -P: files in the current folder must not stand in for modules
            [sys.executable, "-P", "-m", "hybridreg.methods.elastix.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
            env=_environment(threads),
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self):
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, job: dict, *, timeout_s: float | None, meanwhile: Callable[[], None]) -> dict:
        """The answer to a job. TimeoutError and ChildDied where there is none."""
        self.cases += 1
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildDied(self._last_words()) from None
        while True:
            try:
                answer = self._answers.get(timeout=_POLL_S)
            except queue.Empty:
                meanwhile()
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError from None
                continue
            if not answer:
                raise ChildDied(self._last_words())
            return json.loads(answer)

    def _last_words(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        self._complaints.seek(0)
        lines = self._complaints.read().strip().splitlines()
        return lines[-1] if lines else f"ended with code {code}"

    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self):
        """Ends the child at once, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            with suppress(BrokenPipeError):  # a question that the child did not live to read
                stream.close()

    def let_go(self):
        """Takes the pipes out of the hands of a forked process.

        While they are open there, the child would outlive its parent. They are not closed, since
        their locks may be held by a thread that did not come along in the fork.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (self._process.stdin, self._process.stdout):
            os.dup2(nothing, stream.fileno())
        os.close(nothing)


class Worker:
    """The place of one child, whichever it is at present; one question at a time."""

    def __init__(self, threads: int | None):
        self._threads = threads
        self._lock = threading.Lock()
        self._child: _Child | None = None

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
        """The child's answer. TimeoutError and ChildDied where there is none.

        meanwhile: called a few times a second while the child works.
        """
        with self._lock:
            child = self._living_child()
            try:
                answer = child.ask(job, timeout_s=timeout_s, meanwhile=meanwhile)
            except BaseException:  # also Ctrl-C: a child that still works is of no use any more
                self._drop()
                raise
            if child.cases >= CASES:
                self._drop()
            return answer

    @property
    def pid(self) -> int | None:
        """The number of the child's process, while there is one."""
        child = self._child
        return None if child is None else child.pid

    def _living_child(self) -> _Child:
        if self._child is not None and not self._child.is_alive():
            self._drop()
        if self._child is None:
            self._child = _Child(self._threads)
        return self._child

    def _drop(self):
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def close(self):
        """Ends the child, even one that another thread is waiting for."""
        self._drop()

    def forget(self):
        """Lets go of a child that belongs to the process this one was forked from."""
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
    """Ends all children of this process; the next question starts new ones."""
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
    environment = dict(os.environ)
    root = Path(hybridreg.__file__).parents[1]
    if root.name not in ("site-packages", "dist-packages"):  # the child finds those by itself
        paths = (str(root), os.environ.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    if threads is not None:
        environment["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    return environment
