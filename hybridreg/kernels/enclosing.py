"""Voxels that lie between marked ones along every axis: a body with its cavities."""

from __future__ import annotations

import numpy as np

from hybridreg.kernels.compiled import loops, over_slabs


def enclosed(marked: np.ndarray) -> np.ndarray:
    """Whether each voxel (bool, *shape) is marked, or lies between marked ones along every axis."""
    if marked.ndim == 3 and (compiled := loops("enclosing")):
        marked = np.ascontiguousarray(marked)
        nz, ny, nx = marked.shape
        first, last = np.empty((2, ny, nx), np.int32)
        over_slabs(compiled.ends, (ny, nz, nx), marked, first, last)
        out = np.empty_like(marked)
        over_slabs(compiled.enclosed, marked.shape, marked, first, last, out)
        return out
    inside = np.ones_like(marked)
    for axis in range(marked.ndim):
        seen, kept = np.moveaxis(marked, axis, 0), np.moveaxis(inside, axis, 0)
        kept &= np.logical_or.accumulate(seen)
        kept &= np.logical_or.accumulate(seen[::-1])[::-1]
    return inside
