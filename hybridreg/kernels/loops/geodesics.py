"""The momentum of a geodesic at a later time, and its gradient; derivatives are periodic."""

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
from hybridreg.kernels.loops.scattering import _scatter, _slices

ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)


@inner()
def _jacobian(u, z, y, scales, out):
    """Rows of the Jacobian of x + u(x): entry (component i, axis j) is row 3 i + j."""
    _, nz, ny, nx = u.shape
    z0, z1 = (z - 1) % nz, (z + 1) % nz
    y0, y1 = (y - 1) % ny, (y + 1) % ny
    for c in range(3):
        here, half = u[c, z, y], HALF * scales[0, 0]
        along = out[3 * c]
        one = ONE if c == 0 else ZERO
        along[0] = half * (here[1 % nx] - here[nx - 1]) + one
        along[nx - 1] = half * (here[0] - here[max(nx - 2, 0)]) + one
        inner, high = along[1:], here[2:]
        for x in range(nx - 2):
            inner[x] = half * (high[x] - here[x]) + one
        low, high, along = u[c, z, y0], u[c, z, y1], out[3 * c + 1]
        one, half = ONE if c == 1 else ZERO, HALF * scales[1, 1]
        for x in range(nx):
            along[x] = half * (high[x] - low[x]) + one
        low, high, along = u[c, z0, y], u[c, z1, y], out[3 * c + 2]
        one, half = ONE if c == 2 else ZERO, HALF * scales[2, 2]
        for x in range(nx):
            along[x] = half * (high[x] - low[x]) + one


@inner()
def _cofactors(m, out):
    """The derivatives of the determinant by the entries."""
    for i in range(3):
        for j in range(3):
            a, b = m[3 * ((i + 1) % 3) + (j + 1) % 3], m[3 * ((i + 2) % 3) + (j + 2) % 3]
            c, d = m[3 * ((i + 1) % 3) + (j + 2) % 3], m[3 * ((i + 2) % 3) + (j + 1) % 3]
            row = out[3 * i + j]
            for x in range(len(row)):
                row[x] = a[x] * b[x] - c[x] * d[x]


@inner()
def _dot(a0, a1, a2, b0, b1, b2, out):
    for x in range(len(out)):
        out[x] = a0[x] * b0[x] + a1[x] * b1[x] + a2[x] * b2[x]


@compiled(
    "void(intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], f8[::1], f8[:,::1], f4[:,::1],"
    " f4[:,:,:,::1])"
)
def coadjoint(start, stop, momentum, shape, u, first, steps, scales, out):
    """|J| J^T m(x + u(x)), J the Jacobian of x + u(x); momentum: (3, voxels)."""
    nx = out.shape[3]
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    flat, carried = np.empty(nx, np.int32), np.empty((3, nx), np.float32)
    m, determinant = np.empty((9, nx), np.float32), np.empty(nx, np.float32)
    cofactors = np.empty((9, nx), np.float32)
    strides = _strides(shape)
    for z in range(start, stop):
        for y in range(out.shape[2]):
            _coordinates(z, y, u, first, steps, scales, shape, places)
            _cells(places, shape, flat, weights)
            for c in range(3):
                _gather(momentum[c], flat, strides, weights, carried[c])
            _jacobian(u, z, y, scales, m)
            _cofactors(m, cofactors)
            _dot(m[0], m[1], m[2], cofactors[0], cofactors[1], cofactors[2], determinant)
            for j in range(3):
                row = out[j, z, y]
                _dot(carried[0], carried[1], carried[2], m[j], m[3 + j], m[6 + j], row)
                for x in range(nx):
                    row[x] *= determinant[x]


@compiled(
    "Tuple((f4[:,:,:,::1], intp))(intp, intp, f4[:,::1], i8[::1], f4[:,:,:,::1], "
    "f8[::1], f8[:,::1],"
    " f4[:,::1], f4[:,:,:,::1], f4[:,:,:,::1], f4[:,:,:,::1])"
)
def coadjoint_gradient(
    start, stop, momentum, shape, u, first, steps, scales, adjoint, by_entries, out
):
    """Of ``coadjoint`` times an adjoint; by u without its derivatives to ``out``, by the entries of
    J.

    Gives that by the momentum, of the slices that count and their first.
    """
    nx = out.shape[3]
    places, weights = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    flat, carried = np.empty(nx, np.int32), np.empty((3, nx), np.float32)
    m, determinant = np.empty((9, nx), np.float32), np.empty(nx, np.float32)
    cofactors, product = np.empty((9, nx), np.float32), np.empty(nx, np.float32)
    spread, slopes = np.empty((3, nx), np.float32), np.empty((3, nx), np.float32)
    strides = _strides(shape)
    low, high = _slices(start, stop, u, first, steps, scales, shape, product)
    by_momentum = np.zeros((3, high - low, shape[1], shape[2]), np.float32)
    into = by_momentum.reshape(3, -1)
    skipped = np.int32(low * shape[1] * shape[2])
    for z in range(start, stop):
        for y in range(out.shape[2]):
            _coordinates(z, y, u, first, steps, scales, shape, places)
            _cells(places, shape, flat, weights)
            for c in range(3):
                _gather(momentum[c], flat, strides, weights, carried[c])
            _jacobian(u, z, y, scales, m)
            _cofactors(m, cofactors)
            _dot(m[0], m[1], m[2], cofactors[0], cofactors[1], cofactors[2], determinant)
            a0, a1, a2 = adjoint[0, z, y], adjoint[1, z, y], adjoint[2, z, y]
            for i in range(3):  # J a
                _dot(m[3 * i], m[3 * i + 1], m[3 * i + 2], a0, a1, a2, spread[i])
            _dot(carried[0], carried[1], carried[2], spread[0], spread[1], spread[2], product)
            for i in range(3):
                row = spread[i]
                for x in range(nx):
                    row[x] *= determinant[x]
            for i in range(3):
                for j in range(3):
                    row, of, cofactor = (
                        by_entries[3 * i + j, z, y],
                        adjoint[j, z, y],
                        cofactors[3 * i + j],
                    )
                    held = carried[i]
                    for x in range(nx):
                        row[x] = determinant[x] * held[x] * of[x] + product[x] * cofactor[x]
            slopes[:] = ZERO
            for c in range(3):
                _add_slopes(momentum[c], flat, strides, weights, spread[c], slopes)
            _scaled(places, shape, scales, slopes, z, y, out)
            for x in range(nx):
                flat[x] -= skipped
            for c in range(3):
                _scatter(spread[c], flat, strides, weights, into[c])
    return by_momentum, low


@compiled("void(intp, intp, f4[:,:,:,::1], f4[:,::1], f4[:,:,:,::1])")
def add_divergence(start, stop, by_entries, scales, out):
    """Adds the gradient by u of what its periodic central differences give, to (3, z, y, x)."""
    _, nz, ny, nx = out.shape
    for z in range(start, stop):
        z0, z1 = (z - 1) % nz, (z + 1) % nz
        for y in range(ny):
            y0, y1 = (y - 1) % ny, (y + 1) % ny
            for c in range(3):
                row, half = out[c, z, y], HALF * scales[0, 0]
                here = by_entries[3 * c, z, y]
                row[0] += half * (here[nx - 1] - here[1 % nx])
                row[nx - 1] += half * (here[max(nx - 2, 0)] - here[0])
                inner, high = row[1:], here[2:]
                for x in range(nx - 2):
                    inner[x] += half * (here[x] - high[x])
                low, high = by_entries[3 * c + 1, z, y0], by_entries[3 * c + 1, z, y1]
                half = HALF * scales[1, 1]
                for x in range(nx):
                    row[x] += half * (low[x] - high[x])
                low, high = by_entries[3 * c + 2, z0, y], by_entries[3 * c + 2, z1, y]
                half = HALF * scales[2, 2]
                for x in range(nx):
                    row[x] += half * (low[x] - high[x])
