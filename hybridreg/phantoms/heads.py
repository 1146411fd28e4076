"""Images, label maps and registration cases of the closed-form head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hybridreg.cases import Case, ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.phantoms import anatomy
from hybridreg.phantoms.deformation import known_transform
from hybridreg.transforms import IDENTITY, Transform, rigid

AXIAL_MM = 8.0  # z of the section of the 2D head: ventricles, deep nuclei, insula
_LANDMARK_REACH_MM = 8.0  # structures centered within this of the section are 2D landmarks
_SIZE_MM = (181.0, 217.0, 181.0)  # x, y, z
_DEFORMED_MM = 160.0  # radius within which a case is deformed


def head_grid(
    spacing_mm: float | Sequence[float] = 1.0,
    *,
    dimension: int = 3,
    angles_deg: Sequence[float] | None = None,
) -> Grid:
    """The field of view of the head: 181 x 217 x 181 mm about its center, which is LPS 0.

    spacing_mm: of all axes, or of each, (x, y, z). angles_deg: rotation of the axes, as in
    ``rigid``; by default none.
    """
    zero = [0.0] * dimension
    axes = rigid(angles_deg or [0.0] * (2 * dimension - 3), zero, zero).linear
    size = torch.tensor(_SIZE_MM[:dimension], dtype=torch.float64)
    origin = axes @ ((1 - size) / 2)
    shape = tuple(int(n) for n in size.flip(0))
    whole = Grid(shape, origin=origin, direction=axes)
    if isinstance(spacing_mm, (int, float)):
        spacing_mm = [spacing_mm] * dimension
    return whole.with_spacing(spacing_mm)


def head(
    grid: Grid,
    contrast: str,
    *,
    transform: Transform = IDENTITY,
    noise: float = 0.0,
    seed: int = 0,
) -> Image:
    """The head sampled on a grid through a transform: value(x) = head(transform(x)).

    contrast: "ct" (HU), "t1" or "t2". In 2D it is the section at z = AXIAL_MM, in radiological
    orientation. noise: standard deviation as a fraction of the contrast of gray matter to
    fluid.
    """
    if contrast not in anatomy.CONTRASTS:
        raise ValueError(f"contrast is one of {', '.join(anatomy.CONTRASTS)}; found {contrast!r}")
    data = _sampled(lambda points: anatomy.intensities(points, contrast), grid, transform)
    if noise:
        column = anatomy.CONTRASTS.index(contrast)
        scale = abs(anatomy.TISSUES["gray"][column] - anatomy.TISSUES["csf"][column])
        generator = torch.Generator().manual_seed(seed)
        data += noise * scale * torch.randn(grid.shape, generator=generator)
    return Image(data, grid)


def head_labels(grid: Grid, *, transform: Transform = IDENTITY) -> LabelMap:
    """The structures of the head on a grid through a transform, with their names."""
    data = _sampled(anatomy.labels, grid, transform)
    return LabelMap(data, grid, dict(enumerate(anatomy.NAMES, start=1)))


def head_case(
    *,
    dimension: int = 3,
    fixed: str = "ct",
    moving: str = "t1",
    angles_deg: Sequence[float] | None = None,
    translation_mm: Sequence[float] | None = None,
    deformation_mm: float = 0.0,
    wavelength_mm: float = 80.0,
    spacing_mm: float | Sequence[float] | None = None,
    fixed_grid: Grid | None = None,
    moving_grid: Grid | None = None,
    noise: float = 0.05,
    seed: int = 0,
) -> Case:
    """Two images of one head with labels, landmarks and the exact transform between them.

    The true transform rotates the head about its center by angles_deg, translates it by
    translation_mm and then deforms it by at most deformation_mm (``smooth_deformation``); by
    default none of these.
    fixed_grid, moving_grid: by default voxels of spacing_mm (2 mm, in 2D 1 mm), with different
    oblique orientations.
    noise: see ``head``. seed: of the noise and the deformation.
    """
    true = known_transform(
        [0.0] * dimension,
        angles_deg=angles_deg,
        translation_mm=translation_mm,
        deformation_mm=deformation_mm,
        wavelength_mm=wavelength_mm,
        radius_mm=_DEFORMED_MM,
        seed=seed,
    )
    spacing_mm = spacing_mm or {2: 1.0, 3: 2.0}[dimension]
    fixed_grid = fixed_grid or _tilted(spacing_mm, dimension, (6.0, -4.0, 9.0))
    moving_grid = moving_grid or _tilted(spacing_mm, dimension, (-5.0, 8.0, -7.0))
    return _case(
        ImagePair(
            fixed=head(fixed_grid, fixed, transform=true, noise=noise, seed=2 * seed),
            moving=head(moving_grid, moving, noise=noise, seed=2 * seed + 1),
        ),
        true,
        name=f"head-{fixed}-{moving}-{seed}",
        subject=f"phantom-{seed}",
    )


def _tilted(
    spacing_mm: float | Sequence[float], dimension: int, angles_deg: Sequence[float]
) -> Grid:
    angles_deg = angles_deg if dimension == 3 else angles_deg[-1:]
    return head_grid(spacing_mm, dimension=dimension, angles_deg=angles_deg)


def _case(pair: ImagePair, true: Transform, *, name: str, subject: str) -> Case:
    """The pair with its labels, landmarks and true transform."""
    fixed_landmarks, moving_landmarks = _landmarks(true, pair.fixed.grid, pair.moving.grid)
    return Case(
        pair,
        name=name,
        subject=subject,
        fixed_labels=head_labels(pair.fixed.grid, transform=true),
        moving_labels=head_labels(pair.moving.grid),
        fixed_landmarks=fixed_landmarks,
        moving_landmarks=moving_landmarks,
        true_transform=true,
    )


def _landmarks(true: Transform, fixed: Grid, moving: Grid) -> tuple[LandmarkSet, LandmarkSet]:
    """Landmarks in both fields of view; each moving one is exactly T of the fixed one."""
    named = anatomy.landmarks()
    points = torch.tensor(list(named.values()), dtype=torch.float64)
    used = torch.ones(len(points), dtype=torch.bool)
    if fixed.dimension == 2:
        used = (points[:, 2] - AXIAL_MM).abs() <= _LANDMARK_REACH_MM
        points = points[:, :2]
    fixed_points = true.inverse()(points)
    used &= fixed.contains(fixed_points) & moving.contains(points)
    names = tuple(name for name, use in zip(named, used.tolist(), strict=True) if use)
    fixed_points = fixed_points[used]
    return LandmarkSet(fixed_points, names), LandmarkSet(true(fixed_points), names)


def _sampled(function: Callable[[Tensor], Tensor], grid: Grid, transform: Transform) -> Tensor:
    parts = []
    for _, slab in grid.slabs(1 << 17):  # small enough for the processor's cache
        points = transform(slab.points())
        if grid.dimension == 2:
            points = torch.cat([points, torch.full_like(points[..., :1], AXIAL_MM)], -1)
        parts.append(function(points))
    return torch.cat(parts)
