"""Differences of the neighborhoods of points in one image and of candidates around them in another."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner


@inner()
def _difference(a, b):
    total = np.float32(0)
    for c in range(len(a)):
        total += (a[c] - b[c]) * (a[c] - b[c])
    return total


@inner()
def _row(values, point, offset):
    z = min(max(point[0] + offset[0], 0), values.shape[0] - 1)
    y = min(max(point[1] + offset[1], 0), values.shape[1] - 1)
    x = min(max(point[2] + offset[2], 0), values.shape[2] - 1)
    return values[z, y, x]


@compiled(
    "void(intp, intp, f4[:,:,:,::1], f4[:,:,:,::1], i8[:,::1], i8[:,::1], i8[:,::1], f4[:,::1])"
)
def differences(start, stop, first, second, points, candidates, around, out):
    """Images are (z, y, x, C). Beyond the border values repeat."""
    scale = np.float32(1.0 / len(around))
    there = np.empty(3, np.int64)
    for n in range(start, stop):
        out[n, :] = np.float32(0)
        for k in range(len(around)):
            here = _row(first, points[n], around[k])
            for m in range(len(candidates)):
                for axis in range(3):
                    there[axis] = points[n, axis] + candidates[m, axis]
                out[n, m] += scale * _difference(here, _row(second, there, around[k]))
