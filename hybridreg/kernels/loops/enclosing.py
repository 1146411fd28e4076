"""Voxels that lie between marked ones along every axis."""

import numpy as np

from hybridreg.kernels.loops import compiled


@compiled("void(intp, intp, b1[:,:,::1], i4[:,::1], i4[:,::1])")
def ends(start, stop, marked, first, last):
    """The first and last marked z of each (y, x), for y from start to stop; none: nz and -1."""
    nz, _, nx = marked.shape
    for y in range(start, stop):
        first[y], last[y] = nz, -1
        for z in range(nz):
            for x in range(nx):
                if marked[z, y, x]:
                    first[y, x] = min(first[y, x], np.int32(z))
                    last[y, x] = np.int32(z)


@compiled("void(intp, intp, b1[:,:,::1], i4[:,::1], i4[:,::1], b1[:,:,::1])")
def enclosed(start, stop, marked, first, last, out):
    """Whether a voxel lies between marked ones along x, y and z, given the ends along z."""
    _, ny, nx = marked.shape
    above, below = np.empty(nx, np.int32), np.empty(nx, np.int32)
    for z in range(start, stop):
        above[:], below[:] = ny, -1
        for y in range(ny):
            for x in range(nx):
                if marked[z, y, x]:
                    above[x] = min(above[x], np.int32(y))
                    below[x] = np.int32(y)
        for y in range(ny):
            left, right = nx, -1
            for x in range(nx):
                if marked[z, y, x]:
                    left, right = min(left, x), x
            for x in range(nx):
                along = left <= x and x <= right and above[x] <= y and y <= below[x]
                out[z, y, x] = along and first[y, x] <= z and z <= last[y, x]
