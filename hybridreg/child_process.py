"""Runs a module of this package in a child process that answers requests over pipes.

For libraries that may crash, hang or exhaust memory. Nothing here imports torch or ITK.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import hybridreg


class ChildProcess:
    """``python -m module``, which reads requests from standard input and answers with lines."""

    def __init__(self, module: str, environment: Mapping[str, str], *, own_session: bool = False):
        """environment: complete, see ``inherited``. own_session: Ctrl-C does not reach it."""
        self._answers: queue.Queue[str] = queue.Queue()
        self._complaints = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            # -P: files in the current folder must not stand in for modules
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=dict(environment),
            start_new_session=own_session,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self):
        for line in self._process.stdout:
            self._answers.put(line.decode())
        self._answers.put("")

    def ask(self, question: bytes):
        """Sends a request; OSError if the child has ended."""
        self._process.stdin.write(question)
        self._process.stdin.flush()

    def answer(self, *, wait_s: float) -> str:
        """The next line, empty if the child ended; ``queue.Empty`` if it takes longer."""
        return self._answers.get(timeout=wait_s)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def last_words(self) -> tuple[int, str]:
        """Its exit code, or minus the signal that ended it, and the last line of its stderr."""
        code = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().strip().splitlines()
        return code, lines[-1] if lines else ""

    def stop(self):
        """Ends the child at once, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            with suppress(BrokenPipeError):  # a request that the child did not read
                stream.close()

    def let_go(self):
        """Releases the pipes in a forked process.

        While they are open there, the child would outlive its parent. They are not closed, since
        their locks may be held by a thread that does not exist in the fork.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (self._process.stdin, self._process.stdout):
            os.dup2(nothing, stream.fileno())
        os.close(nothing)


def inherited() -> dict[str, str]:
    """The environment of this process, in which a child imports the same package."""
    environment = dict(os.environ)
    root = Path(hybridreg.__file__).parents[1]
    if root.name not in ("site-packages", "dist-packages"):  # always searched by the child
        paths = (str(root), os.environ.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment
