"""Decimal points in files, independent of the locale of the calling program."""

from __future__ import annotations

import ctypes
import locale
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_process_locale = threading.RLock()


@contextmanager
def decimal_point() -> Iterator[None]:
    """Makes ITK read and write numbers with a decimal point; NRRD (SimpleITK 2.5) uses LC_NUMERIC.

    Only this thread is affected where the system allows that (Linux); elsewhere the whole process,
    one thread at a time.
    """
    if locale.localeconv()["decimal_point"] == ".":
        yield
    elif sys.platform == "linux":
        before = _use(_C_NUMBERS)
        try:
            yield
        finally:
            _use(before)
    else:
        with _process_locale:
            before = locale.setlocale(locale.LC_NUMERIC)
            locale.setlocale(locale.LC_NUMERIC, "C")
            try:
                yield
            finally:
                locale.setlocale(locale.LC_NUMERIC, before)


if sys.platform == "linux":
    _LIBC = ctypes.CDLL(None)
    _use, _new = _LIBC.uselocale, _LIBC.newlocale
    _use.argtypes, _use.restype = [ctypes.c_void_p], ctypes.c_void_p
    _new.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    _new.restype = ctypes.c_void_p
    _C_NUMBERS = _new(1 << locale.LC_NUMERIC, b"C", None)
