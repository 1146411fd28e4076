"""What an iteration does between the measure and the map: a force, its momentum, a limited step."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

ONE, HALF = np.float32(1), np.float32(0.5)


@inner()
def _add(factor, low, high, scale, out):
    for x in range(len(out)):
        out[x] += factor[x] * (scale * (high[x] - low[x]))


@compiled("void(intp, intp, f4[:,:,:,::1], f4[:,:,:,::1], f4[::1], f4[:,:,:,::1])")
def force(start, stop, slopes, images, spacing, out):
    """slopes times the central differences of images per mm, one-sided at the border."""
    _, nz, ny, nx = images.shape
    for z in range(start, stop):
        z0, z1 = max(z - 1, 0), min(z + 1, nz - 1)
        per_z = ONE / (spacing[2] * np.float32(max(z1 - z0, 1)))
        for y in range(ny):
            y0, y1 = max(y - 1, 0), min(y + 1, ny - 1)
            per_y = ONE / (spacing[1] * np.float32(max(y1 - y0, 1)))
            per_x = ONE / spacing[0]
            for axis in range(3):
                out[axis, z, y, :] = np.float32(0)
            for c in range(len(images)):
                slope, row = slopes[c, z, y], images[c, z, y]
                if nx > 1:
                    _add(
                        slope[1 : nx - 1], row[: nx - 2], row[2:], HALF * per_x, out[0, z, y, 1:-1]
                    )
                    _add(slope[:1], row[:1], row[1:], per_x, out[0, z, y, :1])
                    _add(
                        slope[nx - 1 :], row[nx - 2 :], row[nx - 1 :], per_x, out[0, z, y, nx - 1 :]
                    )
                _add(slope, images[c, z, y0], images[c, z, y1], per_y, out[1, z, y])
                _add(slope, images[c, z0, y], images[c, z1, y], per_z, out[2, z, y])


@inner()
def _lengths(vectors, z, y, added, out):
    """sqrt(|v|^2 + added) of a row."""
    a, b, c = vectors[0, z, y], vectors[1, z, y], vectors[2, z, y]
    for x in range(len(out)):
        out[x] = np.sqrt(a[x] * a[x] + b[x] * b[x] + c[x] * c[x] + added)


@compiled("UniTuple(f8, 2)(intp, intp, f4[:,:,:,::1], f4[:,:,:,::1], f4)")
def gathered(start, stop, gathering, vectors, kept):
    """gathering <- kept gathering + vectors; gives its summed lengths and squared lengths."""
    nx = vectors.shape[3]
    lengths = np.empty(nx, np.float32)
    total, squares = 0.0, 0.0
    for z in range(start, stop):
        for y in range(vectors.shape[2]):
            for c in range(3):
                row, new = gathering[c, z, y], vectors[c, z, y]
                for x in range(nx):
                    row[x] = kept * row[x] + new[x]
            _lengths(gathering, z, y, np.float32(0), lengths)
            part, square = np.float32(0), np.float32(0)
            for x in range(nx):
                part += lengths[x]
            for x in range(nx):
                square += lengths[x] * lengths[x]
            total += part
            squares += square
    return total, squares


@compiled("void(intp, intp, f4[:,:,:,::1], f4, f4, f4[:,:,:,::1])")
def limited(start, stop, vectors, longest, soft, out):
    """longest v / sqrt(|v|^2 + soft^2)."""
    nx = vectors.shape[3]
    lengths = np.empty(nx, np.float32)
    for z in range(start, stop):
        for y in range(vectors.shape[2]):
            _lengths(vectors, z, y, soft * soft, lengths)
            for x in range(nx):
                lengths[x] = longest / lengths[x]
            for c in range(3):
                row, into = vectors[c, z, y], out[c, z, y]
                for x in range(nx):
                    into[x] = row[x] * lengths[x]
