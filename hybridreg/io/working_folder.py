"""A temporary folder that a killed process leaves behind only until the next one starts.

Its owner holds a lock on a file in it. The system lets go of the lock when the process ends, however
it ends, so a folder that can be locked by another has no owner any more. (Process numbers would not
do: they are used again, and mean nothing to another container that shares the folder.)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there and nothing swept
    fcntl = None

_LOCK = ".lock"


@contextmanager
def working_folder(prefix: str) -> Iterator[Path]:
    """A new folder in the place for temporary files, gone when the block ends.

    prefix: of its name. Folders of that prefix whose owners were killed are removed first.
    """
    _sweep(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        with _held(folder):
            yield folder


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Locks the folder; the lock takes its name only when it is held, or it could be taken first."""
    if fcntl is None:
        yield
        return
    with (folder / f"{_LOCK}.new").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(file.name, folder / _LOCK)
        yield


def _sweep(prefix: str):
    if fcntl is None:
        return
    for lock in Path(tempfile.gettempdir()).glob(f"{prefix}*/{_LOCK}"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # at work, another person's, or swept by somebody else just now
            continue
