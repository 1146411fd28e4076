"""From an initial momentum to its map: the grid of a momentum, and its geodesic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hybridreg.geodesics import GeodesicTransform, Kernel
from hybridreg.geometry import Grid
from hybridreg.kernels.inversion import inverted
from hybridreg.lattice import Lattice, Resampling
from hybridreg.shooting import Operator, Shooter
from hybridreg.transforms import DisplacementField

MARGIN_MM = 12.0  # around the images: maps fall off to the identity there, the domain is periodic
_TOLERANCE = 1e-3  # of the inverse, in voxels of its grid


def shot(
    momentum: Tensor,
    kernel: Kernel,
    grid: Grid,
    *,
    onto: Grid,
    steps: int = 5,
    integrator: str = "euler",
    device: str = "cpu",
) -> GeodesicTransform:
    """The transform of an initial momentum, such as a network predicts.

    momentum: its LPS components on the grid, shape (D, *grid.shape), as in ``GeodesicTransform``.
    onto: the grid of the fixed image, which determines the spacing of the inverse. steps,
    integrator: see ``shooting.Shooter``. Raises ``shooting.Diverged`` if the geodesic overflows.
    """
    shooter = Shooter(Operator(kernel, Lattice.of(grid), device=device), steps, integrator)
    return geodesic(shooter, along_axes(momentum.to(device), grid), grid, onto=onto)


def geodesic(shooter: Shooter, momentum: Tensor, grid: Grid, *, onto: Grid) -> GeodesicTransform:
    """The transform of a momentum whose components are along the axes of its grid.

    Its maps fall off smoothly to the identity within the margin around the images. phi
    is the inverse of the interpolated phi^-1, on a grid about as fine as the image's (``onto``)
    that includes all voxels of the momentum's: the interpolated phi^-1 has kinks there, and with
    samples between them phi would have twice the error.
    """
    backward = ended(shooter, momentum)
    parts = [max(1, round(s / voxel)) for s, voxel in zip(grid.spacing, onto.spacing, strict=True)]
    fine_grid = Grid(
        tuple(n * (count - 1) + 1 for n, count in zip(reversed(parts), grid.shape, strict=True)),
        tuple(s / n for s, n in zip(grid.spacing, parts, strict=True)),
        grid.origin,
        grid.direction,
    )
    fine = Lattice.of(fine_grid, grid)
    to_fine = Resampling(Lattice.of(grid), fine, momentum.dtype, momentum.device)
    inverse = inverted(to_fine(backward), fine.spacing, tolerance=_TOLERANCE)
    m0, backward, inverse = (to_lps(v, grid).cpu() for v in (momentum, backward, inverse))
    fields = DisplacementField(backward, grid), DisplacementField(inverse, fine_grid)
    return GeodesicTransform(m0, shooter.operator.kernel, grid, *fields)


def ended(shooter: Shooter, momentum: Tensor) -> Tensor:
    """phi^-1 as in ``geodesic``: a displacement along the axes that falls to 0 in the margin."""
    with torch.no_grad():
        return _ending(shooter.lattice).to(momentum) * shooter.inverse_map(momentum)


def along_axes(vectors: Tensor, grid: Grid) -> Tensor:
    """LPS components (D, ...) as components along the axes of a grid, (x, y, z) order."""
    axes = torch.tensor(grid.direction, dtype=torch.float64).to(vectors)
    return torch.einsum("ca,c...->a...", axes, vectors)


def to_lps(vectors: Tensor, grid: Grid) -> Tensor:
    """Components along the axes of a grid (D, ...) as LPS components."""
    axes = torch.tensor(grid.direction, dtype=torch.float64).to(vectors)
    return torch.einsum("ca,a...->c...", axes, vectors)


def _ending(lattice: Lattice) -> Tensor:
    """A taper: 1 inside, falling to 0 at the border over most of the margin, shape (*shape)."""
    taper = torch.ones(lattice.shape, dtype=torch.float64)
    for axis, (count, spacing) in enumerate(zip(lattice.size, lattice.spacing, strict=True)):
        place = torch.arange(count, dtype=torch.float64)
        depth = spacing * torch.minimum(place, count - 1 - place)
        ramp = (math.pi / 2 * (depth / (0.8 * MARGIN_MM)).clamp(max=1)).sin().square()
        where = [1] * lattice.dimension
        where[lattice.dimension - 1 - axis] = -1
        taper = taper * ramp.reshape(where)
    return taper


def momentum_grid(box: Grid, spacing_mm: float, coarsest_mm: float) -> tuple[Grid, tuple[int, ...]]:
    """The finest grid of the momentum, over a box and its margin, and its maximum coarsening.

    Along each axis its spacing is the requested one or the image's, whichever is coarser; the
    second value is the number of its voxels per voxel of the coarsest grid, along each axis (array
    order).
    """
    spacing, count, joined = [], [], []
    for voxel, extent in zip(box.spacing, box.extent, strict=True):
        fine = max(spacing_mm, voxel)
        halvings = max(0, math.floor(math.log2(max(coarsest_mm / fine, 1.0)) + 1e-6))
        join = 2**halvings
        cells = math.ceil((extent + 2 * MARGIN_MM) / (fine * join))
        spacing.append(fine)
        joined.append(join)
        count.append(_fit_for_fourier(max(cells, 4)) * join)
    half = (torch.tensor(count, dtype=torch.float64) - 1) / 2 * torch.tensor(spacing).double()
    origin = box.center - torch.tensor(box.direction, dtype=torch.float64) @ half
    grid = Grid(tuple(count[::-1]), tuple(spacing), tuple(origin.tolist()), box.direction)
    return grid, tuple(joined[::-1])


def _fit_for_fourier(count: int) -> int:
    """The next even number without a prime factor above 13, for fast Fourier transforms.

    ``scipy.fft.next_fast_len`` has no factor 13: of the counts 8 to 400 it makes 64 larger.
    """
    while True:
        rest = count
        for prime in (2, 3, 5, 7, 11, 13):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and count % 2 == 0:
            return count
        count += 1


def coarser(grid: Grid, factors: Sequence[int]) -> Grid:
    """The grid over the same box, coarsened by these factors (array order)."""
    spacing = [s * f for s, f in zip(grid.spacing, reversed(factors), strict=True)]
    return grid.with_spacing(spacing)
