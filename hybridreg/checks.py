"""Checks of pairs: errors for pairs that cannot be registered, and hints on irregular ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import singledispatch

import numpy as np
import torch

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Detector
from hybridreg.transforms import (
    AffineTransform,
    Transform,
    parts_of,
)

_LARGEST = 1e18  # the squares of larger values leave float32


@singledispatch
def check_pair(pair, initial: Transform | None = None):
    """Raises ValueError for pairs that cannot be registered reliably.

    A module with another type of pair registers its own check: ``@check_pair.register``.

    initial: the initial transform; if given, the images must overlap under it.
    """
    raise ValueError(f"{type(pair).__name__} is no type of pair that can be registered")


@check_pair.register
def _(pair: ImagePair, initial: Transform | None = None):
    fixed, moving = pair.fixed, pair.moving
    _check_thickness("fixed", fixed.grid)
    _check_thickness("moving", moving.grid)
    if fixed.grid.dimension != moving.grid.dimension:
        raise ValueError(
            f"the fixed image is {fixed.grid.dimension}D and the moving image "
            f"{moving.grid.dimension}D: register images of the same dimension"
        )
    if fixed.channels != moving.channels:
        raise ValueError(
            f"fixed has {fixed.channels} channels and moving {moving.channels}; "
            "describe both images with the same channels"
        )
    for side, image, mask in (
        ("fixed", fixed, pair.fixed_mask),
        ("moving", moving, pair.moving_mask),
    ):
        _check_image(side, image)
        if mask is not None:
            _check_mask(side, image, mask)
    _check_points(pair)
    placed = initial is not None and bool(parts_of(initial))
    _check_extents(fixed.grid, moving.grid, placed=placed)
    if initial is not None:
        _check_dimension(initial, pair.dimension)
        _check_overlap(fixed.grid, moving.grid, initial)


@check_pair.register
def _(pair: ProjectionPair, initial: Transform | None = None):
    check_ct(pair.moving.grid)
    _check_image("moving", pair.moving)
    if initial is None:
        return
    _check_dimension(initial, pair.dimension)
    for number, radiograph in enumerate(pair.fixed, start=1):
        of = f"radiograph {number}: " if len(pair.fixed) > 1 else ""
        check_view(radiograph.detector, pair.moving.grid, initial, at=f"{of}at the initial pose")


def check_ct(grid: Grid):
    """ValueError for a volume of too few slices to be projected from all sides."""
    if min(grid.size) < 4:
        raise ValueError(
            f"the CT has {min(grid.size)} voxel(s) along one axis (size {_by(grid.size)}); at "
            "least 4 are needed: "
            "give the whole volume"
        )


def check_view(detector: Detector, grid: Grid, pose: Transform, *, at: str = "at this pose"):
    """ValueError for a CT that is not between source and detector at a pose (C-arm mm to CT mm)."""
    source = torch.tensor([detector.source], dtype=torch.float64)
    if grid.contains(pose(source)).item():
        raise ValueError(
            f"{at} the X-ray source lies inside the CT: give another pose, or check the "
            "distances in the "
            "geometry"
        )
    between = detector.depth(pose.inverse()(grid.center[None])).item()
    if not 0 < between < 1:
        side = "behind the X-ray source" if between <= 0 else "beyond the detector"
        raise ValueError(
            f"{at} the CT lies {side}: its middle should be between source and detector; give "
            "another pose, "
            "or check the geometry"
        )


@singledispatch
def hints(pair) -> Iterator[str]:
    """Irregularities of a valid pair that should be inspected before a long computation."""
    yield from ()


@hints.register
def _(pair: ImagePair) -> Iterator[str]:
    fixed, moving = pair.fixed.grid, pair.moving.grid
    if sizes := different_extents(fixed, moving):
        yield f"{sizes}: is one a part of the other, or is a spacing wrong?"
    if odd := _different_axes(fixed, moving):
        yield (
            f"{odd} (their voxel axes point to {fixed.axis_letters()} and "
            f"{moving.axis_letters()}). Images are compared and results given where the headers "
            "place them in the patient, so this is sound if both headers are right: check left and "
            "right and up and down in the report"
        )


def _different_axes(fixed: Grid, moving: Grid) -> str:
    """How the directions differ in a way that a wrong header could cause; otherwise empty.

    Left-handed axes alone are common: half of all NIfTI brains have them (LAS, LIA).
    If only one image has them, a left-right error in a conversion is possible.
    """
    a, b = np.array(fixed.direction), np.array(moving.direction)
    if np.abs((a * b).sum(0)).min() < np.cos(np.pi / 4):  # the way along an axis does not matter
        return "the images are stored along different axes, as an axial and a sagittal scan are"
    if np.linalg.det(a) * np.linalg.det(b) < 0:
        return "one image is stored with left-handed axes, the other with right-handed ones"
    return ""


def _check_thickness(side: str, grid: Grid):
    count = min(grid.size)
    if count >= 4:
        return
    has = f"the {side} image has {count} voxel(s) along one axis (size {_by(grid.size)})"
    if grid.dimension == 2:
        raise ValueError(f"{has}; at least 4 are needed: give a larger one")
    size = list(grid.size)
    size[size.index(count)] = 0  # the axis to drop
    raise ValueError(
        f"{has}; at least 4 are needed in a volume. Save one slice as a 2D image (in Python: "
        f"sitk.WriteImage(sitk.Extract(sitk.ReadImage(FILE), {size}, (0, 0, 0), 1), 'slice.mha') "
        "with SimpleITK as sitk) and register that with a 2D image, or give a thicker volume"
    )


def _check_image(side: str, image: Image):
    low, high = (end.item() for end in image.data.aminmax())
    if not math.isfinite(low + high):
        bad = int((~torch.isfinite(image.data)).sum())
        raise ValueError(
            f"the {side} image has {bad} voxels that are NaN or infinite: "
            "replace them (by the background value, say) and try again"
        )
    largest = max(-low, high)
    if largest > _LARGEST:
        raise ValueError(
            f"the {side} image has values up to {largest:.3g}, too large to compute with: "
            "scale them down, or correct the slope in its header"
        )
    for channel, data in enumerate(image.data):
        if (ends := data.aminmax()).min == ends.max:
            which = f" (channel {channel})" if image.channels > 1 else ""
            raise ValueError(
                f"the {side} image{which} is constant ({data.min().item():g} everywhere): "
                "there is nothing to align; is it the right file?"
            )


def _check_mask(side: str, image: Image, mask: LabelMap):
    if not mask.grid.matches(image.grid):
        raise ValueError(
            f"the {side} mask (size {mask.grid.size}, spacing {mask.grid.spacing}) does not lie on "
            f"the grid of the {side} image (size {image.grid.size}, spacing {image.grid.spacing}): "
            "resample the mask onto the image"
        )
    inside = int((mask.data != 0).sum())
    if inside == 0:
        raise ValueError(f"the {side} mask is empty: leave it out or give one with voxels inside")
    if inside < 50:
        raise ValueError(f"the {side} mask has only {inside} voxels inside; at least 50 are needed")


def _check_points(pair: ImagePair):
    if pair.fixed_points is None and pair.moving_points is None:
        return
    if pair.fixed_points is None or pair.moving_points is None:
        raise ValueError("points guide a registration in pairs: give both fixed and moving points")
    for side, points in (("fixed", pair.fixed_points), ("moving", pair.moving_points)):
        if points.points.shape[1] != pair.dimension:
            raise ValueError(
                f"the {side} points are {points.points.shape[1]}D, the images {pair.dimension}D"
            )


def _check_extents(fixed: Grid, moving: Grid, *, placed: bool):
    """Refuses implausible extents, which indicate units wrong by a factor of 10 or 1000."""
    for side, grid in (("fixed", fixed), ("moving", moving)):
        # Pictures have 1 mm per pixel, which is not their true size.
        if not 1 < grid.diagonal < (math.inf if _has_no_size(grid) else 10_000):
            raise ValueError(
                f"the {side} image measures {_extent(grid)}: its spacing is not in mm; "
                "correct the header"
            )
    ratio = _ratio(fixed, moving)
    if ratio > 10 or (ratio > 3 and not placed):
        if _has_no_size(fixed) or _has_no_size(moving):
            raise ValueError(
                f"{different_extents(fixed, moving)}. An image of 1 mm per pixel, as pictures are "
                "taken to be, may be of another size: scale it so that both show things equally "
                "large, save it with its spacing in mm (.mha), or give an initial transform"
            )
        raise ValueError(
            f"{different_extents(fixed, moving)}, so one header probably has its spacing in "
            "another unit than mm: correct it; if one is a small part of the other, crop the "
            "larger one or give an initial transform"
        )


def _has_no_size(grid: Grid) -> bool:
    """Whether an image is 2D with 1 mm per pixel, the default of pictures."""
    return grid.dimension == 2 and grid.spacing == (1, 1)


def different_extents(fixed: Grid, moving: Grid) -> str:
    """How the fields of view differ in size, if by a factor of 1.5 or more; otherwise empty."""
    ratio = _ratio(fixed, moving)
    if ratio <= 1.5:
        return ""
    return (
        f"the fixed image measures {_extent(fixed)} and the moving image {_extent(moving)} "
        f"(a factor of {ratio:.3g} from corner to corner)"
    )


def _ratio(fixed: Grid, moving: Grid) -> float:
    return max(fixed.diagonal / moving.diagonal, moving.diagonal / fixed.diagonal)


def _check_dimension(initial: Transform, dimension: int):
    for part in parts_of(initial):
        grid = getattr(part, "grid", None)
        affine = len(part.translation) if isinstance(part, AffineTransform) else dimension
        found = affine if grid is None else grid.dimension
        if found != dimension:
            raise ValueError(
                f"the initial transform is {found}D and the images {dimension}D: "
                "give one of the same dimension"
            )


def _check_overlap(fixed: Grid, moving: Grid, initial: Transform):
    if overlap_of_fields(fixed, moving, initial) > 0:
        return
    distance = (initial(fixed.center[None])[0] - moving.center).norm().item()
    raise ValueError(
        f"the images do not overlap in space: their centers lie {distance:.0f} mm apart. "
        "Start from the aligned centers (initial='centers', "
        "`hybridreg register --initial centers`) or give a transform"
    )


def overlap_of_fields(fixed: Grid, moving: Grid, transform: Transform) -> float:
    """The fraction of the smaller field of view that lies in the other one, 0 to 1."""
    coarse = fixed.with_spacing([max(e / 16, s) for e, s in zip(fixed.extent, fixed.spacing)])
    fraction = moving.contains(transform(coarse.points())).double().mean().item()
    return min(1.0, fraction * max(1.0, np.prod(fixed.extent) / np.prod(moving.extent)))


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _extent(grid: Grid) -> str:
    return " x ".join(f"{e:.3g}" for e in grid.extent) + " mm"
