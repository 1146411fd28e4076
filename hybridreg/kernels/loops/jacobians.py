"""Derivatives of displacements, a row at a time, and their determinants."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

ZERO = np.float32(0)


@inner()
def _difference(low, high, scale, one, out):
    for x in range(len(out)):
        out[x] = scale * (high[x] - low[x]) + one


@inner()
def _difference_along_x(row, scale, one, out):
    nx = len(out)
    if nx == 1:
        out[0] = one
        return
    half = np.float32(0.5) * scale
    low, high = row, row[2:]
    inner = out[1:]
    for x in range(nx - 2):
        inner[x] = half * (high[x] - low[x]) + one
    out[0] = scale * (row[1] - row[0]) + one
    out[nx - 1] = scale * (row[nx - 1] - row[nx - 2]) + one


@compiled("float32(intp, intp, f4[:,:,:,::1], f4[::1], f4[:,:,::1])")
def determinants(start, stop, vectors, spacing, out):
    """Of x -> x + u(x); gives the least. Central differences, one-sided at the border."""
    _, nz, ny, nx = vectors.shape
    m = np.empty((9, nx), np.float32)
    one = np.float32(1)
    least = np.full(nx, np.inf, np.float32)
    for z in range(start, stop):
        z0, z1 = max(z - 1, 0), min(z + 1, nz - 1)
        for y in range(ny):
            y0, y1 = max(y - 1, 0), min(y + 1, ny - 1)
            per_y = one / (spacing[1] * np.float32(max(y1 - y0, 1)))
            per_z = one / (spacing[2] * np.float32(max(z1 - z0, 1)))
            for c in range(3):
                u = vectors[c]
                _difference_along_x(u[z, y], one / spacing[0], one if c == 0 else ZERO, m[3 * c])
                _difference(u[z, y0], u[z, y1], per_y, one if c == 1 else ZERO, m[3 * c + 1])
                _difference(u[z0, y], u[z1, y], per_z, one if c == 2 else ZERO, m[3 * c + 2])
            row = out[z, y]
            a, b, c0, d, e, f, g, h, i = m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]
            for x in range(nx):
                row[x] = a[x] * (e[x] * i[x] - f[x] * h[x])
            for x in range(nx):
                row[x] -= b[x] * (d[x] * i[x] - f[x] * g[x])
            for x in range(nx):
                row[x] += c0[x] * (d[x] * h[x] - e[x] * g[x])
            for x in range(nx):
                least[x] = min(least[x], row[x])
    return least.min()
