"""An image sampled through the displacement of a coarser lattice, never stored at its own voxels."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner
from hybridreg.kernels.loops.sampling import (
    _add_slopes,
    _cells,
    _coordinates,
    _gather,
    _scaled,
    _strides,
)

ZERO, ONE = np.float32(0), np.float32(1)


@inner()
def _rows(coarse, c, z, y, lower, upper):
    """The four rows of the coarse lattice next to a fine one, and their weights."""
    iz, iy = int(lower[2, z]), int(lower[1, y])
    jz, jy = min(iz + 1, coarse.shape[1] - 1), min(iy + 1, coarse.shape[2] - 1)
    wz, wy = upper[2, z], upper[1, y]
    rows = coarse[c, iz, iy], coarse[c, iz, jy], coarse[c, jz, iy], coarse[c, jz, jy]
    low, high = ONE - wz, wz
    return rows, (low * (ONE - wy), low * wy, high * (ONE - wy), high * wy)


@inner()
def _refine(coarse, z, y, lower, upper, row, out):
    """A row of the fine displacement, (3, 1, 1, nx)."""
    nx, last = out.shape[3], coarse.shape[3] - 1
    lows, weights = lower[0], upper[0]
    for c in range(3):
        (a, b, d, e), (p, q, r, s) = _rows(coarse, c, z, y, lower, upper)
        for x in range(len(row)):
            row[x] = p * a[x] + q * b[x] + r * d[x] + s * e[x]
        into = out[c, 0, 0]
        for x in range(nx):
            i = lows[x]
            into[x] = row[i] + weights[x] * (row[min(i + 1, last)] - row[i])


@inner()
def _gather_back(fine, coarse, z, y, lower, upper, row):
    """The adjoint of ``_refine``: adds to the coarse displacement."""
    nx, last = fine.shape[3], coarse.shape[3] - 1
    lows, weights = lower[0], upper[0]
    for c in range(3):
        row[:] = ZERO
        given = fine[c, 0, 0]
        for x in range(nx):
            i = lows[x]
            high = weights[x] * given[x]
            row[i] += given[x] - high
            row[min(i + 1, last)] += high
        (a, b, d, e), (p, q, r, s) = _rows(coarse, c, z, y, lower, upper)
        for x in range(len(row)):
            a[x] += p * row[x]
        for x in range(len(row)):
            b[x] += q * row[x]
        for x in range(len(row)):
            d[x] += r * row[x]
        for x in range(len(row)):
            e[x] += s * row[x]


@inner()
def _cells_of_row(z, y, u, first, steps, scales, shape, moved_first, places, flat, weights):
    for axis in range(3):
        moved_first[axis] = first[axis] + steps[axis, 1] * y + steps[axis, 2] * z
    _coordinates(0, 0, u, moved_first, steps, scales, shape, places)
    _cells(places, shape, flat, weights)


@compiled(
    "void(intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], i4[:,::1], f4[:,::1], f8[::1], f8[:,::1],"
    " f4[:,::1], f4[:,:,:,::1])"
)
def sample(start, stop, values, shape, coarse, lower, upper, first, steps, scales, out):
    """values (C, voxels) of this shape at first + steps (x, y, z) + scales u(x, y, z).

    coarse: u. lower, upper: where each fine voxel lies in its lattice along x, y and z.
    """
    nx = out.shape[3]
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    u, row = np.empty((3, 1, 1, nx), np.float32), np.empty(coarse.shape[3], np.float32)
    flat, moved_first, strides = np.empty(nx, np.int32), np.empty(3), _strides(shape)
    for z in range(start, stop):
        for y in range(out.shape[2]):
            _refine(coarse, z, y, lower, upper, row, u)
            _cells_of_row(z, y, u, first, steps, scales, shape, moved_first, places, flat, weights)
            for c in range(len(values)):
                _gather(values[c], flat, strides, weights, out[c, z, y])


@compiled(
    "Tuple((f4[:,:,:,::1], intp))(intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], "
    "i4[:,::1], f4[:,::1],"
    " f8[::1], f8[:,::1], f4[:,::1], f4[:,:,:,::1])"
)
def gradient(start, stop, values, shape, coarse, lower, upper, first, steps, scales, adjoint):
    """Of the samples times an adjoint, by u: of the slices that count, and their first."""
    nx = adjoint.shape[3]
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    u, row = np.empty((3, 1, 1, nx), np.float32), np.empty(coarse.shape[3], np.float32)
    flat, moved_first, strides = np.empty(nx, np.int32), np.empty(3), _strides(shape)
    slopes = np.empty((3, nx), np.float32)
    low = int(lower[2, start])
    high = min(int(lower[2, stop - 1]) + 2, coarse.shape[1])
    found = np.zeros((3, high - low, coarse.shape[2], coarse.shape[3]), np.float32)
    inner = lower.copy()
    inner[2] -= np.int32(low)
    for z in range(start, stop):
        for y in range(adjoint.shape[2]):
            _refine(coarse, z, y, lower, upper, row, u)
            _cells_of_row(z, y, u, first, steps, scales, shape, moved_first, places, flat, weights)
            slopes[:] = ZERO
            for c in range(len(values)):
                _add_slopes(values[c], flat, strides, weights, adjoint[c, z, y], slopes)
            _scaled(places, shape, scales, slopes, 0, 0, u)
            _gather_back(u, found, z, y, inner, upper, row)
    return found, low
