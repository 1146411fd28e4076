"""Images interpolated as ITK does, in float64: at the voxels of another lattice, or at points."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner


@inner()
def _cell(place, count):
    """The lower neighbor of a place within the border, and how far beyond it that lies."""
    place = place if place > 0.0 else 0.0
    place = place if place < count - 1.0 else count - 1.0
    lower = min(np.int64(place), max(count - 2, 0))
    return lower, place - lower


@inner()
def _within(px, py, pz, shape):
    """Whether a continuous index lies inside the faces of the outermost voxels."""
    return (
        (px >= -0.5)
        and (px <= shape[3] - 0.5)
        and (py >= -0.5)
        and (py <= shape[2] - 0.5)
        and (pz >= -0.5)
        and (pz <= shape[1] - 0.5)
    )


@inner()
def _place(row, x, y, z):
    return row[0] * x + (row[1] * y + (row[2] * z + row[3]))


@inner()
def _linear(v, ix, iy, iz, wx, wy, wz):
    nz, ny, nx = v.shape
    jx, jy, jz = min(ix + 1, nx - 1), min(iy + 1, ny - 1), min(iz + 1, nz - 1)
    a0, a1 = np.float64(v[iz, iy, ix]), np.float64(v[iz, iy, jx])
    b0, b1 = np.float64(v[iz, jy, ix]), np.float64(v[iz, jy, jx])
    d0, d1 = np.float64(v[jz, iy, ix]), np.float64(v[jz, iy, jx])
    e0, e1 = np.float64(v[jz, jy, ix]), np.float64(v[jz, jy, jx])
    a, b = a0 + wx * (a1 - a0), b0 + wx * (b1 - b0)
    d, e = d0 + wx * (d1 - d0), e0 + wx * (e1 - e0)
    low, high = a + wy * (b - a), d + wy * (e - d)
    return low + wz * (high - low)


@inner()
def _displaced(matrix, vectors, scales, x, y, z):
    px, py, pz = _place(matrix[0], x, y, z), _place(matrix[1], x, y, z), _place(matrix[2], x, y, z)
    if vectors.shape[0]:
        u, v, w = vectors[0, z, y, x], vectors[1, z, y, x], vectors[2, z, y, x]
        px += scales[0, 0] * u + scales[0, 1] * v + scales[0, 2] * w
        py += scales[1, 0] * u + scales[1, 1] * v + scales[1, 2] * w
        pz += scales[2, 0] * u + scales[2, 1] * v + scales[2, 2] * w
    return px, py, pz


@compiled(
    "void(intp, intp, f4[:,:,:,::1], f8[:,::1], f4[:,:,:,::1], f8[:,::1], f8[::1], f4[:,:,:,::1])"
)
def linear(start, stop, values, matrix, vectors, scales, outside, out):
    """values (C, z, y, x) at index = matrix (x, y, z, 1) + scales u(x, y, z); outside:
    per channel.
    """
    _, nz, ny, nx = values.shape
    for z in range(start, stop):
        for y in range(out.shape[2]):
            for x in range(out.shape[3]):
                px, py, pz = _displaced(matrix, vectors, scales, x, y, z)
                if not _within(px, py, pz, values.shape):
                    out[:, z, y, x] = outside
                    continue
                ix, wx = _cell(px, nx)
                iy, wy = _cell(py, ny)
                iz, wz = _cell(pz, nz)
                for c in range(len(values)):
                    out[c, z, y, x] = _linear(values[c], ix, iy, iz, wx, wy, wz)


def _nearest(start, stop, values, matrix, vectors, scales, outside, out):
    """As ``linear``, with the value of the nearest voxel; halves go up, as in ITK."""
    _, nz, ny, nx = values.shape
    for z in range(start, stop):
        for y in range(out.shape[2]):
            for x in range(out.shape[3]):
                px, py, pz = _displaced(matrix, vectors, scales, x, y, z)
                if not _within(px, py, pz, values.shape):
                    out[:, z, y, x] = outside
                    continue
                ix = min(max(np.int64(np.floor(px + 0.5)), 0), nx - 1)
                iy = min(max(np.int64(np.floor(py + 0.5)), 0), ny - 1)
                iz = min(max(np.int64(np.floor(pz + 0.5)), 0), nz - 1)
                for c in range(len(values)):
                    out[c, z, y, x] = values[c, iz, iy, ix]


_NEAREST = (
    "void(intp, intp, {0}[:,:,:,::1], f8[:,::1], f4[:,:,:,::1], f8[:,::1], f8[::1], {0}[:,:,:,::1])"
)
nearest = compiled([_NEAREST.format(kind) for kind in ("f4", "i4")])(_nearest)


@compiled("void(intp, intp, f4[:,:,:,::1], f8[:,::1], f8[:,::1], f8[:,::1], b1[::1])")
def at_points(start, stop, values, matrix, points, out, inside):
    """values (C, z, y, x) at index = matrix (point, 1), and whether it lies inside."""
    _, nz, ny, nx = values.shape
    for i in range(start, stop):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        px, py = _place(matrix[0], x, y, z), _place(matrix[1], x, y, z)
        pz = _place(matrix[2], x, y, z)
        inside[i] = _within(px, py, pz, values.shape)
        ix, wx = _cell(px, nx)
        iy, wy = _cell(py, ny)
        iz, wz = _cell(pz, nz)
        for c in range(len(values)):
            out[c, i] = _linear(values[c], ix, iy, iz, wx, wy, wz)
