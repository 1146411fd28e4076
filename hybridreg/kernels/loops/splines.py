"""Uniform B-splines at scattered points, in float64."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner


@inner()
def _first(place, count, order, out):
    """The first of order + 1 neighbors along an axis, and their weights."""
    first = np.int64(np.floor(place - (order - 1) / 2))
    first = min(max(first, 0), count - order - 1)
    offset = place - first
    if order == 1:
        out[0], out[1] = 1 - offset, offset
    elif order == 2:
        t = offset - 1
        out[0], out[1], out[2] = (0.5 - t) ** 2 / 2, 0.75 - t * t, (0.5 + t) ** 2 / 2
    else:
        t = offset - 1
        s = 1 - t
        out[0], out[3] = s * s * s / 6, t * t * t / 6
        out[1] = 2 / 3 - t * t * (2 - t) / 2
        out[2] = 2 / 3 - s * s * (2 - s) / 2
    return first


@inner()
def _row(values, first, order, w):
    if order == 3:
        low = w[0] * values[first] + w[1] * values[first + 1]
        return low + (w[2] * values[first + 2] + w[3] * values[first + 3])
    total = w[0] * values[first] + w[1] * values[first + 1]
    return total + w[2] * values[first + 2] if order == 2 else total


@compiled("void(intp, intp, f8[:,:,:,::1], f8[:,::1], intp, f8[:,::1])")
def at_points(start, stop, coefficients, index, order, out):
    """Splines (C, z, y, x) at indices (N, 2 or 3) in (x, y, z) order; in 2D there is one slice."""
    channels, nz, ny, nx = coefficients.shape
    wx, wy, wz = np.zeros(4), np.zeros(4), np.zeros(4)
    for i in range(start, stop):
        fx, fy = _first(index[i, 0], nx, order, wx), _first(index[i, 1], ny, order, wy)
        fz, deep = 0, 1
        wz[0] = 1.0
        if index.shape[1] == 3:
            fz, deep = _first(index[i, 2], nz, order, wz), order + 1
        for c in range(channels):
            total = 0.0
            for kz in range(deep):
                plane = 0.0
                for ky in range(order + 1):
                    plane += wy[ky] * _row(coefficients[c, fz + kz, fy + ky], fx, order, wx)
                total += wz[kz] * plane
            out[i, c] = total
