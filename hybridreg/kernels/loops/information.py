"""The joint histogram of two images, the moved one spread by cubic B-splines, and its gradient."""

import numpy as np

from hybridreg.kernels.loops import compiled, inner

ZERO, ONE, TWO, THREE, FOUR, SIX = (np.float32(n) for n in (0, 1, 2, 3, 4, 6))
HALF = np.float32(0.5)
END = np.float32(1e-3)


@inner()
def _places(row, low, scale, bins, out):
    top = np.float32(bins) - END
    for x in range(len(row)):
        place = (row[x] - low) * scale
        place = place if place > ZERO else ZERO  # NaN too
        out[x] = place if place < top else top


@compiled("f8[:,:](intp, intp, f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[::1], intp)")
def joint(start, stop, fixed, moved, weight, limits, bins):
    """Summed weights, (bins, bins + 3); limits: low and bins per unit, of fixed and moved.

    weight: shape 0 for all alike.
    """
    nx = fixed.shape[2]
    weighted = weight.shape[0] > 0
    sums = np.zeros((bins, bins + 3))
    rows, columns = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for z in range(start, stop):
        for y in range(fixed.shape[1]):
            _places(fixed[z, y], limits[0], limits[1], bins, rows)
            _places(moved[z, y], limits[2], limits[3], bins, columns)
            for x in range(nx):
                part_weight = weight[z, y, x] if weighted else ONE
                if part_weight == ZERO:
                    continue
                left = int(columns[x])
                t = columns[x] - np.float32(left)
                s = ONE - t
                out = sums[int(rows[x])]
                part_weight /= SIX
                out[left] += part_weight * (s * s * s)
                out[left + 1] += part_weight * (FOUR - SIX * t * t + THREE * t * t * t)
                out[left + 2] += part_weight * (FOUR - SIX * s * s + THREE * s * s * s)
                out[left + 3] += part_weight * (t * t * t)
    return sums


@compiled(
    "void(intp, intp, f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[::1], intp, f4[:,::1], f4[:,:,::1])"
)
def gradient(start, stop, fixed, moved, weight, limits, bins, slopes, out):
    """By the moved image, of the sum of a table (bins, bins + 3) times what ``joint`` gives."""
    nx = fixed.shape[2]
    weighted = weight.shape[0] > 0
    top, scale = np.float32(bins) - END, limits[3]
    rows, columns = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for z in range(start, stop):
        for y in range(fixed.shape[1]):
            _places(fixed[z, y], limits[0], limits[1], bins, rows)
            _places(moved[z, y], limits[2], limits[3], bins, columns)
            for x in range(nx):
                part_weight = weight[z, y, x] if weighted else ONE
                place = (moved[z, y, x] - limits[2]) * scale
                if part_weight == ZERO or not (place >= ZERO and place <= top):
                    out[z, y, x] = ZERO
                    continue
                left = int(columns[x])
                t = columns[x] - np.float32(left)
                s = ONE - t
                table = slopes[int(rows[x])]
                found = (table[left + 3] * (t * t) - table[left] * (s * s)) * HALF
                found += table[left + 1] * (HALF * THREE * t * t - TWO * t)
                found -= table[left + 2] * (HALF * THREE * s * s - TWO * s)
                out[z, y, x] = part_weight * scale * found
