"""Fusion of aligned images: 2D images, stacks of slices and volumes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.fusion.coverage import coverage, extrapolate
from hybridreg.fusion.network import WeightNetwork, weigh_slices, weigh_volume
from hybridreg.fusion.rules import Frame, Rule
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.pyramids import published_steps, steps_by_spacing
from hybridreg.registry import DEFAULT_RULE, RULES

_PLANES = ("axial", "coronal", "sagittal")
_SLACK = 1e-3  # beyond [0, 1]: rounding errors of a rescaling


@dataclass(frozen=True)
class Flicker:
    """Mean absolute steps in intensity from one slice to the next.

    larger: mean of the larger of the two sources' steps, voxel by voxel: the maximum that the rules
    mean and maximum can have.
    """

    fused: float
    fixed: float
    moved: float
    larger: float

    @property
    def ratio(self) -> float:
        """Steps of the fused image over ``larger``; above 1 it flickers."""
        return self.fused / max(self.larger, torch.finfo(torch.float32).tiny)


@dataclass(frozen=True, eq=False)
class Fused:
    """A fused image, and how it was made.

    image: intensities in [0, 1] without a unit: not Hounsfield units, whatever the inputs.
    weight: of the fixed image in [0, 1], as the rule weighed it; 0 or 1 where one image is missing.
    plane: which slices were fused one by one: "axial", "coronal", "sagittal" or "axis 0" to 2 of
        the array; empty where the image was fused as a whole.
    levels: of the pyramid available to the rule; 1 is the image alone.
    flicker: between the slices of a volume, across ``plane``; of a volume fused as a whole, across
        the array axis where its ratio is largest. None in 2D.
    """

    image: Image
    weight: Image
    rule: str
    plane: str
    levels: int
    flicker: Flicker | None


def fuse(
    fixed: Image,
    moved: Image,
    *,
    rule: str = DEFAULT_RULE,
    network: WeightNetwork | None = None,
    slices: str | int | None = None,
    fixed_valid: LabelMap | None = None,
    moved_valid: LabelMap | None = None,
    feather_mm: float = 5.0,
) -> Fused:
    """Fuses two aligned gray images on the same grid, intensities in [0, 1].

    rule: a name in RULES. network: weighs the images, for a rule that needs one.
    slices: fuse a volume slice by slice: "axial", "coronal" or "sagittal" (the array axis nearest
        to it), or an array axis; by default a volume is fused as a whole, in 3D.
    fixed_valid, moved_valid: where an image has data (nonzero); elsewhere the other is used as it
        is, and 0 where neither has. feather_mm: over how far the fusion sets in from there.

    An image without contrast is a valid source that adds only its brightness.
    """
    _check(fixed, moved)
    _check_rule(rule, network)
    if not feather_mm >= 0:
        raise ValueError(f"a feather has a width of 0 mm or more, found {feather_mm}")
    grid = fixed.grid
    axis = _slice_axis(grid, slices)
    frame = _frame(grid, axis)
    valid = _valid(fixed_valid, grid, "fixed"), _valid(moved_valid, grid, "moved")
    sources = [
        extrapolate(_stack(i.data[0], axis), _stack(v, axis), frame.steps)
        for i, v in zip((fixed, moved), valid, strict=True)
    ]
    weight, image = (_unstack(t, axis) for t in _apply(RULES[rule], *sources, frame, network))
    if not (valid[0].all() and valid[1].all()):
        fractions = coverage(*valid, grid, feather_mm=feather_mm)
        image = fractions.compose(fixed.data[0], moved.data[0], image)
        weight = fractions.fixed + fractions.both * weight
    return Fused(
        Image(image.clamp(0, 1), grid),
        Image(weight, grid),
        rule,
        slices if isinstance(slices, str) else "" if slices is None else f"axis {slices}",
        len(frame.steps) + 1,
        _flicker(image, fixed.data[0], moved.data[0], axis),
    )


def _apply(
    rule: Rule, fixed: Tensor, moved: Tensor, frame: Frame, network: WeightNetwork | None
) -> tuple[Tensor, Tensor]:
    """Weight of fixed and fused image, shaped like the sources (N, ...)."""
    if rule.weigh is not None:
        weight = rule.weigh(fixed, moved, frame)
    elif len(frame.axes) == 2:
        weight = weigh_slices(network, fixed, moved)
    else:
        weight = weigh_volume(network, fixed[0], moved[0])[None]
    return weight, rule.blend(fixed, moved, weight, frame)


def flicker(fused: Tensor, fixed: Tensor, moved: Tensor, *, axis: int) -> Flicker:
    """Steps between neighboring slices along an array axis; all (z, y, x), the axis 2 or longer."""
    f, a, b = (torch.diff(image, dim=axis).abs_() for image in (fused, fixed, moved))
    return Flicker(*(x.mean().item() for x in (f, a, b, torch.maximum(a, b))))


def _flicker(fused: Tensor, fixed: Tensor, moved: Tensor, axis: int | None) -> Flicker | None:
    axes = range(3) if axis is None else (axis,)
    axes = [axis for axis in axes if fused.ndim == 3 and fused.shape[axis] > 1]
    found = (flicker(fused, fixed, moved, axis=axis) for axis in axes)
    return max(found, key=lambda f: f.ratio, default=None)


def _frame(grid: Grid, axis: int | None) -> Frame:
    if grid.dimension == 3 and axis is None:
        return Frame((-3, -2, -1), steps_by_spacing(grid.shape, grid.spacing))
    shape = [n for i, n in enumerate(grid.shape) if i != axis]
    return Frame((-2, -1), published_steps(shape))


def _stack(data: Tensor, axis: int | None) -> Tensor:
    """The slices along an axis, or the volume with a leading axis of length 1, contiguous."""
    return data[None] if axis is None else data.movedim(axis, 0).contiguous()


def _unstack(data: Tensor, axis: int | None) -> Tensor:
    return data[0] if axis is None else data.movedim(0, axis).contiguous()


def _slice_axis(grid: Grid, slices: str | int | None) -> int | None:
    if slices is None:
        return None
    if grid.dimension == 2:
        raise ValueError(f"a 2D image has no {slices} slices: leave the slices out")
    if slices in _PLANES:
        order, _ = grid.upright_axes()  # array axes nearest to z, y, x
        return order[_PLANES.index(slices)]
    if slices in (0, 1, 2):
        return slices
    raise ValueError(f"slices are {', '.join(_PLANES)} or an array axis 0, 1, 2; found {slices!r}")


def _valid(mask: LabelMap | None, grid: Grid, side: str) -> Tensor:
    if mask is None:
        return torch.ones(grid.shape, dtype=torch.bool)
    if not mask.grid.matches(grid):
        raise ValueError(
            f"the mask of where the {side} image has data (size {mask.grid.size}) does not lie on "
            f"the grid of the images (size {grid.size}): resample it onto them"
        )
    valid = mask.data != 0
    if not valid.any():
        raise ValueError(f"by its mask the {side} image has no data at all: leave the mask out")
    return valid


def _check_rule(rule: str, network: WeightNetwork | None):
    if RULES.find(rule).weigh is None and network is None:
        raise ValueError(f"the fusion rule {rule!r} needs a network: give one, or another rule")


def _check(fixed: Image, moved: Image):
    for side, image in (("fixed", fixed), ("moved", moved)):
        if image.channels != 1:
            raise ValueError(
                f"gray images are fused and the {side} image has {image.channels} channels: "
                "give its brightness, or one of its channels"
            )
        bad = int((~torch.isfinite(image.data)).sum())
        if bad:
            raise ValueError(
                f"the {side} image has {bad} voxels that are NaN or infinite: replace them by the "
                f"background value, or by any and say where it has data ({side}_valid)"
            )
        low, high = image.data.min().item(), image.data.max().item()
        if low < -_SLACK or high > 1 + _SLACK:
            raise ValueError(
                f"the {side} image has intensities from {low:.4g} to {high:.4g}: scale it to "
                "[0, 1] first (CT by a window in HU, MR by percentiles)"
            )
    if fixed.grid.dimension != moved.grid.dimension or not fixed.grid.matches(moved.grid):
        raise ValueError(
            f"the images lie on different grids (fixed {_text(fixed.grid)}; moved "
            f"{_text(moved.grid)}): register them first, or bring the moving one onto the fixed "
            "grid with `hybridreg apply -t TRANSFORM -f FIXED -m MOVING -o MOVED`"
        )


def _text(grid: Grid) -> str:
    size, spacing, origin = (
        " x ".join(f"{n:g}" for n in values) for values in (grid.size, grid.spacing, grid.origin)
    )
    return f"size {size}, spacing {spacing} mm, origin {origin} mm"
