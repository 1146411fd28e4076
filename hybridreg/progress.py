"""Progress of long computations, reported to an optional callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[float, str], None]

_listener: ContextVar[Listener | None] = ContextVar("progress_listener", default=None)


def report(fraction: float, doing: str):
    """Reports the fraction done in [0, 1] and the current step to the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(min(max(fraction, 0.0), 1.0), doing)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Sends the reports made inside the block to ``listener(fraction, doing)``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def within(start: float, stop: float, prefix: str = "") -> Iterator[None]:
    """Maps the progress inside the block to the part from start to stop of the whole."""
    outer = _listener.get()
    if outer is None:
        yield
        return

    def narrowed(fraction: float, doing: str):
        outer(start + fraction * (stop - start), prefix + doing)

    with listening(narrowed):
        yield
