"""The images of a pair at the resolution levels of a linear registration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.intensity import to_unit, unit_pair
from hybridreg.kernels.sampling import Placement, sample
from hybridreg.kernels.smoothing import antialiasing, downsampled, smoothed
from hybridreg.preprocessing import foreground
from hybridreg.transforms import DisplacementField, Transform

_LOOK_MM = 4.0  # voxels at which the intensities and the foreground are looked at
_LOOKED_AT = 16  # voxels along an axis that are looked at at least, where there are so many
_MIN_VOXELS = 64  # along the longest side at the finest level


@dataclass(frozen=True, eq=False)
class Level:
    """Images of one resolution.

    fixed, moving: shape (C, *shape). weight: of each fixed voxel, or None for all alike.
    seen: the moving mask or field of view within a border of zeros of one voxel.
    displacement: of what comes before the linear transform, LPS mm, or None.
    """

    fixed: Tensor
    moving: Tensor
    weight: Tensor | None
    seen: Tensor
    masked: bool
    fixed_grid: Grid
    moving_grid: Grid
    displacement: Tensor | None

    def to(self, device: str) -> Level:
        names = ("fixed", "moving", "weight", "seen", "displacement")
        tensors = {name: getattr(self, name) for name in names}
        return replace(self, **{n: t.to(device) for n, t in tensors.items() if t is not None})


def levels(
    pair: ImagePair,
    levels_mm: tuple[float, ...],
    *,
    before: Transform | None,
    scaled: bool,
    foreground_mm: float | None,
    threads: int | None,
) -> list[Level]:
    """Coarse to fine.

    before: what acts on fixed points before the linear transform; None for nothing. foreground_mm:
    see ``Linear``; it does nothing where a fixed mask is given, nor at the coarsest level.
    """
    shown = unit_pair(pair, _unit) if scaled else pair
    images = shown.fixed, shown.moving
    fixed_mask = pair.fixed_mask
    if fixed_mask is None and foreground_mm is not None:
        fixed_mask = foreground(_thumbnail(images[0]), margin_mm=foreground_mm)
    found: list[Level] = []
    spacings = _spacings(pair, levels_mm)
    # each from the next finer, which is as smooth and much cheaper
    for spacing in reversed(spacings):
        images = tuple(_coarser(image, spacing, threads) for image in images)
        everywhere = pair.fixed_mask is None and spacing == spacings[0] and len(spacings) > 1
        mask = None if everywhere else fixed_mask
        found.append(_level(*images, mask, pair.moving_mask, before, threads))
    return found[::-1]


def _spacings(pair: ImagePair, levels_mm: tuple[float, ...]) -> list[float]:
    """Of the levels; all smaller by one factor for fields of view of few voxels at the finest."""
    factor = min(1.0, max(pair.fixed.grid.extent) / (_MIN_VOXELS * levels_mm[-1]))
    return [factor * spacing for spacing in levels_mm]


def _level(
    fixed: Image,
    moving: Image,
    fixed_mask: LabelMap | None,
    moving_mask: LabelMap | None,
    before: Transform | None,
    threads: int | None,
) -> Level:
    weight = None
    if fixed_mask is not None:
        weight = _fractions(fixed_mask, fixed.grid, threads)
    if moving_mask is None:
        inside = torch.ones(moving.grid.shape)
    else:
        inside = _fractions(moving_mask, moving.grid, threads)
    displacement = None
    if before is not None:
        displacement = DisplacementField.sampled(before, fixed.grid).vectors
    return Level(
        fixed.data,
        moving.data,
        weight,
        F.pad(inside[None], [1, 1] * fixed.grid.dimension),
        moving_mask is not None,
        fixed.grid,
        moving.grid,
        displacement,
    )


def _fractions(mask: LabelMap, onto: Grid, threads: int | None) -> Tensor:
    """How much of each voxel of a grid with the same axes lies in the mask, shape (*shape)."""
    fractions = Image((mask.data != 0).float(), mask.grid)
    factors = [new / old for new, old in zip(onto.spacing, mask.grid.spacing, strict=True)]
    smooth = smoothed(fractions.data, antialiasing(factors), threads=threads)
    matrix = (mask.grid.physical_to_voxel() @ onto.voxel_to_physical()).tolist()
    return sample(smooth, None, placement(matrix), onto.shape, threads=threads)[0]


def placement(matrix, scales=None) -> Placement:
    """Of voxels by a homogeneous matrix (D+1, D+1) to the voxels of another grid."""
    *rows, _ = matrix
    scales = scales if scales is not None else [[0.0] * len(rows)] * len(rows)
    return Placement(
        tuple(float(row[-1]) for row in rows),
        tuple(tuple(map(float, row[:-1])) for row in rows),
        tuple(tuple(map(float, row)) for row in scales),
    )


def _coarser(image: Image, spacing: float, threads: int | None) -> Image:
    factors = [max(1.0, spacing / s) for s in image.grid.spacing]
    if max(factors) == 1.0:
        return image
    grid = image.grid.with_spacing([max(spacing, s) for s in image.grid.spacing])
    return Image(downsampled(image.data, factors, threads=threads), grid)


def _thumbnail(image: Image) -> Image:
    """Every so many voxels, about 4 mm apart, of the same field of view but for the last voxels."""
    grid = image.grid
    steps = [
        max(1, min(int(_LOOK_MM / s), n // _LOOKED_AT))
        for s, n in zip(grid.spacing, grid.size, strict=True)
    ]
    data = image.data[(slice(None), *(slice(None, None, step) for step in steps[::-1]))]
    spacing = tuple(step * s for step, s in zip(steps, grid.spacing, strict=True))
    return replace(image, data=data, grid=replace(grid, shape=data.shape[1:], spacing=spacing))


def _unit(image: Image) -> Image:
    """In [0, 1], as ``intensity.to_unit`` scales what a thumbnail shows."""
    _, scaling = to_unit(_thumbnail(image))
    data = (image.data - scaling.low).div_(scaling.high - scaling.low).clamp_(0, 1)
    return replace(image, data=data)
