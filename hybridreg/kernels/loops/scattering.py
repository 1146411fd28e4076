"""The gradient of samples by the values, which adds to the neighbors of every place."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner
from hybridreg.kernels.loops.sampling import (
    _add_slopes,
    _cells,
    _coordinate,
    _coordinates,
    _scaled,
    _strides,
)

ZERO = np.float32(0)


@inner()
def _scatter(row, flat, strides, weights, v):
    """The adjoint of ``_gather``: adds a row to flat values."""
    wx, wy, wz = weights[0], weights[1], weights[2]
    dx, dy, dz = strides
    for x in range(len(row)):
        i = np.uint64(flat[x])
        upper = wz[x] * row[x]
        lower = row[x] - upper
        b, d = wy[x] * lower, wy[x] * upper
        a, e = lower - b, upper - d
        v[i] += a - wx[x] * a
        v[i + dx] += wx[x] * a
        i += dy
        v[i] += b - wx[x] * b
        v[i + dx] += wx[x] * b
        i += dz
        v[i] += d - wx[x] * d
        v[i + dx] += wx[x] * d
        i -= dy
        v[i] += e - wx[x] * e
        v[i + dx] += wx[x] * e


@inner()
def _slices(start, stop, vectors, first, steps, scales, shape, row):
    """The slices of values, from the first to before the last, in which a slab is sampled."""
    low, high = shape[0], 0
    for z in range(start, stop):
        for y in range(vectors.shape[2]):
            _coordinate(2, z, y, vectors, first, steps, scales, shape, row)
            least, most = row[0], row[0]
            for x in range(len(row)):
                least, most = min(least, row[x]), max(most, row[x])
            low, high = min(low, int(least)), max(high, int(most))
    return min(low, max(shape[0] - 2, 0)), min(high + 2, shape[0])


@compiled(
    "Tuple((f4[:,:,:,::1], intp))(intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], "
    "f8[::1], f8[:,::1],"
    " f4[:,::1], f4[:,:,:,::1], f4[:,:,:,::1])"
)
def gradients(start, stop, values, shape, vectors, first, steps, scales, adjoint, out):
    """As ``pulled_back``; and the gradient by the values, of the slices that count,
    and their first.
    """
    nx = out.shape[3]
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    slopes, flat = np.empty((3, nx), np.float32), np.empty(nx, np.int32)
    strides = _strides(shape)
    low, high = _slices(start, stop, vectors, first, steps, scales, shape, slopes[0])
    by_values = np.zeros((len(values), high - low, shape[1], shape[2]), np.float32)
    into = by_values.reshape(len(values), -1)
    skipped = np.int32(low * shape[1] * shape[2])
    for z in range(start, stop):
        for y in range(out.shape[2]):
            _coordinates(z, y, vectors, first, steps, scales, shape, places)
            _cells(places, shape, flat, weights)
            slopes[:] = ZERO
            for c in range(len(values)):
                _add_slopes(values[c], flat, strides, weights, adjoint[c, z, y], slopes)
            _scaled(places, shape, scales, slopes, z, y, out)
            for x in range(nx):
                flat[x] -= skipped
            for c in range(len(values)):
                _scatter(adjoint[c, z, y], flat, strides, weights, into[c])
    return by_values, low
