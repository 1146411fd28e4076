"""Sums over all voxels: the gradient of samples with respect to an affine placement."""

import numpy as np

from hybridreg.kernels.loops import compiled
from hybridreg.kernels.loops.sampling import _add_slopes, _cells, _coordinates, _strides

ZERO = np.float32(0)


@compiled(
    "f8[:,:](intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], f8[::1], f8[:,::1], f4[:,::1],"
    " f4[:,:,:,::1])"
)
def gradient(start, stop, values, shape, vectors, first, steps, scales, adjoint):
    """Of the samples times an adjoint (C, z, y, x), with respect to first, steps and scales: (3,
    7).
    """
    _, _, ny, nx = adjoint.shape
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    slopes, flat = np.empty((3, nx), np.float32), np.empty(nx, np.int32)
    strides = _strides(shape)
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
                _add_slopes(values[c], flat, strides, weights, adjoint[c, z, y], slopes)
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
