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
def _displacement(u, x, y, z, found, slopes):
    """u, and its derivatives along the axes where ``slopes`` asks for them, in voxels."""
    _, nz, ny, nx = u.shape
    ix, wx = _cell(x, nx)
    iy, wy = _cell(y, ny)
    iz, wz = _cell(z, nz)
    jx, jy, jz = min(ix + 1, nx - 1), min(iy + 1, ny - 1), min(iz + 1, nz - 1)
    for c in range(3):
        a0, a1 = u[c, iz, iy, ix], u[c, iz, iy, jx]
        b0, b1 = u[c, iz, jy, ix], u[c, iz, jy, jx]
        d0, d1 = u[c, jz, iy, ix], u[c, jz, iy, jx]
        e0, e1 = u[c, jz, jy, ix], u[c, jz, jy, jx]
        a, b = a0 + wx * (a1 - a0), b0 + wx * (b1 - b0)
        d, e = d0 + wx * (d1 - d0), e0 + wx * (e1 - e0)
        low, high = a + wy * (b - a), d + wy * (e - d)
        found[c] = low + wz * (high - low)
        near = (a1 - a0) + wy * ((b1 - b0) - (a1 - a0))
        far = (d1 - d0) + wy * ((e1 - e0) - (d1 - d0))
        slopes[c, 0] = near + wz * (far - near)
        slopes[c, 1] = (b - a) + wz * ((e - d) - (b - a))
        slopes[c, 2] = high - low


@inner()
def _newton(slopes, error, step):
    """step with (1 + slopes) step = error; the error itself where that is nearly singular."""
    a, b, c = ONE + slopes[0, 0], slopes[0, 1], slopes[0, 2]
    d, e, f = slopes[1, 0], ONE + slopes[1, 1], slopes[1, 2]
    g, h, i = slopes[2, 0], slopes[2, 1], ONE + slopes[2, 2]
    p, q, r = e * i - f * h, f * g - d * i, d * h - e * g
    determinant = a * p + b * q + c * r
    if determinant < MIN_DETERMINANT:
        step[:] = error
        return
    s, t, v = error[0], error[1], error[2]
    step[0] = (p * s + (c * h - b * i) * t + (b * f - c * e) * v) / determinant
    step[1] = (q * s + (a * i - c * g) * t + (c * d - a * f) * v) / determinant
    step[2] = (r * s + (b * g - a * h) * t + (a * e - b * d) * v) / determinant


@inner()
def _error(u, x, y, z, w, found, slopes, error):
    """-(w + u(x + w)), and its squared length."""
    _displacement(u, x + w[0], y + w[1], z + w[2], found, slopes)
    for c in range(3):
        error[c] = -(w[c] + found[c])
    return error[0] * error[0] + error[1] * error[1] + error[2] * error[2]


@inner()
def _solve(u, x, y, z, w, trial, found, slopes, error, step, tolerance, iterations):
    """Improves w; gives the squared error. A step that makes it worse is halved."""
    square = _error(u, x, y, z, w, found, slopes, error)
    _newton(slopes, error, step)
    for _ in range(iterations):
        if not square > tolerance * tolerance:
            break
        length = np.sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2])
        if length > ONE:
            for c in range(3):
                step[c] /= length
        for c in range(3):
            trial[c] = w[c] + step[c]
        after = _error(u, x, y, z, trial, found, slopes, error)
        if after < square:
            square = after
            w[:] = trial
            _newton(slopes, error, step)
        else:
            for c in range(3):
                step[c] *= HALF
    return square


@compiled("void(intp, intp, f4[:,:,:,::1], f4[:,:,:,::1], f4, intp)")
def inverted(start, stop, u, out, tolerance, iterations):
    """u and its inverse in voxels. Each voxel begins with what its neighbor found."""
    _, _, ny, nx = u.shape
    w, other, trial = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    found, error, step = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    slopes = np.empty((3, 3), np.float32)
    for z in range(start, stop):
        pz = np.float32(z)
        for y in range(ny):
            py = np.float32(y)
            for x in range(nx):
                px = np.float32(x)
                if x == 0:
                    w[:] = -u[:, z, y, x]
                square = _solve(
                    u, px, py, pz, w, trial, found, slopes, error, step, tolerance, iterations
                )
                if square > tolerance * tolerance:
                    other[:] = -u[:, z, y, x]
                    again = _solve(
                        u, px, py, pz, other, trial, found, slopes, error, step, tolerance, iterations
                    )
                    if again < square:
                        w[:] = other
                out[:, z, y, x] = w
