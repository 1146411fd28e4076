"""Compiled loops over CPU tensors: loaded at first use, run in slabs by a pool of threads.

A loop is a numba function (start, stop, *arguments) over the slices start to stop of the first
axis. Slabs depend on the shape alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.memory import reuse_freed_memory

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0  # loading cached code takes less
_SLAB_VOXELS = 1 << 15  # smaller slabs cost more in thread overhead than they gain
_off = False
_warned = threading.Event()

NO_WEIGHT = np.empty((0, 1, 1), np.float32)
"""The weight argument of loops if all voxels have equal weight."""


def loops(name: str, *tensors: Tensor) -> ModuleType | None:
    """The module ``loops.name``; None where torch computes instead.

    None for anything but float32 on the CPU, and, after one warning, if numba cannot compile or
    cache its code. The code is cached beside the package, or if that is read-only in the user's
    cache folder (numba's rules; NUMBA_CACHE_DIR names another).
    """
    if _off or any(t.device.type != "cpu" or t.dtype != torch.float32 for t in tensors):
        return None
    return _loaded(name)


@contextmanager
def torch_only() -> Iterator[None]:
    """Inside the block no loops are used; to compare them with torch."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


@cache
def _loaded(name: str) -> ModuleType | None:
    reuse_freed_memory()
    note = (
        "preparing the %s kernel; the first time it is compiled for this processor (some seconds)"
    )
    note_only = {"extra": {"about_case": False}}  # nothing that a report should warn of
    timer = threading.Timer(_PATIENCE_S, log.warning, (note, name), note_only)
    timer.daemon = True
    timer.start()
    try:
        return import_module(f"hybridreg.kernels.loops.{name}")
    except Exception as error:  # numba, LLVM and the cache may raise anything
        _warn_once(f"{type(error).__name__}: {error}".splitlines()[0])
        return None
    finally:
        timer.cancel()


def _warn_once(reason: str):
    if _warned.is_set():
        return
    _warned.set()
    log.warning(
        "computing with torch, several times slower, since numba could not compile or "
        "store its code "
        "(%s): check its installation, or set NUMBA_CACHE_DIR to a writable folder",
        reason,
    )


def over_slabs(
    loop: Callable,
    shape: tuple[int, ...],
    *arguments: Any,
    least: int = 1,
    threads: int | None = None,
) -> list[Any]:
    """What the loop gives for each slab of an array of this shape (z, y, x), in order.

    least: slices in a slab. threads: by default as many as torch uses.
    """
    height = max(least, math.ceil(_SLAB_VOXELS / math.prod(shape[1:])))
    slabs = [(start, min(start + height, shape[0])) for start in range(0, shape[0], height)]
    threads = min(threads or torch.get_num_threads(), len(slabs))
    if threads == 1:
        return [loop(*slab, *arguments) for slab in slabs]
    running = [_pool(threads).submit(loop, *slab, *arguments) for slab in slabs]
    return [future.result() for future in running]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    if hasattr(os, "register_at_fork"):  # threads do not survive in a forked child
        os.register_at_fork(after_in_child=_pool.cache_clear)
    return ThreadPoolExecutor(threads, thread_name_prefix="hybridreg-kernel")


# Loops see volumes: a 2D image (y, x) as (y, 1, x), so that its rows can be divided too.


def volume(values: Tensor) -> np.ndarray:
    """Values (C, *shape) as (C, z, y, x), without a copy where they are contiguous."""
    array = values.detach().contiguous().numpy()
    return array if array.ndim == 4 else array[:, :, None]


def vector_volume(vectors: Tensor) -> np.ndarray:
    """Vectors (D, *shape) as (3, z, y, x)."""
    array = volume(vectors)
    if len(array) == 3:
        return array
    return np.stack([array[0], np.zeros_like(array[0]), array[1]])


def flat_vectors(array: np.ndarray, dimension: int) -> Tensor:
    """What ``vector_volume`` made, as vectors (D, *shape) again."""
    found = torch.from_numpy(array)
    return found if dimension == 3 else found[::2, :, 0].contiguous()


def along_axes(values: tuple[float, ...], absent: float = 1.0) -> tuple[float, float, float]:
    """A number for each axis (x, y[, z]), extended to the axes of the volume."""
    return tuple(values) if len(values) == 3 else (values[0], absent, values[1])
