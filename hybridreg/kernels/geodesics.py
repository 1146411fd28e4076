"""The momentum of a geodesic at a later time, for ``shooting``: compiled loops alone.

Vectors are (D, *shape) in mm along the axes of one lattice, whose placement in itself is given.
Derivatives are central differences, periodic at the border.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hybridreg.kernels.compiled import flat_vectors, loops, over_slabs, vector_volume
from hybridreg.kernels.sampling import LEAST_SCATTERED, Placement, add_parts


def coadjoint(
    momentum: Tensor, displacement: Tensor, placement: Placement, *, threads: int | None = None
) -> Tensor:
    """|J| J^T m(x + u(x)), J the Jacobian of x + u(x)."""
    m, u = vector_volume(momentum), vector_volume(displacement)
    out = np.empty_like(u)
    over_slabs(
        loops("geodesics").coadjoint,
        u.shape[1:],
        *_arguments(m, u, placement),
        out,
        threads=threads,
    )
    return flat_vectors(out, len(displacement))


def coadjoint_gradient(
    momentum: Tensor,
    displacement: Tensor,
    placement: Placement,
    adjoint: Tensor,
    *,
    threads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Of ``coadjoint`` times an adjoint, with respect to the momentum and to the displacement."""
    compiled = loops("geodesics")
    m, u, a = (vector_volume(v) for v in (momentum, displacement, adjoint))
    shape, arguments = u.shape[1:], _arguments(m, u, placement)
    by_entries, out, by_momentum = (
        np.empty((9, *shape), np.float32),
        np.empty_like(u),
        np.zeros_like(m),
    )
    fields = a, by_entries, out
    parts = over_slabs(
        compiled.coadjoint_gradient,
        shape,
        *arguments,
        *fields,
        least=LEAST_SCATTERED,
        threads=threads,
    )
    add_parts(parts, by_momentum)
    over_slabs(compiled.add_divergence, shape, by_entries, arguments[-1], out, threads=threads)
    return tuple(flat_vectors(v, len(displacement)) for v in (by_momentum, out))


def _arguments(m: np.ndarray, u: np.ndarray, placement: Placement) -> tuple[np.ndarray, ...]:
    return m.reshape(3, -1), np.array(m.shape[1:]), u, *placement.arrays
