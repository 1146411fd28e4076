"""Mean squared differences of pairs of patches around each voxel, less the smallest of them."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

LARGE = np.float32(3e38)


@inner()
def _cut(row, reach, x, rows, out):
    """The mean of a window that the border cuts."""
    left, right = max(x - reach, 0), min(x + reach, len(row) - 1)
    total = np.float32(0)
    for k in range(left, right + 1):
        total += row[k]
    out[x] = total / (rows * np.float32(right - left + 1))


@compiled("void(intp, intp, f4[:,:,::1], i8[:,:,::1], i8[::1], f4[:,:,:,::1], f4[:,:,::1])")
def pair_distances(start, stop, values, pairs, radius, out, mean):
    """pairs: (pairs, 2, 3) steps to the centers of both patches. radius: of the patches; both (z,
    y, x).

    out: (pairs, z, y, x). mean: over the pairs, (z, y, x). Beyond the border values repeat in a
    patch's place, and windows are cut.
    """
    nz, ny, nx = values.shape
    rz, ry, rx = radius
    column = np.empty((ny, nx), np.float32)
    row = np.empty(nx, np.float32)
    fraction = np.float32(1) / np.float32(len(pairs))
    for z in range(start, stop):
        first, last = max(z - rz, 0), min(z + rz, nz - 1)
        for p in range(len(pairs)):
            (az, ay, ax), (bz, by, bx) = pairs[p, 0], pairs[p, 1]
            low, high = min(max(0, -ax, -bx), nx), max(min(nx, nx - ax, nx - bx), 0)
            low, high = min(low, high), max(low, high)
            column[:] = 0
            for k in range(first, last + 1):
                below, above = min(max(k + az, 0), nz - 1), min(max(k + bz, 0), nz - 1)
                for y in range(ny):
                    a = values[below, min(max(y + ay, 0), ny - 1)]
                    b = values[above, min(max(y + by, 0), ny - 1)]
                    into = column[y]
                    for x in range(low):
                        d = a[min(max(x + ax, 0), nx - 1)] - b[min(max(x + bx, 0), nx - 1)]
                        into[x] += d * d
                    left, right, inner = a[low + ax :], b[low + bx :], into[low:high]
                    for x in range(high - low):
                        d = left[x] - right[x]
                        inner[x] += d * d
                    for x in range(high, nx):
                        d = a[min(max(x + ax, 0), nx - 1)] - b[min(max(x + bx, 0), nx - 1)]
                        into[x] += d * d
            for y in range(ny):
                top, bottom = max(y - ry, 0), min(y + ry, ny - 1)
                row[:] = 0
                for k in range(top, bottom + 1):
                    here = column[k]
                    for x in range(nx):
                        row[x] += here[x]
                rows = np.float32((last - first + 1) * (bottom - top + 1))
                into = out[p, z, y]
                for x in range(min(rx, nx)):
                    _cut(row, rx, x, rows, into)
                for x in range(max(nx - rx, 0), nx):
                    _cut(row, rx, x, rows, into)
                whole = np.float32(1) / (rows * np.float32(2 * rx + 1))
                inner = into[rx : max(nx - rx, rx)]
                for x in range(len(inner)):
                    inner[x] = 0
                for k in range(2 * rx + 1):
                    shifted = row[k:]
                    for x in range(len(inner)):
                        inner[x] += shifted[x] * whole
        for y in range(ny):
            row[:] = LARGE
            for p in range(len(pairs)):
                here = out[p, z, y]
                for x in range(nx):
                    row[x] = min(row[x], here[x])
            total = mean[z, y]
            total[:] = 0
            for p in range(len(pairs)):
                here = out[p, z, y]
                for x in range(nx):
                    here[x] -= row[x]
                for x in range(nx):
                    total[x] += here[x] * fraction
