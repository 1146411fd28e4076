"""Files by their name: in front of what went wrong, as text, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Puts the path, as it was given, before what any reader or writer has to say."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file: check its name and folder"
        ) from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_text(path: Path) -> str:
    """The text of a file, with or without byte order mark."""
    if not path.is_file():
        raise ValueError("there is no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("this is not a text file in UTF-8: is it another kind of file?") from error


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Begins every ValueError of the block with the path."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file, which takes its own name only when the block ends well."""
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: make it first")
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.", suffix=".partial", dir=path.parent
    ) as folder:
        partial = Path(folder) / path.name
        yield partial
        os.replace(partial, path)
