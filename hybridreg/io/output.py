"""The output folder of a case: every file name in one place, whole or absent."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOVED = "moved.nii.gz"
MOVED_LABELS = "moved_labels.nii.gz"
TRANSFORM = "transform.h5"
INVERSE = "inverse.h5"
JACOBIAN = "jacobian.nii.gz"
RESULT = "result.json"
VIEWS = "views.npz"
LOG = "log.txt"
REPORT = "report.html"


def check_output(path: str | Path, *, overwrite: bool = False):
    """Refuses, before any work, a place that results cannot go to (ValueError)."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; the output is a folder: choose another name")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise ValueError(f"{path} exists already: choose another folder or give --overwrite")
        if not (path / RESULT).is_file():
            raise ValueError(
                f"{path} has files but no {RESULT}, so it is no output of ours and is not "
                "overwritten: choose another folder"
            )
    parent = _existing(path.absolute().parent)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{parent} is not writable: choose another output folder")


@contextmanager
def output_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes its name only when the block ends well.

    Until then it lies beside its final place under a hidden temporary name; after an error nothing
    is left of it, and what was there before is untouched.
    """
    check_output(path, overwrite=overwrite)
    path = Path(path).absolute()
    made = _make_parents(path.parent)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        os.chmod(partial, 0o777 & ~_umask())  # mkdtemp makes it private
        yield partial
        _move_into_place(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            folder.rmdir()
        raise


def write_json(path: Path, values: Mapping[str, Any]):
    """Strict JSON: numbers that are not finite become null."""
    text = json.dumps(finite(values), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _move_into_place(partial: Path, path: Path):
    if not path.exists():
        partial.rename(path)
        return
    old = partial.with_suffix(".old")
    path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _make_parents(path: Path) -> list[Path]:
    """Makes the folder and gives the ones that were made, the deepest first."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir()
    return missing


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def finite(value):
    """The value as strict JSON can hold it: None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
