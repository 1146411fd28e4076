"""The loops themselves, compiled when their module is imported (see ``compiled.loops``).

numba promotes float32 with int64 or a float literal to float64, hence the constants and casts. Rows
along x are contiguous; a loop over one with a single output needs no alias checks, so LLVM
vectorizes it.
"""

from functools import partial

from numba import njit

# A function that only others here call: without the entry from Python, a tenth less to compile.
inner = partial(
    njit, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)

compiled = partial(
    njit,
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "arcp", "nsz"},  # NaN stays NaN: it is tested for
)
