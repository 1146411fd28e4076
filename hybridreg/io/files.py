"""File helpers: error messages prefixed with the path, text, hashes and atomic writes.

Unreadable files are invalid input (ValueError, FileNotFoundError); errors while writing are an
OSError that names the file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from hybridreg.io.working_folder import HIDDEN, working_folder


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Prefixes the errors of a reader with the path as it was given."""
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


def sha256_of(path: Path) -> str:
    """Hash of a file together with the files that it refers to, or of a folder's files.

    It may refer to the voxels of a header (MetaImage, NRRD, NIfTI pairs) and to the initial
    transforms of elastix. A folder's files, including subfolders, are taken in order.
    """
    digest = hashlib.sha256()
    parts = sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else _parts(path)
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def sha256_of_all(paths: Iterable[Path]) -> dict[Path, str]:
    """``sha256_of`` of many files; each is read once, several in parallel."""
    different = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as threads:  # hashlib releases the GIL
        return dict(zip(different, threads.map(sha256_of, different), strict=True))


_NAMED_BESIDE = re.compile(
    rb"^\s*(?:ElementDataFile\s*=|data ?file\s*:|\(?InitialTransformParameters?FileName[\s=]+)"
    rb'\s*"?([^"\r\n]*?)"?\s*\)?\s*$',
    re.MULTILINE | re.IGNORECASE,
)
_HEADERS, _TEXTS, _PAIR = (".mha", ".mhd", ".nrrd", ".nhdr"), (".txt", ".toml"), (".hdr", ".img")


def _parts(path: Path) -> list[Path]:
    """The file, the files that it refers to, and so on."""
    if path.suffix.lower() in _PAIR:
        pair = [path.with_suffix(suffix) for suffix in _PAIR]
        return [path, *(part for part in pair if part != path and part.is_file())]
    parts = [path]
    for part in parts:  # grows
        if part.suffix.lower() not in (*_HEADERS, *_TEXTS):
            continue
        with part.open("rb") as file:
            start = file.read(-1 if part.suffix.lower() in _TEXTS else 1 << 16)
        for name in _NAMED_BESIDE.findall(start):
            plain = re.split(r"[\\/]", os.fsdecode(name))[-1]
            beside = part.with_name(plain) if plain.strip(".") else part
            if beside not in parts and beside.is_file():
                parts.append(beside)
    return parts


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Prefixes every ValueError of the block with the path."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path that is renamed to ``path`` only when the block succeeds."""
    if not os.path.isdir(path.parent):
        raise ValueError(f"there is no folder {path.parent}: make it first")
    if os.path.isdir(path):
        raise ValueError("this is a folder: choose another name")
    with written_as(path), working_folder(HIDDEN, path.parent) as folder:
        partial = folder / path.name
        yield partial
        os.replace(partial, path)


@contextmanager
def written_as(path: Path, stand_in: Path | None = None) -> Iterator[None]:
    """Makes an OSError name the target path instead of its temporary path.

    stand_in: the temporary folder that is filled before ``path`` exists.
    """
    try:
        yield
    except OSError as error:
        reason, name = error.strerror or str(error), str(path)
        if stand_in is not None and str(error.filename).startswith(str(stand_in)):
            name = str(error.filename).replace(str(stand_in), name, 1)
        raise OSError(error.errno or errno.EIO, reason, name) from error


def name_for_itk(path: Path) -> str:
    """The name for SimpleITK; a name that is not UTF-8 would end the process (2.5)."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not text in UTF-8: rename it (or its folder)") from None
    return str(path)


@contextmanager
def lower_ending(path: Path) -> Iterator[Path]:
    """The file, or a copy if its ending has capitals, which some readers do not support."""
    if path.suffix == path.suffix.lower():
        yield path
        return
    with working_folder("hybridreg-copy-") as folder:
        yield Path(shutil.copyfile(path, folder / f"copy{path.suffix.lower()}"))


def named_by_role(text: str, roles: Mapping[str, str]) -> str:
    """A text with paths, and what lies below them, replaced by their roles, such as "fixed"."""
    for path in sorted(roles, key=len, reverse=True):
        whole = rf"(?<![\w./-]){re.escape(path)}(?![\w-])"
        text = re.sub(whole + r"[^\s:;,'\"]*", roles[path], text)
    return text


def reserve(path: Path, count: int):
    """Allocates a file of ``count`` bytes: OSError if the disk is full.

    For libraries that ignore a full disk, or crash on it, and then overwrite the file.
    """
    with path.open("wb") as file:
        for start in range(0, count, 1 << 20):
            file.write(bytes(min(count - start, 1 << 20)))
