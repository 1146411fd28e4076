"""The weighted sum of squared differences, and that of weights."""

import numpy as np

from hybridreg.kernels.loops import compiled


@compiled("UniTuple(f8, 2)(intp, intp, f4[:,:,::1], f4[:,:,::1], f4[:,:,::1])")
def squared_differences(start, stop, fixed, moved, weight):
    """weight: shape 0 for all alike."""
    weighted = weight.shape[0] > 0
    total, weights = 0.0, 0.0
    for z in range(start, stop):
        for y in range(fixed.shape[1]):
            f, m = fixed[z, y], moved[z, y]
            part = np.float32(0)
            if weighted:
                row = weight[z, y]
                for x in range(len(f)):
                    part += row[x] * (f[x] - m[x]) * (f[x] - m[x])
                row_weight = np.float32(0)
                for x in range(len(f)):
                    row_weight += row[x]
                weights += row_weight
            else:
                weights += len(f)
                for x in range(len(f)):
                    part += (f[x] - m[x]) * (f[x] - m[x])
            total += part
    return total, weights
