"""The output folder of a case: its file names, written completely or not at all."""

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

from hybridreg.io.files import errors_of, name_for_itk, read_text, sha256_of, written_as
from hybridreg.io.working_folder import HIDDEN, held, sweep

MOVED = "moved.nii.gz"
MOVED_LABELS = "moved_labels.nii.gz"
TRANSFORM = "transform.h5"
INVERSE = "inverse.h5"
JACOBIAN = "jacobian.nii.gz"
MOMENTUM = "momentum.nii.gz"
UNCERTAINTY = "uncertainty.nii.gz"
FUSED = "fused.nii.gz"
RESULT = "result.json"
VIEWS = "views.npz"
LOG = "log.txt"
REPORT = "report.html"
COMPARISON = "comparison.json"


def check_output(path: str | Path, *, overwrite: bool = False):
    """Raises ValueError, before any work, if results cannot be written to a folder."""
    given, path = path, _real(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{given} is a file; the output is a folder: choose another name")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise ValueError(f"{path} exists already: choose another folder or give --overwrite")
        if not (path / RESULT).is_file():
            raise ValueError(
                f"{path} has files but no {RESULT}, so it was not written by hybridreg and is "
                "not overwritten: choose another folder"
            )
    parent = _existing(path.parent)
    if not parent.is_dir():
        raise ValueError(f"{parent} is not a folder: choose another output folder")
    try:
        os.rmdir(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        raise ValueError(
            f"{parent} is not writable ({error.strerror}): choose another output folder"
        ) from error


@contextmanager
def output_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that is renamed to ``path`` only when the block succeeds.

    Until then it is beside its final path under a hidden temporary name; after an error it is
    removed, and existing output is untouched; the remains of a killed process are removed by
    the next one that writes to that path. An OSError names the target path.
    """
    check_output(path, overwrite=overwrite)
    path = _real(path)
    made = _make_parents(path.parent)
    sweep(path.parent, HIDDEN)
    partial = Path(tempfile.mkdtemp(prefix=HIDDEN, dir=path.parent))
    try:
        os.chmod(partial, 0o777 & ~_umask())  # mkdtemp makes it private
        with written_as(path, partial):
            with held(partial):
                yield partial
            _move_into_place(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            folder.rmdir()
        raise


def registered_side(transform: str | Path, image: str | Path) -> str | None:
    """Which image of a registration this file is, "fixed" or "moving", by its hash.

    transform: its output folder, or its ``transform.h5`` there. None for another image, and if it
    cannot be determined: a transform elsewhere, images that were not files, twice the same file.
    """
    transform, image = Path(transform), Path(image)
    about = transform / RESULT if transform.is_dir() else transform.with_name(RESULT)
    known = about.is_file() and (transform.is_dir() or transform.name == TRANSFORM)
    if not known or not image.exists():
        return None
    with errors_of(about):
        inputs = json.loads(read_text(about)).get("inputs", {})
    sides = {inputs.get(side, {}).get("sha256"): side for side in ("fixed", "moving")}
    return sides.get(sha256_of(image)) if len(sides) == 2 else None


def write_json(path: Path, values: Mapping[str, Any]):
    """Strict JSON: numbers that are not finite become null."""
    text = json.dumps(finite(values), indent=2, ensure_ascii=False, allow_nan=False)
    # File names need not be valid text; other bytes are written as \\udcXX.
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _move_into_place(partial: Path, path: Path):
    if not path.exists():
        partial.rename(path)
        return
    old = partial.with_suffix(".old")
    path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _real(path: str | Path) -> Path:
    """The path with links resolved."""
    real = Path(os.path.realpath(path))
    try:
        linked = real.is_symlink()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: choose another output folder") from error
    with errors_of(path):
        name_for_itk(real)
    if linked:
        raise ValueError(f"{path} is a link that leads back to itself: choose another folder")
    return real


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _make_parents(path: Path) -> list[Path]:
    """Makes the folder and returns the folders that were made, the deepest first."""
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
    """The value for strict JSON: None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
