"""Convolution with a symmetric window along z, y and x; beyond the border values repeat."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner


@inner()
def _along_row(row, window, padded, out):
    radius, nx = len(window) - 1, len(out)
    padded[:radius] = row[0]
    padded[radius : radius + nx] = row
    padded[radius + nx :] = row[nx - 1]
    for x in range(nx):
        out[x] = window[0] * row[x]
    for k in range(1, radius + 1):
        factor, left, right = window[k], padded[radius - k :], padded[radius + k :]
        for x in range(nx):
            out[x] += factor * (left[x] + right[x])


@compiled("void(intp, intp, f4[:,:,:,::1], f4[::1], f4[::1], f4[::1], f4[:,:,:,::1])")
def smooth(start, stop, values, along_x, along_y, along_z, out):
    """windows: the middle value, and what follows to one side."""
    _, nz, ny, nx = values.shape
    plane, row = np.empty((ny, nx), np.float32), np.empty(nx, np.float32)
    padded = np.empty(nx + 2 * (len(along_x) - 1), np.float32)
    for c in range(len(values)):
        for z in range(start, stop):
            for y in range(ny):
                into, here = plane[y], values[c, z, y]
                for x in range(nx):
                    into[x] = along_z[0] * here[x]
                for k in range(1, len(along_z)):
                    factor = along_z[k]
                    below, above = values[c, max(z - k, 0), y], values[c, min(z + k, nz - 1), y]
                    for x in range(nx):
                        into[x] += factor * (below[x] + above[x])
            for y in range(ny):
                here = plane[y]
                for x in range(nx):
                    row[x] = along_y[0] * here[x]
                for k in range(1, len(along_y)):
                    factor = along_y[k]
                    below, above = plane[max(y - k, 0)], plane[min(y + k, ny - 1)]
                    for x in range(nx):
                        row[x] += factor * (below[x] + above[x])
                _along_row(row, along_x, padded, out[c, z, y])
