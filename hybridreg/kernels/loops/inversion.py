"""The inverse of x -> x + u(x), voxel by voxel: Newton's method that never gets worse."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
MIN_DETERMINANT = np.float32(0.05)  # determinant under which a step follows the error itself


@inner()
def _cell(place, count):
    """The lower neighbor of a place, and how far beyond it that lies."""
    place = place if place > ZERO else ZERO
    last = np.float32(count - 1)
    place = place if place < last else last
    lower = min(np.int64(place), max(count - 2, 0))
    return lower, place - np.float32(lower)


@inner()
def _error(u, x, y, z, w, slopes, error):
    """-(w + u(x + w)), its squared length, and the derivatives of u by (axis, component).

    u: components last, four of them, so that one instruction does for all.
    """
    nz, ny, nx, _ = u.shape
    ix, wx = _cell(x + w[0], nx)
    iy, wy = _cell(y + w[1], ny)
    iz, wz = _cell(z + w[2], nz)
    jx, jy, jz = min(ix + 1, nx - 1), min(iy + 1, ny - 1), min(iz + 1, nz - 1)
    a0, a1, b0, b1 = u[iz, iy, ix], u[iz, iy, jx], u[iz, jy, ix], u[iz, jy, jx]
    d0, d1, e0, e1 = u[jz, iy, ix], u[jz, iy, jx], u[jz, jy, ix], u[jz, jy, jx]
    for c in range(4):
        a, b = a0[c] + wx * (a1[c] - a0[c]), b0[c] + wx * (b1[c] - b0[c])
        d, e = d0[c] + wx * (d1[c] - d0[c]), e0[c] + wx * (e1[c] - e0[c])
        low, high = a + wy * (b - a), d + wy * (e - d)
        near = (a1[c] - a0[c]) + wy * ((b1[c] - b0[c]) - (a1[c] - a0[c]))
        far = (d1[c] - d0[c]) + wy * ((e1[c] - e0[c]) - (d1[c] - d0[c]))
        slopes[0, c] = near + wz * (far - near)
        slopes[1, c] = (b - a) + wz * ((e - d) - (b - a))
        slopes[2, c] = high - low
        error[c] = -(w[c] + low + wz * (high - low))
    return error[0] * error[0] + error[1] * error[1] + error[2] * error[2]


@inner()
def _newton(slopes, error, step):
    """step with (1 + slopes) step = error; the error itself where that is nearly singular."""
    a, b, c = ONE + slopes[0, 0], slopes[1, 0], slopes[2, 0]
    d, e, f = slopes[0, 1], ONE + slopes[1, 1], slopes[2, 1]
    g, h, i = slopes[0, 2], slopes[1, 2], ONE + slopes[2, 2]
    p, q, r = e * i - f * h, f * g - d * i, d * h - e * g
    determinant = a * p + b * q + c * r
    s, t, v = error[0], error[1], error[2]
    if determinant < MIN_DETERMINANT:
        step[0], step[1], step[2] = s, t, v
        return
    factor = ONE / determinant
    step[0] = factor * (p * s + (c * h - b * i) * t + (b * f - c * e) * v)
    step[1] = factor * (q * s + (a * i - c * g) * t + (c * d - a * f) * v)
    step[2] = factor * (r * s + (b * g - a * h) * t + (a * e - b * d) * v)


@inner()
def _solve(u, x, y, z, w, trial, slopes, error, step, tolerance, iterations):
    """Improves w; gives the squared error. A step that makes it worse is halved."""
    square = _error(u, x, y, z, w, slopes, error)
    new = True
    for _ in range(iterations):
        if not square > tolerance * tolerance:
            break
        if new:
            _newton(slopes, error, step)
        length = np.sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2])
        shorter = ONE / length if length > ONE else ONE
        for c in range(4):
            step[c] *= shorter
            trial[c] = w[c] + step[c]
        after = _error(u, x, y, z, trial, slopes, error)
        new = after < square
        if new:
            square = after
            for c in range(4):
                w[c] = trial[c]
        else:
            for c in range(4):
                step[c] *= HALF
    return square


@compiled("void(intp, intp, f4[:,:,:,::1], f4[:,:,:,::1], f4, intp)")
def inverted(start, stop, u, out, tolerance, iterations):
    """out: the inverse (3, z, y, x) of u (z, y, x, 4), the fourth component 0, both in voxels.

    Each voxel begins with what its neighbor along x found, and what the next slice changes there.
    """
    _, ny, nx, _ = u.shape
    w, other, trial = np.zeros(4, np.float32), np.zeros(4, np.float32), np.zeros(4, np.float32)
    error, step, slopes = (
        np.zeros(4, np.float32),
        np.zeros(4, np.float32),
        np.empty((3, 4), np.float32),
    )
    for z in range(start, stop):
        pz = np.float32(z)
        for y in range(ny):
            py = np.float32(y)
            for x in range(nx):
                px = np.float32(x)
                if x == 0:
                    w[:] = -u[z, y, x]
                elif z > start:
                    for c in range(3):
                        w[c] += out[c, z - 1, y, x] - out[c, z - 1, y, x - 1]
                square = _solve(u, px, py, pz, w, trial, slopes, error, step, tolerance, iterations)
                if square > tolerance * tolerance:
                    other[:] = -u[z, y, x]
                    again = _solve(
                        u, px, py, pz, other, trial, slopes, error, step, tolerance, iterations
                    )
                    if again < square:
                        w[:] = other
                out[:, z, y, x] = w[:3]
