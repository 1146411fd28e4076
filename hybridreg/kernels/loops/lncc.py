"""Squared local correlation: running sums along z and y, direct sums along x."""

import numpy as np
from numba import njit

from hybridreg.kernels.loops import compiled

ZERO, HALF, TWO = np.float32(0), np.float32(0.5), np.float32(2)


@njit(nogil=True, error_model="numpy")
def _counts(n, radius, i):
    return min(i + radius, n - 1) - max(i - radius, 0) + 1


@njit(nogil=True, error_model="numpy")
def _window_sums(rows, sums, radius):
    """Along x; rows (K, nx + 2 radius), zero at both ends."""
    for k in range(len(sums)):
        row, out = rows[k], sums[k]
        out[:] = row[radius : radius + len(out)]
        for shift in range(1, radius + 1):
            left, right = row[radius - shift :], row[radius + shift :]
            for x in range(len(out)):
                out[x] += left[x] + right[x]


@njit(nogil=True, error_model="numpy")
def _add_rows(rows, columns, y, sign, radius):
    nx = columns.shape[2]
    for k in range(len(rows)):
        row, column = rows[k], columns[k, y]
        for x in range(nx):
            row[x + radius] += sign * column[x]


@njit(nogil=True, error_model="numpy")
def _add_products(columns, fixed, moved, sign):
    """The plane of f, m, f^2, m^2 and f m."""
    for y in range(fixed.shape[0]):
        f, m = fixed[y], moved[y]
        for k in range(5):
            out = columns[k, y]
            if k == 0:
                for x in range(len(f)):
                    out[x] += sign * f[x]
            elif k == 1:
                for x in range(len(f)):
                    out[x] += sign * m[x]
            elif k == 2:
                for x in range(len(f)):
                    out[x] += sign * (f[x] * f[x])
            elif k == 3:
                for x in range(len(f)):
                    out[x] += sign * (m[x] * m[x])
            else:
                for x in range(len(f)):
                    out[x] += sign * (f[x] * m[x])


@njit(nogil=True, error_model="numpy")
def _add_plane(columns, factors, z, sign):
    for k in range(len(columns)):
        for y in range(columns.shape[1]):
            out, row = columns[k, y], factors[k, z, y]
            for x in range(len(out)):
                out[x] += sign * row[x]


@compiled(
    "UniTuple(f8, 2)(intp, intp, f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[:,:,:,::1], intp, f4)"
)
def statistics(start, stop, fixed, moved, weight, factors, radius, noise):
    """The sums of c times weight and of weights; p, q and p f - q m, times weight over count.

    weight: shape 0 for all alike. See ``similarity._SquaredLocalCorrelation``.
    """
    nz, ny, nx = fixed.shape
    weighted = weight.shape[0] > 0
    one, minus = np.float32(1), np.float32(-1)
    columns = np.zeros((5, ny, nx), np.float32)
    sums, inverse = np.empty((5, nx), np.float32), np.empty(nx, np.float32)
    total, weights = 0.0, 0.0
    for z in range(max(start - radius, 0), min(start + radius, nz)):
        _add_products(columns, fixed[z], moved[z], one)
    for z in range(start, stop):
        if z + radius < nz:
            _add_products(columns, fixed[z + radius], moved[z + radius], one)
        if z > start and z - radius - 1 >= 0:
            _add_products(columns, fixed[z - radius - 1], moved[z - radius - 1], minus)
        rows = np.zeros((5, nx + 2 * radius), np.float32)
        for y in range(min(radius, ny)):
            _add_rows(rows, columns, y, one, radius)
        for y in range(ny):
            if y + radius < ny:
                _add_rows(rows, columns, y + radius, one, radius)
            if y - radius - 1 >= 0:
                _add_rows(rows, columns, y - radius - 1, minus, radius)
            _window_sums(rows, sums, radius)
            count = _counts(nz, radius, z) * _counts(ny, radius, y)
            for x in range(nx):
                inverse[x] = one / np.float32(count * _counts(nx, radius, x))
            f, m, ff, mm, fm = sums[0], sums[1], sums[2], sums[3], sums[4]
            p, q, constant = factors[0, z, y], factors[1, z, y], factors[2, z, y]
            for x in range(nx):
                f[x] *= inverse[x]
            for x in range(nx):
                m[x] *= inverse[x]
            for x in range(nx):
                ff[x] = max(ff[x] * inverse[x] - f[x] * f[x], ZERO)
            for x in range(nx):
                mm[x] = max(mm[x] * inverse[x] - m[x] * m[x], ZERO)
            for x in range(nx):
                fm[x] = fm[x] * inverse[x] - f[x] * m[x]
            for x in range(nx):
                mm[x] = one / (ff[x] * mm[x] + noise)
            for x in range(nx):
                p[x] = TWO * fm[x] * mm[x]
            for x in range(nx):
                q[x] = p[x] * fm[x] * ff[x] * mm[x]
            for x in range(nx):
                fm[x] *= HALF * p[x]
            if weighted:
                row = weight[z, y]
                for x in range(nx):
                    fm[x] *= row[x]
                for x in range(nx):
                    inverse[x] *= row[x]
                part = ZERO
                for x in range(nx):
                    part += row[x]
                weights += part
            else:
                weights += nx
            part = ZERO
            for x in range(nx):
                part += fm[x]
            total += part
            for x in range(nx):
                p[x] *= inverse[x]
            for x in range(nx):
                q[x] *= inverse[x]
            for x in range(nx):
                constant[x] = p[x] * f[x] - q[x] * m[x]
    return total, weights


@compiled("void(intp, intp, f4[:,:,::1], f4[:,:,::1], f4[:,:,:,::1], intp, f4, f4[:,:,::1])")
def gradient(start, stop, fixed, moved, factors, radius, adjoint, out):
    """Of what ``statistics`` gives, times an adjoint, by the moved image."""
    nz, ny, nx = fixed.shape
    one, minus = np.float32(1), np.float32(-1)
    columns, sums = np.zeros((3, ny, nx), np.float32), np.empty((3, nx), np.float32)
    for z in range(max(start - radius, 0), min(start + radius, nz)):
        _add_plane(columns, factors, z, one)
    for z in range(start, stop):
        if z + radius < nz:
            _add_plane(columns, factors, z + radius, one)
        if z > start and z - radius - 1 >= 0:
            _add_plane(columns, factors, z - radius - 1, minus)
        rows = np.zeros((3, nx + 2 * radius), np.float32)
        for y in range(min(radius, ny)):
            _add_rows(rows, columns, y, one, radius)
        for y in range(ny):
            if y + radius < ny:
                _add_rows(rows, columns, y + radius, one, radius)
            if y - radius - 1 >= 0:
                _add_rows(rows, columns, y - radius - 1, minus, radius)
            _window_sums(rows, sums, radius)
            p, q, constant = sums[0], sums[1], sums[2]
            f, m, row = fixed[z, y], moved[z, y], out[z, y]
            for x in range(nx):
                p[x] = f[x] * p[x] - constant[x]
            for x in range(nx):
                row[x] = (p[x] - m[x] * q[x]) * adjoint
