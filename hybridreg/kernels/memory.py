"""Memory of freed arrays kept for the next ones, where the C library can."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

# bytes: the vectors of a brain at 1 mm have 64 MB; larger arrays are returned
_LARGEST_REUSED = 128 << 20
_KEPT = 512 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@cache
def reuse_freed_memory():
    """Once: arrays below 128 MB come from memory freed before, of which at most .5 GB is kept.

    glibc returns arrays above 32 MB to the system at once, and the first access to new memory takes
    as long as many a kernel. Nothing is changed where the environment sets a MALLOC_ variable or
    GLIBC_TUNABLES, nor with another C library.
    """
    if sys.platform != "linux" or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return
    if adjust := getattr(ctypes.CDLL(None), "mallopt", None):
        adjust(_MMAP_THRESHOLD, _LARGEST_REUSED)
        adjust(_TRIM_THRESHOLD, _KEPT)
