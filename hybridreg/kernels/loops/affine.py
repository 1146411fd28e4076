"""Sums over all voxels: the gradient of samples with respect to an affine placement."""

import numpy as np
from numba import njit

from hybridreg.kernels.loops import compiled
from hybridreg.kernels.loops.sampling import _cells, _coordinates

ZERO = np.float32(0)


@njit(nogil=True, error_model="numpy")
def _slopes(v, flat, strides, weights, factor, slopes):
    """Adds factor times the derivatives of linear interpolation along the axes of values v."""
    wx, wy, wz = weights[0], weights[1], weights[2]
    dx, dy, dz = strides
    for x in range(len(factor)):
        i = np.uint64(flat[x])
        a0, a1 = v[i], v[i + dx]
        i += dy
        b0, b1 = v[i], v[i + dx]
        i += dz
        d0, d1 = v[i], v[i + dx]
        i -= dy
        e0, e1 = v[i], v[i + dx]
        a, b = a0 + wx[x] * (a1 - a0), b0 + wx[x] * (b1 - b0)
        e, d = e0 + wx[x] * (e1 - e0), d0 + wx[x] * (d1 - d0)
        low = (a1 - a0) + wy[x] * ((b1 - b0) - (a1 - a0))
        high = (e1 - e0) + wy[x] * ((d1 - d0) - (e1 - e0))
        slopes[0, x] += factor[x] * (low + wz[x] * (high - low))
        slopes[1, x] += factor[x] * ((b - a) + wz[x] * ((d - e) - (b - a)))
        slopes[2, x] += factor[x] * (e + wy[x] * (d - e) - a - wy[x] * (b - a))


@compiled(
    "f8[:,:](intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], f8[::1], f8[:,::1], f4[:,::1],"
    " f4[:,:,:,::1])"
)
def gradient(start, stop, values, shape, vectors, first, steps, scales, adjoint):
    """Of the samples times an adjoint (C, z, y, x), with respect to first, steps and scales: (3, 7)."""
    _, _, ny, nx = adjoint.shape
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    slopes, flat = np.empty((3, nx), np.float32), np.empty(nx, np.int32)
    strides = (
        np.uint64(1 if shape[2] > 1 else 0),
        np.uint64(shape[2] if shape[1] > 1 else 0),
        np.uint64(shape[1] * shape[2] if shape[0] > 1 else 0),
    )
    sums = np.zeros((3, 7))
    for z in range(start, stop):
        for y in range(ny):
            counts = False
            for c in range(len(values)):
                for x in range(nx):
                    counts |= adjoint[c, z, y, x] != ZERO
            if not counts:
                continue
            _coordinates(z, y, vectors, first, steps, scales, shape, places)
            _cells(places, shape, flat, weights)
            slopes[:] = ZERO
            for c in range(len(values)):
                _slopes(values[c], flat, strides, weights, adjoint[c, z, y], slopes)
            for axis in range(3):
                place, slope, row = places[axis], slopes[axis], sums[axis]
                last = np.float32(shape[2 - axis] - 1)
                for x in range(nx):  # beyond the border values repeat
                    slope[x] = slope[x] if place[x] > ZERO and place[x] < last else ZERO
                total, along = ZERO, ZERO
                for x in range(nx):
                    total += slope[x]
                for x in range(nx):
                    along += slope[x] * np.float32(x)
                row[0] += total
                row[1] += along
                row[2] += np.float64(total) * y
                row[3] += np.float64(total) * z
                if len(vectors) > 0:
                    for component in range(3):
                        vector = vectors[component, z, y]
                        total = ZERO
                        for x in range(nx):
                            total += slope[x] * vector[x]
                        row[4 + component] += total
    return sums
