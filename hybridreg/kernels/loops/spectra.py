"""A matrix at every frequency, applied to the spectra of vectors."""

import numpy as np

from hybridreg.kernels.loops import compiled


@compiled("void(intp, intp, c8[:,:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[::1], f4[::1], f4[::1])")
def apply(start, stop, spectrum, across, along, kx, ky, kz):
    """(across + along k k^T) s in place; spectrum: (3 or 2, z, y, x), the latter along x and z.

    along: shape 0 for none.
    """
    nx = len(kx)
    inner = np.empty(nx, np.complex64)
    for z in range(start, stop):
        for y in range(len(ky)):
            factor = across[z, y]
            if len(along) == 0:
                for c in range(len(spectrum)):
                    row = spectrum[c, z, y]
                    for x in range(nx):
                        row[x] *= factor[x]
                continue
            row = spectrum[0, z, y]
            for x in range(nx):
                inner[x] = kx[x] * row[x]
            for c in range(1, len(spectrum)):
                k = ky[y] if c == 1 and len(spectrum) == 3 else kz[z]
                row = spectrum[c, z, y]
                for x in range(nx):
                    inner[x] += k * row[x]
            weight = along[z, y]
            for x in range(nx):
                inner[x] *= weight[x]
            row = spectrum[0, z, y]
            for x in range(nx):
                row[x] = factor[x] * row[x] + kx[x] * inner[x]
            for c in range(1, len(spectrum)):
                k = ky[y] if c == 1 and len(spectrum) == 3 else kz[z]
                row = spectrum[c, z, y]
                for x in range(nx):
                    row[x] = factor[x] * row[x] + k * inner[x]
