"""Temporary folders whose remains after a kill are removed by the next process.

The owner of a folder holds a lock on a file in it. The system releases the lock when the process
ends, in whatever way, so a folder that another process can lock has no owner any more. (Process
numbers do not work: they are reused, and are not valid in another container with the same folder.)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows: without locks and removal
    fcntl = None

HIDDEN = ".hybridreg-"  # prefix of temporary folders beside their final path
_LOCK = ".lock"


@contextmanager
def working_folder(prefix: str, place: Path | None = None) -> Iterator[Path]:
    """A new temporary folder, by default among the system's, removed when the block ends.

    prefix: of its name. Folders of that prefix whose owners were killed are removed first.
    """
    sweep(place or Path(tempfile.gettempdir()), prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as name:
        folder = Path(name)
        with held(folder):
            yield folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps the folder from being swept inside the block; nothing of that is left in it after.

    The lock takes its name only when it is held, or it could be taken first. Where a file system
    has no locks the folder has none, and is never swept.
    """
    named, new = folder / _LOCK, folder / f"{_LOCK}.new"
    with new.open("w") as file:
        if _locked(file):
            os.rename(new, named)
        yield
    for path in (named, new):
        path.unlink(missing_ok=True)


def sweep(place: Path, prefix: str):
    """Removes the folders of that prefix in a place that a killed process held."""
    for lock in place.glob(f"{prefix}*/{_LOCK}"):
        try:
            with lock.open("r+") as file:
                if _locked(file):
                    shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # another person's, or swept by somebody else just now
            continue


def _locked(file: TextIO) -> bool:
    """Locks the file until it is closed; False if another process holds the lock."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
