"""Checks of a subcommand before it loads anything heavy: files, names, and output paths."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hybridreg.choices import INITIALIZATIONS
from hybridreg.io.files import naming
from hybridreg.parameter_folder import parameter_folder
from hybridreg.registry import METHODS, Registry, unknown_name


def check_files(*paths: str | Path | Iterable[Path] | None):
    """Raises FileNotFoundError for an input file that does not exist; None is skipped."""
    for given in paths:
        for path in [given] if isinstance(given, (str, Path)) else given or []:
            with naming(path):
                os.stat(path)


def check_new_file(out: Path, *, overwrite: bool):
    """Raises ValueError unless a file can be written here without replacing one by accident."""
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already: choose another name or give --overwrite")
    if out.is_dir():
        raise ValueError(f"{out} is a folder: give the name of a file in it")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}: make it first")


def check_initial(initial: str | None) -> str | Path | None:
    """An initialization by name, or its file (FileNotFoundError for anything else)."""
    if initial in (None, *INITIALIZATIONS):
        return initial
    if not Path(initial).exists():
        raise FileNotFoundError(
            f"{initial}: there is no such file: give a transform file, or one of "
            f"{', '.join(INITIALIZATIONS)}"
        )
    return Path(initial)


def check_name(table: Registry, name: str | None, *, also: Iterable[str] = ()):
    """Raises ValueError for a name that is not in a table; nothing is loaded."""
    if name is not None and name not in table and name not in also:
        raise ValueError(unknown_name(f"there is no {table.kind}", name, [*also, *table]))


def check_method(name: str | None):
    """Raises ValueError unless a method is a preset, a name in the table, or a TOML file."""
    if name is not None and name.endswith(".toml"):
        check_files(name)
    else:
        presets = sorted(path.stem for path in parameter_folder().glob("*.toml"))
        check_name(METHODS, name, also=presets)
