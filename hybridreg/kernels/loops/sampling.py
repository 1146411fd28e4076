"""Linear interpolation at displaced voxels: coordinates a row at a time, then the gathers."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

ZERO = np.float32(0)


@inner()
def _coordinate(axis, z, y, vectors, first, steps, scales, shape, row):
    """Continuous indices into values along an axis, within their borders, of a row.

    The selects take what is not a number to the border too.
    """
    nx, last = len(row), np.float32(shape[2 - axis] - 1)
    base = np.float32(first[axis] + steps[axis, 1] * y + steps[axis, 2] * z)
    step = np.float32(steps[axis, 0])
    if vectors.shape[0] == 0:
        for x in range(nx):
            place = base + step * np.float32(x)
            place = place if place > ZERO else ZERO
            row[x] = place if place < last else last
    elif scales[axis, axis - 1] == ZERO and scales[axis, axis - 2] == ZERO:
        scale, u = scales[axis, axis], vectors[axis, z, y]
        for x in range(nx):
            place = base + step * np.float32(x) + scale * u[x]
            place = place if place > ZERO else ZERO
            row[x] = place if place < last else last
    else:
        u, v, w = vectors[0, z, y], vectors[1, z, y], vectors[2, z, y]
        a, b, c = scales[axis, 0], scales[axis, 1], scales[axis, 2]
        for x in range(nx):
            place = base + step * np.float32(x) + a * u[x] + b * v[x] + c * w[x]
            place = place if place > ZERO else ZERO
            row[x] = place if place < last else last


@inner()
def _coordinates(z, y, vectors, first, steps, scales, shape, places):
    """Along the axes x, y and z, in rows of ``places``."""
    for axis in range(3):
        _coordinate(axis, z, y, vectors, first, steps, scales, shape, places[axis])


@inner()
def _cells(places, shape, flat, weights):
    """Where the 8 neighbors begin in flat values, and the weights of the upper ones;
    from places.
    """
    nx = places.shape[1]
    stride = 1
    flat[:] = 0
    for axis in range(3):
        place, weight = places[axis], weights[axis]
        least = np.int32(max(shape[2 - axis] - 2, 0))
        wide = np.int32(stride)
        for x in range(nx):
            flat[x] += wide * min(np.int32(place[x]), least)
        for x in range(nx):
            weight[x] = place[x] - np.float32(min(np.int32(place[x]), least))
        stride *= shape[2 - axis]


@inner()
def _strides(shape):
    """To the upper neighbors along x, y and z in flat values."""
    return (
        np.uint64(1 if shape[2] > 1 else 0),
        np.uint64(shape[2] if shape[1] > 1 else 0),
        np.uint64(shape[1] * shape[2] if shape[0] > 1 else 0),
    )


@inner()
def _gather(v, flat, strides, weights, out):
    """Interpolates flat values v in the cells of a row."""
    wx, wy, wz = weights[0], weights[1], weights[2]
    dx, dy, dz = strides
    for x in range(len(out)):
        i = np.uint64(flat[x])
        a = v[i] + wx[x] * (v[i + dx] - v[i])
        i += dy
        b = v[i] + wx[x] * (v[i + dx] - v[i])
        i += dz
        d = v[i] + wx[x] * (v[i + dx] - v[i])
        i -= dy
        e = v[i] + wx[x] * (v[i + dx] - v[i])
        a += wy[x] * (b - a)
        e += wy[x] * (d - e)
        out[x] = a + wz[x] * (e - a)


@inner()
def _add_slopes(v, flat, strides, weights, factor, slopes):
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


@inner()
def _scaled(places, shape, scales, slopes, z, y, out):
    """The gradient by vectors, from that by the places; beyond the border values repeat."""
    for axis in range(3):
        place, slope = places[axis], slopes[axis]
        last = np.float32(shape[2 - axis] - 1)
        for x in range(len(slope)):
            slope[x] = slope[x] if place[x] > ZERO and place[x] < last else ZERO
    for component in range(3):
        row = out[component, z, y]
        row[:] = ZERO
        for axis in range(3):
            scale, slope = scales[axis, component], slopes[axis]
            for x in range(len(slope)):
                row[x] += scale * slope[x]


@compiled(
    "void(intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], f8[::1], f8[:,::1], f4[:,::1], boolean,"
    " f4[:,:,:,::1])"
)
def sample(start, stop, values, shape, vectors, first, steps, scales, added, out):
    """values (C, voxels) of this shape at first + steps (x, y, z) + scales u(x, y, z).

    added: add the vectors themselves to what is found.
    """
    nx = out.shape[3]
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    flat, strides = np.empty(nx, np.int32), _strides(shape)
    for z in range(start, stop):
        for y in range(out.shape[2]):
            _coordinates(z, y, vectors, first, steps, scales, shape, places)
            _cells(places, shape, flat, weights)
            for c in range(len(values)):
                row = out[c, z, y]
                _gather(values[c], flat, strides, weights, row)
                if added:
                    vector = vectors[c, z, y]
                    for x in range(nx):
                        row[x] += vector[x]


@compiled(
    "void(intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], f8[::1], f8[:,::1], f4[:,::1],"
    " f4[:,:,:,::1], f4[:,:,:,::1])"
)
def pulled_back(start, stop, values, shape, vectors, first, steps, scales, adjoint, out):
    """The gradient by the vectors (3, z, y, x) of the samples times an adjoint (C, z, y, x)."""
    nx = out.shape[3]
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    slopes, flat = np.empty((3, nx), np.float32), np.empty(nx, np.int32)
    strides = _strides(shape)
    for z in range(start, stop):
        for y in range(out.shape[2]):
            _coordinates(z, y, vectors, first, steps, scales, shape, places)
            _cells(places, shape, flat, weights)
            slopes[:] = ZERO
            for c in range(len(values)):
                _add_slopes(values[c], flat, strides, weights, adjoint[c, z, y], slopes)
            _scaled(places, shape, scales, slopes, z, y, out)
