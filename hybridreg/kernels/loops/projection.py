"""Line integrals of a volume by Joseph's rule: a bilinear sample in each plane that a ray crosses.

A ray steps from plane to plane along the voxel axis w that it is steepest to; u and v are the other
two. It crosses plane k at u = first_u + slope_u k and v = first_v + slope_v k, so the derivatives
by the whole ray follow from five sums over the planes. All indices are voxels of a volume whose
outermost ones are 0.
"""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

EDGE = 1e-6  # voxels that are left out at the border, where the volume is 0
ZERO = np.float32(0)


@inner()
def _steepest(direction):
    a, b, c = abs(direction[0]), abs(direction[1]), abs(direction[2])
    if a >= b and a >= c:
        return 0
    return 1 if b >= c else 2


@inner()
def _narrowed(low, high, first, slope, last):
    """The part of low <= k <= high in which EDGE <= first + slope k <= last - EDGE."""
    if slope == 0.0:
        return (low, high) if EDGE <= first <= last - EDGE else (1.0, 0.0)
    a, b = (EDGE - first) / slope, (last - EDGE - first) / slope
    return max(low, min(a, b)), min(high, max(a, b))


@inner()
def _crossed(source, direction, shape, w, u, v, ray):
    """The planes first <= k < stop between source and end; ray: first and slope in u, then in v."""
    at, step = source[w], direction[w]
    ray[1], ray[3] = direction[u] / step, direction[v] / step
    ray[0], ray[2] = source[u] - ray[1] * at, source[v] - ray[3] * at
    low, high = max(0.0, min(at, at + step)), min(shape[2 - w] - 1.0, max(at, at + step))
    low, high = _narrowed(low, high, ray[0], ray[1], shape[2 - u] - 1.0)
    low, high = _narrowed(low, high, ray[2], ray[3], shape[2 - v] - 1.0)
    if not low <= high:  # NaN too
        return 0, 0
    return int(np.ceil(low)), int(np.floor(high)) + 1


@inner()
def _sum(values, first, stop, ray, pace, du, dv):
    """Of bilinear samples over the planes."""
    total = ZERO
    for k in range(first, stop):
        at_u, at_v = ray[0] + ray[1] * k, ray[2] + ray[3] * k
        iu, iv = np.int64(at_u), np.int64(at_v)
        a, b = np.float32(at_u - iu), np.float32(at_v - iv)
        i = np.uint64(k * pace + iu * du + iv * dv)
        low = values[i] + a * (values[i + du] - values[i])
        i += dv
        high = values[i] + a * (values[i + du] - values[i])
        total += low + b * (high - low)
    return total


@inner()
def _sums(values, first, stop, ray, pace, du, dv):
    """Over the planes, of the samples, their slopes in u and in v, and k times these."""
    total, in_u, in_v, far_u, far_v = ZERO, ZERO, ZERO, ZERO, ZERO
    for k in range(first, stop):
        at_u, at_v = ray[0] + ray[1] * k, ray[2] + ray[3] * k
        iu, iv = np.int64(at_u), np.int64(at_v)
        a, b = np.float32(at_u - iu), np.float32(at_v - iv)
        i = np.uint64(k * pace + iu * du + iv * dv)
        v00, v10 = values[i], values[i + du]
        i += dv
        v01, v11 = values[i], values[i + du]
        low, high = v00 + a * (v10 - v00), v01 + a * (v11 - v01)
        slope_u = (v10 - v00) + b * ((v11 - v01) - (v10 - v00))
        slope_v = high - low
        total += low + b * slope_v
        in_u += slope_u
        in_v += slope_v
        far_u += np.float32(k) * slope_u
        far_v += np.float32(k) * slope_v
    return total, in_u, in_v, far_u, far_v


_RAYS = "intp, intp, f4[:,::1], i8[::1], f8[:,::1], f8[:,::1]"


@compiled(f"void({_RAYS}, f4[:,::1])")
def integrals(start, stop, values, shape, sources, directions, out):
    """out (C, rays) of values (C, voxels) of this shape, per length of the direction.

    sources: (poses, 3); directions, from the source to the end of each ray: (poses * rays, 3).
    """
    count = len(directions) // len(sources)
    pace = np.array([1, shape[2], shape[1] * shape[2]])
    ray = np.empty(4)
    for n in range(start, stop):
        source, direction = sources[n // count], directions[n]
        w = _steepest(direction)
        u, v = (1 if w == 0 else 0), (1 if w == 2 else 2)
        first, end = _crossed(source, direction, shape, w, u, v, ray)
        for c in range(len(values)):
            total = _sum(
                values[c], first, end, ray, pace[w], np.uint64(pace[u]), np.uint64(pace[v])
            )
            out[c, n] = total / abs(direction[w])


@compiled(f"void({_RAYS}, f4[:,::1], f4[:,:,::1])")
def derivatives(start, stop, values, shape, sources, directions, out, slopes):
    """As ``integrals``, and slopes (C, rays, 6): by the source (x, y, z), by the direction (x, y,
    z).
    """
    count = len(directions) // len(sources)
    pace = np.array([1, shape[2], shape[1] * shape[2]])
    ray = np.empty(4)
    for n in range(start, stop):
        source, direction = sources[n // count], directions[n]
        w = _steepest(direction)
        u, v = (1 if w == 0 else 0), (1 if w == 2 else 2)
        first, end = _crossed(source, direction, shape, w, u, v, ray)
        step, at = direction[w], source[w]
        for c in range(len(values)):
            sums = _sums(
                values[c], first, end, ray, pace[w], np.uint64(pace[u]), np.uint64(pace[v])
            )
            total, slope = sums[0] / abs(step), slopes[c, n]
            in_u, in_v = sums[1] / abs(step), sums[2] / abs(step)
            turn_u = (sums[3] - at * sums[1]) / (step * abs(step))
            turn_v = (sums[4] - at * sums[2]) / (step * abs(step))
            out[c, n] = total
            slope[u], slope[v], slope[w] = in_u, in_v, -(ray[1] * in_u + ray[3] * in_v)
            slope[3 + u], slope[3 + v] = turn_u, turn_v
            slope[3 + w] = -total / step - ray[1] * turn_u - ray[3] * turn_v
