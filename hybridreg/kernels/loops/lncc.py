"""Squared local correlation: running sums along z and y, direct sums along x.

What is summed lies side by side in one row of (nx + 2 radius) each, zero at its ends, so that one
loop does for all of it. Columns are sums along z, rows those along z and y.
"""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)


@inner()
def _count(n, radius, i):
    return min(i + radius, n - 1) - max(i - radius, 0) + 1


@inner()
def _window_sums(row, sums, radius):
    """Along x; row has 2 radius more."""
    n = len(sums)
    middle = row[radius:]
    for x in range(n):
        sums[x] = middle[x]
    for shift in range(1, radius + 1):
        left, right = row[radius - shift :], row[radius + shift :]
        for x in range(n):
            sums[x] += left[x] + right[x]


@inner()
def _next_row(row, columns, y, radius):
    """The row of y, from that of y - 1."""
    ny = len(columns)
    if y + radius < ny:
        added = columns[y + radius]
        for x in range(len(row)):
            row[x] += added[x]
    if y - radius - 1 >= 0:
        removed = columns[y - radius - 1]
        for x in range(len(row)):
            row[x] -= removed[x]


@inner()
def _first_row(row, columns, radius):
    """The row of y = -1."""
    row[:] = ZERO
    for y in range(min(radius, len(columns))):
        column = columns[y]
        for x in range(len(row)):
            row[x] += column[x]


@inner()
def _add_products(columns, fixed, moved, sign, radius):
    """The plane of f, m, f^2, m^2 and f m."""
    nx = fixed.shape[1]
    width = nx + 2 * radius
    for y in range(fixed.shape[0]):
        f, m = fixed[y], moved[y]
        first = columns[y, radius:]
        for x in range(nx):
            first[x] += sign * f[x]
        second = columns[y, radius + width :]
        for x in range(nx):
            second[x] += sign * m[x]
        third = columns[y, radius + 2 * width :]
        for x in range(nx):
            third[x] += sign * (f[x] * f[x])
        fourth = columns[y, radius + 3 * width :]
        for x in range(nx):
            fourth[x] += sign * (m[x] * m[x])
        fifth = columns[y, radius + 4 * width :]
        for x in range(nx):
            fifth[x] += sign * (f[x] * m[x])


@inner()
def _add_factors(columns, factors, z, sign, radius):
    nx = factors.shape[3]
    width = nx + 2 * radius
    for y in range(len(columns)):
        for k in range(3):
            out, row = columns[y, radius + k * width :], factors[k, z, y]
            for x in range(nx):
                out[x] += sign * row[x]


@compiled(
    "UniTuple(f8, 2)(intp, intp, f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[:,:,:,::1], intp, f4)"
)
def statistics(start, stop, fixed, moved, weight, factors, radius, noise):
    """The sums of c times weight and of weights; p, q and p f - q m, times weight over count.

    weight: shape 0 for all alike. See ``similarity._SquaredLocalCorrelation``.
    """
    nz, ny, nx = fixed.shape
    width = nx + 2 * radius
    weighted = weight.shape[0] > 0
    columns, row = np.zeros((ny, 5 * width), np.float32), np.empty(5 * width, np.float32)
    sums, inverse = np.empty(5 * width - 2 * radius, np.float32), np.empty(nx, np.float32)
    inverse_x = np.empty(nx, np.float32)
    for x in range(nx):
        inverse_x[x] = 1 / _count(nx, radius, x)
    total, weights = 0.0, 0.0
    for z in range(max(start - radius, 0), min(start + radius, nz)):
        _add_products(columns, fixed[z], moved[z], ONE, radius)
    for z in range(start, stop):
        if z + radius < nz:
            _add_products(columns, fixed[z + radius], moved[z + radius], ONE, radius)
        if z > start and z - radius - 1 >= 0:
            _add_products(columns, fixed[z - radius - 1], moved[z - radius - 1], -ONE, radius)
        _first_row(row, columns, radius)
        for y in range(ny):
            _next_row(row, columns, y, radius)
            _window_sums(row, sums, radius)
            per_slice = np.float32(1 / (_count(nz, radius, z) * _count(ny, radius, y)))
            for x in range(nx):
                inverse[x] = per_slice * inverse_x[x]
            f, m, ff = sums[:nx], sums[width : width + nx], sums[2 * width : 2 * width + nx]
            mm, fm = sums[3 * width : 3 * width + nx], sums[4 * width : 4 * width + nx]
            p, q, constant = factors[0, z, y], factors[1, z, y], factors[2, z, y]
            for x in range(nx):
                f[x] *= inverse[x]
            for x in range(nx):
                m[x] *= inverse[x]
            for x in range(nx):
                ff[x] = max(ff[x] * inverse[x] - f[x] * f[x], ZERO)
            for x in range(nx):
                fm[x] = fm[x] * inverse[x] - f[x] * m[x]
            for x in range(nx):
                mm[x] = ONE / (ff[x] * max(mm[x] * inverse[x] - m[x] * m[x], ZERO) + noise)
            if weighted:
                voxel_weight = weight[z, y]
                part = ZERO
                for x in range(nx):
                    part += voxel_weight[x]
                weights += part
                part = ZERO
                for x in range(nx):
                    part += voxel_weight[x] * fm[x] * fm[x] * mm[x]
                total += part
                for x in range(nx):
                    inverse[x] *= voxel_weight[x]
            else:
                weights += nx
                part = ZERO
                for x in range(nx):
                    part += fm[x] * fm[x] * mm[x]
                total += part
            for x in range(nx):
                q[x] = TWO * (fm[x] * mm[x]) * (fm[x] * mm[x]) * ff[x] * inverse[x]
            for x in range(nx):
                p[x] = TWO * (fm[x] * mm[x]) * inverse[x]
            for x in range(nx):
                constant[x] = p[x] * f[x] - q[x] * m[x]
    return total, weights


@compiled("void(intp, intp, f4[:,:,::1], f4[:,:,::1], f4[:,:,:,::1], intp, f4, f4[:,:,::1])")
def gradient(start, stop, fixed, moved, factors, radius, adjoint, out):
    """Of what ``statistics`` gives, times an adjoint, by the moved image."""
    nz, ny, nx = fixed.shape
    width = nx + 2 * radius
    columns, row = np.zeros((ny, 3 * width), np.float32), np.empty(3 * width, np.float32)
    sums = np.empty(3 * width - 2 * radius, np.float32)
    for z in range(max(start - radius, 0), min(start + radius, nz)):
        _add_factors(columns, factors, z, ONE, radius)
    for z in range(start, stop):
        if z + radius < nz:
            _add_factors(columns, factors, z + radius, ONE, radius)
        if z > start and z - radius - 1 >= 0:
            _add_factors(columns, factors, z - radius - 1, -ONE, radius)
        _first_row(row, columns, radius)
        for y in range(ny):
            _next_row(row, columns, y, radius)
            _window_sums(row, sums, radius)
            p, q, constant = sums[:nx], sums[width : width + nx], sums[2 * width : 2 * width + nx]
            f, m, into = fixed[z, y], moved[z, y], out[z, y]
            for x in range(nx):
                p[x] = f[x] * p[x] - constant[x]
            for x in range(nx):
                into[x] = (p[x] - m[x] * q[x]) * adjoint
