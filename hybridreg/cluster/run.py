"""Runs a function on many cases and reports how each ended."""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from hybridreg.cluster.places import Local, Place
from hybridreg.cluster.supervisor import ClusterError, Ended, Limits, abandon, supervise

if TYPE_CHECKING:
    from distributed import Client, Future

_NO_WORKERS_S = 60.0  # without any worker, then the run fails
_POLL_S = 1.0

Function = Callable[[str, Any], Mapping[str, Any] | None]


def run(
    function: Function,
    cases: Mapping[str, Any],
    *,
    place: Place = Local(),
    limits: Limits = Limits(),
    callback: Callable[[Ended], None] = lambda ended: None,
    patience_s: float = _NO_WORKERS_S,
) -> list[Ended]:
    """Calls function(name, case) for every case, each in a supervised child process.

    function: returns a mapping that JSON can represent; large results belong in files. It runs in
        another process, so it and the case must be picklable; leave out finished cases.
    limits: of each case; without a memory limit the place sets one.
    callback: called with each case as it ends, in this process, in the order in which they end.
    patience_s: how long there may be no worker before the run fails.

    An exception makes a case fail with its text. A process that dies, or is ended for exceeding its
    time or memory, costs its case one of two attempts and nothing else. Ctrl-C ends everything that
    is running and leaves the cluster as it was. ClusterError if the place cannot be reached or is
    lost.

    In a script, call it under ``if __name__ == "__main__":``, since workers import the script.

    Dask pickles its own messages, and whoever can reach its port can run code as you: it listens
    on 127.0.0.1 unless configured otherwise. Results come back as JSON, and a case is
    unpickled only in the child process that its worker has started for it.
    """
    if not cases:
        return []
    if limits.memory_bytes is None:
        limits = replace(limits, memory_bytes=place.memory_bytes)
    name_of_run = uuid.uuid4().hex
    ended: list[Ended] = []
    with place.client() as client, client.as_current():
        _check_workers(client)
        try:
            for end in _results(client, function, cases, limits, name_of_run, patience_s):
                ended.append(end)
                callback(end)
        finally:
            with suppress(OSError, TimeoutError):
                client.run(abandon, name_of_run, on_error="ignore")
    return ended


def _results(
    client: Client,
    function: Function,
    cases: Mapping[str, Any],
    limits: Limits,
    run: str,
    patience_s: float,
) -> Iterator[Ended]:
    """The ends of all cases as they come; no more cases are out at a time than can be worked on."""
    import cloudpickle
    from distributed import wait

    waiting = iter(cases.items())
    pending: dict[Future, str] = {}
    last_seen = time.monotonic()
    while True:
        slots = sum(client.ncores().values())
        for name, case in islice(waiting, max(0, slots - len(pending))):
            question = cloudpickle.dumps((function, name, case), protocol=pickle.HIGHEST_PROTOCOL)
            future = client.submit(
                supervise, name, question, limits=limits, run=run, key=f"case-{run}-{name}"
            )
            pending[future] = name
        if slots:
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > patience_s:
            raise ClusterError(
                f"no worker has been there for {patience_s:g} s: see to the workers, then start "
                "again; finished cases are kept"
            )
        if not pending:
            if slots:
                return
            time.sleep(_POLL_S)
            continue
        with suppress(TimeoutError):
            wait(list(pending), timeout=_POLL_S, return_when="FIRST_COMPLETED")
        for future in [future for future in pending if future.done()]:
            yield _end(future, pending.pop(future))


def _end(future: Future, name: str) -> Ended:
    from distributed import CancelledError, KilledWorker

    try:
        return Ended(**future.result())
    except KilledWorker:
        return Ended(name, reason="the workers that had it died, twice", attempts=2)
    except CancelledError:
        raise ClusterError(
            "the connection to the scheduler was lost: start again; finished cases are kept"
        ) from None
    except (ImportError, AttributeError) as error:
        raise ClusterError(
            f"the workers cannot load hybridreg ({error}): install it where they run"
        ) from error


def _check_workers(client: Client):
    """Refuses workers that run another version than this one."""
    from importlib.metadata import version

    ours = version("hybridreg")
    with suppress(TimeoutError):
        found = client.run(version, "hybridreg", on_error="return")
        for worker, theirs in found.items():
            if theirs != ours:
                raise ClusterError(
                    f"the worker {worker} has hybridreg {theirs} and this is {ours}: install the "
                    "same version where it runs"
                )
