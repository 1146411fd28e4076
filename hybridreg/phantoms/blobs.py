"""Small cases of random Gaussian blobs, for fast tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.cases import Case, ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.phantoms.deformation import known_transform
from hybridreg.transforms import IDENTITY, Transform, rigid

_COUNT = 12
_CENTER = (-40.0, 25.0, 60.0)  # of the moving image, in LPS mm: far from 0
_SHAPES = {2: ((44, 52), (50, 46)), 3: ((20, 26, 24), (22, 24, 26))}  # fixed, moving
_SPACING = {2: ((1.1, 1.4), (1.3, 1.2)), 3: ((1.9, 1.6, 2.4), (1.8, 2.0, 2.1))}
_TILT_DEG = {2: ((25.0,), (18.0,)), 3: ((20.0, -35.0, 15.0), (14.0, -28.0, 21.0))}


@dataclass(frozen=True, eq=False)
class _Blobs:
    """A sum of Gaussians: centers (N, D) and widths (N,) in mm, heights (N,)."""

    centers: Tensor
    widths_mm: Tensor
    heights: Tensor

    def values(self, grid: Grid, transform: Transform = IDENTITY) -> Tensor:
        return (-self._square(grid, transform) / 2).exp() @ self.heights

    def labels(self, grid: Grid, transform: Transform = IDENTITY) -> LabelMap:
        """The nearest blob, numbered from 1, within 1.2 of its widths; otherwise 0."""
        square, nearest = self._square(grid, transform).min(-1)
        return LabelMap(torch.where(square < 1.2**2, nearest + 1, 0), grid)

    def _square(self, grid: Grid, transform: Transform) -> Tensor:
        """Squared distance to each blob in its widths, shape (*shape, N)."""
        points = transform(grid.points())
        return ((points[..., None, :] - self.centers) / self.widths_mm[:, None]).square().sum(-1)


def blobs(
    *,
    dimension: int = 3,
    angles_deg: Sequence[float] | None = None,
    translation_mm: Sequence[float] | None = None,
    deformation_mm: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
) -> Case:
    """A case of some ten thousand voxels (2,300 in 2D) on two oblique, anisotropic grids.

    The true transform rotates about the center of the moving image, translates and deforms, as in
    ``head_case``; the fixed field of view follows, so the blobs stay in view. Values lie between
    0 and about 2. noise: standard deviation.
    """
    center = torch.tensor(_CENTER[:dimension], dtype=torch.float64)
    true = known_transform(
        center.tolist(),
        angles_deg=angles_deg,
        translation_mm=translation_mm,
        deformation_mm=deformation_mm,
        wavelength_mm=40.0,
        radius_mm=60.0,
        seed=seed,
    )
    fixed_grid, moving_grid = _grid(0, true.inverse()(center)), _grid(1, center)
    generator = torch.Generator().manual_seed(seed)
    scene = _scene(center, generator)

    def image(grid: Grid, transform: Transform = IDENTITY) -> Image:
        values = scene.values(grid, transform)
        return Image(values + noise * torch.randn(grid.shape, generator=generator), grid)

    fixed_points = true.inverse()(scene.centers)
    return Case(
        ImagePair(image(fixed_grid, true), image(moving_grid)),
        name=f"blobs-{seed}",
        subject=f"blobs-{seed}",
        fixed_labels=scene.labels(fixed_grid, true),
        moving_labels=scene.labels(moving_grid),
        fixed_landmarks=LandmarkSet(fixed_points),
        moving_landmarks=LandmarkSet(true(fixed_points)),
        true_transform=true,
    )


def _scene(center: Tensor, generator: torch.Generator) -> _Blobs:
    def between(low: float, high: float, *shape: int) -> Tensor:
        fraction = torch.rand(_COUNT, *shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * fraction

    centers = center + between(-15.0, 15.0, len(center))
    return _Blobs(centers, between(2.5, 5.0), between(0.4, 1.0))


def _grid(side: int, center: Tensor) -> Grid:
    """side: 0 for the fixed image, 1 for the moving one."""
    dimension = len(center)
    shape, spacing = _SHAPES[dimension][side], _SPACING[dimension][side]
    zero = [0.0] * dimension
    axes = rigid(_TILT_DEG[dimension][side], zero, zero).linear
    half = torch.tensor([(n - 1) / 2 * s for n, s in zip(shape[::-1], spacing, strict=True)])
    return Grid(shape, spacing, center - axes @ half.double(), axes)
