"""Training targets on disk: a Zarr 3 store with atomic writes.

Schema 1. Any Zarr 3 reader can read it::

    targets.zarr/
      zarr.json             attributes: {"hybridreg": {"schema": 1, "kind": ..., "settings": {...}}}
      images/<sha256>       array (C, z, y, x), float32; attributes: grid
      cases/<name>/         attributes: below
        displacement        array (D, z, y, x), float32, mm, components (x, y, z): see ``targets``
        momentum, ...       further arrays of the kind, all on the grid of the case

    attributes of a case
      grid                  {"shape", "spacing", "origin", "direction"} of ``geometry.Grid``, LPS mm
      images                {"fixed", "moving", "fixed_on_grid", "moving_on_grid"} -> <sha256>
      affine                (D+1, D+1) rows; T(x) = affine(x + displacement(x)), fixed -> moving
      ...                   what the kind says: energy, residual_mm, verdict, seed, versions, inputs

An image is stored once, under the hash of its values and its grid. ``fixed_on_grid`` and
``moving_on_grid`` are the fixed image and the moving image through the affine, both sampled on the
grid of the target: the input of a network. Arrays are in chunks of 32 voxels within one file each,
with checksums; a missing chunk reads as NaN, and so is detected.

A case or an image is written under a temporary name, in ``targets.zarr.partial`` beside the store,
and renamed when it is complete. The store contains no times, dates or host names, so that the same
cases always make the same store, in any order and with any number of interruptions. Needs a file
system with POSIX renames and locks.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.codecs import BloscCodec, Crc32cCodec

from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.files import errors_of, written_as
from hybridreg.io.settings import as_in_json, check_same_settings
from hybridreg.transforms import AffineTransform

SCHEMA = 1
CHUNK = 32  # voxels along an axis: a patch of 15 touches one chunk, or two, along each
_ROOT = "hybridreg"
_DAMAGE = (KeyError, TypeError, ValueError, RuntimeError, OSError)


@dataclass(frozen=True, eq=False)
class StoredTarget:
    """The metadata of a finished case.

    images: role -> hash. affine: fixed -> moving, the part of the transform that is not in the
    arrays. attributes: as written. array_names: the arrays for ``TargetStore.array``.
    """

    name: str
    grid: Grid
    images: Mapping[str, str]
    affine: AffineTransform
    attributes: Mapping[str, Any]
    array_names: tuple[str, ...]


@dataclass(frozen=True)
class TargetStore:
    """A store of targets of one kind, all made with the same settings."""

    path: Path
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def open(cls, path: str | Path) -> TargetStore:
        """The store at a path (ValueError if there is none that this version can read)."""
        path = Path(path)
        with errors_of(path):
            if not path.exists():
                raise ValueError("there is no such store")
            about = _root_attributes(path)
            if about["schema"] != SCHEMA:
                raise ValueError(
                    f"this store has schema {about['schema']} and this version of hybridreg reads "
                    f"{SCHEMA}: use the version that wrote it, or make the store anew"
                )
            return cls(path, about["kind"], about["settings"])

    @classmethod
    def begin(cls, path: str | Path, kind: str, settings: Mapping[str, Any]) -> TargetStore:
        """A new store, or the one at the path if it was started with the same kind and settings."""
        path, settings = Path(path), as_in_json(settings)
        if path.exists():
            store = cls.open(path)
            with errors_of(path):
                found = {"kind": store.kind, **store.settings}
                check_same_settings(found, {"kind": kind, **settings})
            return store
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent}: make it first")
        store = cls(path, kind, settings)
        with store._partial() as partial:
            about = {"schema": SCHEMA, "kind": kind, "settings": settings}
            root = zarr.create_group(partial, attributes={_ROOT: about})
            root.create_group("images")
            root.create_group("cases")
            partial.rename(path)
        return store

    @property
    def _partial_folder(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Locks the store for one run; the remains of a killed run are removed."""
        with (self.path / "zarr.json").open("r+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise ValueError(
                    f"{self.path}: another run is filling this store: wait for it, or stop it"
                ) from None
            shutil.rmtree(self._partial_folder, ignore_errors=True)
            try:
                yield
            finally:
                shutil.rmtree(self._partial_folder, ignore_errors=True)

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """A temporary folder on the store's own disk, removed afterwards unless it was moved."""
        with written_as(self.path, self._partial_folder):
            self._partial_folder.mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=self._partial_folder))
            try:
                yield folder / "new"
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def finished(self) -> list[str]:
        """The names of the finished cases, sorted."""
        with errors_of(self.path), _damage("its folder of cases"):
            return sorted(entry.name for entry in os.scandir(self.path / "cases") if entry.is_dir())

    def remove(self, names: Iterable[str]):
        """Removes cases, and the images that no other case uses."""
        names = list(names)
        if not names:
            return
        images = {image for name in names for image in self.read(name).images.values()}
        for name in names:
            self._take_away(self.path / "cases" / name)
        used = {image for name in self.finished() for image in self.read(name).images.values()}
        for image in images - used:
            self._take_away(self.path / "images" / image)

    def _take_away(self, place: Path):
        with self._partial() as partial:  # renamed first, so that no case is half removed
            place.rename(partial)
            shutil.rmtree(partial)

    def has(self, name: str) -> bool:
        """Whether a case is finished."""
        return (self.path / "cases" / name).is_dir()

    def write(
        self,
        name: str,
        *,
        grid: Grid,
        affine: AffineTransform,
        images: Mapping[str, Image],
        arrays: Mapping[str, Tensor],
        attributes: Mapping[str, Any],
    ):
        """Adds a case: its images if they are new, then the case itself, completely or not at all.

        arrays: shape (D or any, *grid.shape). attributes: values for JSON; no times, no host names.
        """
        for what, values in arrays.items():
            if tuple(values.shape[1:]) != grid.shape or not torch.isfinite(values).all():
                raise ValueError(
                    f"{what} of shape {tuple(values.shape)} is not finite or not on its grid "
                    f"{grid.shape}: it was not stored"
                )
        known = {"grid": asdict(grid), "affine": affine.matrix.tolist()}
        known["images"] = {role: self._add_image(image) for role, image in images.items()}
        with self._partial() as partial:
            zarr.create_group(partial, attributes=as_in_json({**attributes, **known}))
            for what, values in arrays.items():
                _write_array(partial / what, values)
            _move(partial, self.path / "cases" / name)

    def _add_image(self, image: Image) -> str:
        name = image_hash(image)
        place = self.path / "images" / name
        if not place.is_dir():
            with self._partial() as partial:
                _write_array(partial, image.data, {"grid": asdict(image.grid)})
                _move(partial, place)
        return name

    def read(self, name: str) -> StoredTarget:
        """The metadata of a finished case; its arrays are read by ``array``."""
        with self._errors_of_case(name):
            group = zarr.open_group(self.path / "cases" / name, mode="r")
            attributes = dict(group.attrs)
            return StoredTarget(
                name=name,
                grid=_grid(attributes["grid"]),
                images=dict(attributes["images"]),
                affine=AffineTransform(attributes["affine"]),
                attributes=attributes,
                array_names=tuple(sorted(group.array_keys())),
            )

    def array(self, name: str, what: str) -> Tensor:
        """An array of a case, (D, *grid.shape), float32."""
        with self._errors_of_case(name):
            return _read_array(self.path / "cases" / name / what)[0]

    def image(self, sha256: str) -> Image:
        """An image by its hash."""
        with errors_of(self.path), _damage(f"the image {sha256}"):
            data, attributes = _read_array(self.path / "images" / sha256)
            return Image(data, _grid(attributes["grid"]))

    @contextmanager
    def _errors_of_case(self, name: str) -> Iterator[None]:
        with errors_of(self.path):
            if not self.has(name):
                raise ValueError(f"there is no case {name!r} in this store")
            with _damage(f"the case {name}"):
                yield


def image_hash(image: Image) -> str:
    """SHA-256 of the values and the grid."""
    about = json.dumps({"grid": asdict(image.grid), "channels": image.channels}, sort_keys=True)
    digest = hashlib.sha256(about.encode())
    digest.update(np.ascontiguousarray(image.data.numpy(), dtype="<f4"))
    return digest.hexdigest()


def _write_array(path: Path, values: Tensor, attributes: Mapping[str, Any] | None = None):
    """Writes chunks within one file, constant ones too, since missing chunks mean damage."""
    chunks = (len(values), *[CHUNK] * (values.ndim - 1))
    whole = (len(values), *[-(-n // CHUNK) * CHUNK for n in values.shape[1:]])
    array = zarr.create_array(
        path,
        shape=tuple(values.shape),
        chunks=chunks,
        shards=whole,
        dtype="float32",
        compressors=[
            BloscCodec(typesize=4, cname="zstd", clevel=1, shuffle="shuffle"),
            Crc32cCodec(),
        ],
        fill_value=float("nan"),
        attributes=as_in_json(attributes or {}),
        config={"write_empty_chunks": True},
    )
    array[...] = values.to(torch.float32).numpy()


def _read_array(path: Path) -> tuple[Tensor, dict[str, Any]]:
    array = zarr.open_array(path, mode="r")
    values = torch.from_numpy(array[...])
    if torch.isnan(values).any():
        raise ValueError("parts of an array are missing")
    return values, dict(array.attrs)


def _move(partial: Path, place: Path):
    """Renames a finished group; if another worker was faster, its group is identical."""
    try:
        partial.rename(place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """Turns errors while reading into a ValueError that says what is damaged and what to do."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(
            f"{what} is damaged ({type(error).__name__}: {error}): remove it, and the cases that "
            "use it, to have them made again"
        ) from error


def _root_attributes(path: Path) -> dict[str, Any]:
    foreign = "this is no store of training targets: choose another name"
    if not (path / "zarr.json").is_file():
        raise ValueError(foreign)
    try:
        about = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"][_ROOT]
        return {name: about[name] for name in ("schema", "kind", "settings")}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"its zarr.json is damaged ({error}): make the store anew") from error
    except (KeyError, TypeError):
        raise ValueError(foreign) from None


def _grid(about: Mapping[str, Any]) -> Grid:
    return Grid(**{name: about[name] for name in ("shape", "spacing", "origin", "direction")})
