"""The child process in which cases are computed: ``python -m hybridreg.cluster.child``.

Requests come on standard input: the number of bytes, then a pickled (function, name, case), as the
supervisor received it. Answers are lines of JSON on standard output. Output that the computation
prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from typing import BinaryIO, TextIO

from hybridreg.cluster.supervisor import HEADER

IDLE_S = 60.0  # without a request for this time, the process ends


def main():
    """Answers requests until standard input closes, which it also does when the supervisor dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the caller
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    questions: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, questions), daemon=True).start()
    while True:
        try:
            question = questions.get(timeout=IDLE_S)
        except queue.Empty:
            _end()
        _send(answers, {"started": True})
        _send(answers, _answer(question))


def _listen(stream: BinaryIO, questions: queue.Queue[bytes]):
    """Queues the requests, and ends the process at once when the input is closed."""
    while header := stream.read(HEADER):
        questions.put(stream.read(int.from_bytes(header, "big")))
    _end()


def _end():
    """Ends this process, whatever it is doing, and its child processes."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(0)


def _send(answers: TextIO, message: dict):
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _answer(question: bytes) -> dict:
    try:
        function, name, case = pickle.loads(question)
        return {"result": json.loads(json.dumps(function(name, case)))}
    except Exception as error:
        return {"error": _reason(error), "traceback": traceback.format_exc()}


def _reason(error: Exception) -> str:
    """Why a case failed, in one line; errors not caused by the input are named by their type."""
    base = sys.modules.get("hybridreg.methods.base")  # slow to load; unloaded, it raised nothing
    known = (ValueError,) if base is None else (ValueError, base.RegistrationError)
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"there is no file {error.filename}"
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or 'while writing'}"
    if isinstance(error, MemoryError):
        return "not enough memory: use coarser images or a machine with more"
    if isinstance(error, known):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
