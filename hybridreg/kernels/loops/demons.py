"""The Gauss-Newton step of squared differences at every voxel, limited in length."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

ONE, HALF, ZERO = np.float32(1), np.float32(0.5), np.float32(0)


@inner()
def _slope(low, high, other_low, other_high, scale, out):
    """Of the mean of two images."""
    for x in range(len(out)):
        out[x] = HALF * scale * ((high[x] - low[x]) + (other_high[x] - other_low[x]))


@inner()
def _slopes(f, m, z, y, spacing, out):
    """Central differences per mm along x, y and z, one-sided at the border, of a row."""
    nz, ny, nx = f.shape
    z0, z1 = max(z - 1, 0), min(z + 1, nz - 1)
    y0, y1 = max(y - 1, 0), min(y + 1, ny - 1)
    per_x = ONE / spacing[0]
    per_y = ONE / (spacing[1] * np.float32(max(y1 - y0, 1)))
    per_z = ONE / (spacing[2] * np.float32(max(z1 - z0, 1)))
    a, b = f[z, y], m[z, y]
    out[0, :] = ZERO
    if nx > 1:
        _slope(a[: nx - 2], a[2:], b[: nx - 2], b[2:], HALF * per_x, out[0, 1:-1])
        _slope(a[:1], a[1:], b[:1], b[1:], per_x, out[0, :1])
        _slope(a[nx - 2 :], a[nx - 1 :], b[nx - 2 :], b[nx - 1 :], per_x, out[0, nx - 1 :])
    _slope(f[z, y0], f[z, y1], m[z, y0], m[z, y1], per_y, out[1])
    _slope(f[z0, y], f[z1, y], m[z0, y], m[z1, y], per_z, out[2])


@inner()
def _gather(g, f, m, h, b, squares):
    """h += g g^T, b += g (f - m) and squares += (f - m)^2, of a row of one channel."""
    for x in range(len(f)):
        r = f[x] - m[x]
        h[0, x] += g[0, x] * g[0, x]
        h[1, x] += g[1, x] * g[1, x]
        h[2, x] += g[2, x] * g[2, x]
        h[3, x] += g[0, x] * g[1, x]
        h[4, x] += g[0, x] * g[2, x]
        h[5, x] += g[1, x] * g[2, x]
        b[0, x] += g[0, x] * r
        b[1, x] += g[1, x] * r
        b[2, x] += g[2, x] * r
        squares[x] += r * r


@compiled(
    "void(intp, intp, f4[:,:,:,::1], f4[:,:,:,::1], f4[:,:,::1], f4[::1], f8, f8, f4[:,:,:,::1])"
)
def steps(start, stop, fixed, moved, weight, spacing, damping, least, out):
    """out = (h + d I)^-1 b; d = damping squares, but at least a fraction of the trace of h."""
    _, _, ny, nx = fixed.shape
    g, h = np.empty((3, nx), np.float32), np.empty((6, nx), np.float32)
    b, squares = np.empty((3, nx), np.float32), np.empty(nx, np.float32)
    weighted = weight.shape[0] > 0
    for z in range(start, stop):
        for y in range(ny):
            h[:, :] = ZERO
            b[:, :] = ZERO
            squares[:] = ZERO
            for c in range(len(fixed)):
                _slopes(fixed[c], moved[c], z, y, spacing, g)
                _gather(g, fixed[c, z, y], moved[c, z, y], h, b, squares)
            for x in range(nx):
                w = np.float64(weight[z, y, x]) if weighted else 1.0
                p, q, r = w * h[0, x], w * h[1, x], w * h[2, x]
                s, t, u = w * h[3, x], w * h[4, x], w * h[5, x]
                d = max(damping * squares[x], least * (p + q + r))
                p, q, r = p + d, q + d, r + d
                pp, qq, rr = q * r - u * u, p * r - t * t, p * q - s * s
                ss, tt, uu = t * u - s * r, s * u - t * q, s * t - u * p
                det = p * pp + s * ss + t * tt
                scale = w / det if det > 0.0 else 0.0
                i, j, k = b[0, x], b[1, x], b[2, x]
                out[0, z, y, x] = scale * (pp * i + ss * j + tt * k)
                out[1, z, y, x] = scale * (ss * i + qq * j + uu * k)
                out[2, z, y, x] = scale * (tt * i + uu * j + rr * k)
