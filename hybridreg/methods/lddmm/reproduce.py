"""The momentum whose geodesic reproduces a given transform, such as one that elastix found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.decomposition import fitted_affine
from hybridreg.geodesics import GeodesicTransform, Kernel
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.lattice import Lattice
from hybridreg.methods.base import RegistrationError, TraceEntry
from hybridreg.methods.lddmm.energy import Energy, MapTerm, refined
from hybridreg.methods.lddmm.optimizers import quasi_newton
from hybridreg.momentum import coarser, geodesic, momentum_grid
from hybridreg.shooting import Diverged, Operator, Shooter
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    DisplacementField,
    Transform,
    compose,
)
from hybridreg.warping import warp

_COARSEST_MM = 8.0
_MIN_DETERMINANT = 0.2  # below it the folding penalty sets in: valid maps have some as low
_UNFOLDING = 2e4  # weight of the folding penalty at every stage


@dataclass(frozen=True, eq=False)
class Reproduction:
    """A transform T approximated by x -> A(phi^-1(x)), and the residual.

    affine: A. geodesic: phi^-1. residual: |T(x) - A(phi^-1(x))| in mm, on the requested grid.
    """

    affine: AffineTransform
    geodesic: GeodesicTransform
    residual: Image
    trace: tuple[TraceEntry, ...] = ()

    @property
    def transform(self) -> Transform:
        return compose(self.affine, self.geodesic)


def momentum_of(
    transform: Transform,
    grid: Grid,
    *,
    kernel: Kernel,
    mask: LabelMap | None = None,
    affine: AffineTransform | None = None,
    spacing_mm: float = 2.0,
    sigma_mm: float = 0.05,
    steps: int = 5,
    integrator: str = "euler",
    iterations: int = 60,
    tolerance: float = 0.02,
    bands: Sequence[float] = (0.35, 0.5),
) -> Reproduction:
    """The geodesic nearest to a transform, by least squares over the mask or the whole grid.

    transform: fixed -> moving, without folds. grid: of the fixed image. affine: applied after the
    geodesic; by default the affine nearest to the transform over the grid. spacing_mm: of the
    momentum. sigma_mm: weighs distance against regularity; smaller fits more closely. bands: see
    ``Lddmm``; on the finest lattice one after the other, on coarser ones the last.

    Each stage starts near its optimum, since sigma is halved from one to the next, and folds are
    penalized: shooting is a boundary value problem, and aggressive steps toward the transform end
    in local minima with rough momenta far from it (figures in examples/benchmarks/lddmm.md).
    RegistrationError if the geodesics diverge.
    """
    if affine is None:
        affine = fitted_affine(DisplacementField.sampled(transform, _coarse(grid)))
    rest = compose(affine.inverse(), transform)
    finest, joined = momentum_grid(grid, spacing_mm, _COARSEST_MM)
    trace: list[TraceEntry] = []
    white = None
    for level, (join, band, sigma) in enumerate(_stages(max(joined), bands, sigma_mm)):
        at = coarser(finest, [min(join, limit) for limit in joined])
        operator = Operator(kernel, Lattice.of(at, grid))
        term = _term(rest, at, grid, mask)
        shooter = Shooter(operator, steps, integrator)
        energy = Energy(shooter, term, sigma, _UNFOLDING * sigma**2, band, _MIN_DETERMINANT)
        white = torch.zeros_like(term.target) if white is None else refined(white, at.shape)

        def record(iteration: int, terms: dict[str, float], level: int = level):
            trace.append(TraceEntry("momentum", level, iteration, terms))

        try:
            white = quasi_newton(
                energy, white, iterations=iterations, tolerance=tolerance, callback=record
            )
        except Diverged as error:
            raise RegistrationError(f"no geodesic approximates this transform: {error}") from error
    found = geodesic(shooter, energy.momentum(white), at, onto=grid)
    return Reproduction(
        affine, found, _residual(transform, compose(affine, found), grid), tuple(trace)
    )


def _stages(coarsest: int, bands: Sequence[float], sigma: float) -> list[tuple[int, float, float]]:
    """The coarsening factor, band and sigma of each stage, from coarse to fine."""
    joins = [2**halvings for halvings in range(coarsest.bit_length() - 1, 0, -1)]
    steps = [(join, bands[-1]) for join in joins] + [(1, band) for band in bands]
    left = reversed(range(len(steps)))
    return [(join, band, sigma * 2**n) for n, (join, band) in zip(left, steps)]


def _term(rest: Transform, at: Grid, grid: Grid, mask: LabelMap | None) -> MapTerm:
    """The data term: the map without its affine part on the lattice of a momentum, in the mask."""
    points = at.points()
    axes = torch.tensor(at.direction, dtype=torch.float64)
    target = torch.einsum("...c,ca->a...", rest(points) - points, axes).float()
    inside = grid.contains(points)
    if mask is not None:
        inside &= warp(mask, IDENTITY, onto=at).data != 0
    return MapTerm(torch.where(inside, target, 0.0), inside.float(), Lattice.of(at, grid))


def _coarse(grid: Grid) -> Grid:
    return grid.with_spacing([max(e / 48, s) for e, s in zip(grid.extent, grid.spacing)])


def _residual(a: Transform, b: Transform, grid: Grid) -> Image:
    out: Tensor = torch.empty(grid.shape)
    for rows, slab in grid.slabs():
        points = slab.points()
        out[rows] = (a(points) - b(points)).norm(dim=-1).float()
    return Image(out, grid)
