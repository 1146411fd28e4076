"""The reduced images of a report: all volumes of a registration on one upright display grid.

The display grid has the planes of the fixed image, its voxel axes reordered and flipped to be
nearest to +x (left), +y (posterior) and +z (superior), so that its planes are axial, coronal and
sagittal. An oblique image stays oblique: nothing is resampled off its planes.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, singledispatch
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid, apply_matrix, side
from hybridreg.images import Image, LabelMap
from hybridreg.methods.base import Matches
from hybridreg.preprocessing import looks_like_ct, without_outliers
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    DisplacementField,
    Transform,
    affine_of,
    compose,
    parts_of,
)
from hybridreg.warping import jacobian_determinant, warp

MAX_VOXELS = 6_000_000  # of a volume: a 1 mm brain stays as it is
MAX_SIDE = {2: 1024, 3: 512}
_MARGIN = 0.08  # of the object's length, kept around it on either side
_MATCHES = 60_000  # kept of more
_COARSE_FROM = 1_000_000  # voxels from which Jacobian and displacement are kept at half resolution


@singledispatch
def make_views(pair, transform: Transform, **known) -> dict[str, np.ndarray]:
    """The arrays of a report, as written by ``save_views``, on the display grid.

    Dispatched on the type of the pair.
    initial: the transform of the moving image "before" the registration.
    moved, field, jacobian: results on the fixed grid; missing ones are computed, which is slow
        unless the transform is affine.
    fixed_labels, moved_labels: in the space of the fixed image, on any grid.
    units: further images in [0, 1] on the fixed grid, by the name that their uint8 is to have.
    uncertainty: of the displacement in mm, on the fixed grid.
    matches: critical points of both images that a method matched.

    Gives ``fixed``, ``before``, ``moved`` (uint8 within a window, array order); ``jacobian``
    (float16); ``displacement`` (float16, mm, (x, y, z) components along the display axes first);
    where given ``fixed_labels``, ``moved_labels`` and ``uncertainty`` (float16, mm);
    ``spacing_mm`` and, for Jacobian and displacement, ``coarse_spacing_mm``; ``origin_mm`` and
    ``direction`` of the display grid (LPS);
    ``letters``: the patient's side at the low and high end of each axis (x, y, z), empty in 2D;
    ``fixed_window`` and ``moving_window`` (low, high) and their ``..._name``.
    Of matches: ``aligned``, the moving image through the affine part of the transform alone;
    ``matches_fixed`` and ``matches_moving`` (N, D), voxels (x, y, z) of the display grid, the
    latter as in ``aligned``; ``matches_of_fixed`` and ``matches_kept`` (N,) as ``Matches`` has
    them. Of several channels the first is shown.
    """
    raise TypeError(f"there are no pictures of a {type(pair).__name__}")


@make_views.register
def _(
    pair: ImagePair,
    transform: Transform,
    *,
    initial: Transform = IDENTITY,
    moved: Image | None = None,
    field: DisplacementField | None = None,
    jacobian: Image | None = None,
    fixed_labels: LabelMap | None = None,
    moved_labels: LabelMap | None = None,
    units: Mapping[str, Image] | None = None,
    uncertainty: Image | None = None,
    matches: Matches | None = None,
) -> dict[str, np.ndarray]:
    grid = pair.fixed.grid
    units = units or {}
    known = {"moved": moved, "field": field, "jacobian": jacobian, "uncertainty": uncertainty}
    _check_grids(grid, {**known, **units})
    labels = {"fixed_labels": fixed_labels, "moved_labels": moved_labels}
    window, moving_window = choose_window(pair.fixed), choose_window(pair.moving)
    display = Display.of(pair.fixed, window)
    affine = affine_of(transform, grid.dimension)
    at = display.coarse_grid if affine else grid
    if field is None:
        field = DisplacementField.sampled(transform, at)
    if moved is None:
        moved = warp(pair.moving, affine or field, onto=grid)
    if jacobian is None:
        jacobian = jacobian_determinant(affine or field, at)
    return {
        "fixed": window.apply(display.show(pair.fixed.data[:1])[0]),
        "before": _before(pair.moving, initial, display.grid, moving_window),
        "moved": moving_window.apply(display.show(moved.data[:1])[0]),
        "jacobian": _shown_jacobian(display, jacobian),
        "displacement": _shown_displacement(display, field),
        **({} if uncertainty is None else {"uncertainty": _shown_values(display, uncertainty)}),
        **{key: _shown_labels(display, m, grid) for key, m in labels.items() if m is not None},
        **{key: _UNIT.apply(display.show(i.data[:1])[0]) for key, i in units.items()},
        **_shown_matches(matches, pair.moving, transform, display.grid, moving_window),
        **display.describe(),
        **window.describe("fixed"),
        **moving_window.describe("moving"),
    }


def save_views(path: str | Path, views: Mapping[str, np.ndarray]):
    """Writes views as an .npz file, compressed lightly: numpy's own level takes twice as long."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in views.items():
            file = io.BytesIO()
            np.save(file, array, allow_pickle=False)
            # A ZipInfo holds no time of day: equal views make equal files.
            entry = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(entry, file.getbuffer(), zipfile.ZIP_DEFLATED, compresslevel=1)


def load_views(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the file of ``save_views``."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): run the case again") from error


@dataclass(frozen=True)
class Window:
    """The intensities that are shown from black to white."""

    low: float
    high: float
    name: str

    def apply(self, data: Tensor) -> np.ndarray:
        """uint8: 0 at ``low`` and below, 255 at ``high`` and above."""
        scale = 255 / (self.high - self.low)
        return ((data - self.low) * scale).clamp(0, 255).round().to(torch.uint8).numpy()

    def describe(self, side: str) -> dict[str, np.ndarray]:
        return {
            f"{side}_window": np.array([self.low, self.high]),
            f"{side}_window_name": np.array(self.name),
        }


_UNIT = Window(0.0, 1.0, "as it is")


def choose_window(image: Image) -> Window:
    """A CT window if the values look like HU, otherwise the 1 to 99.5 percentile of the foreground.

    Foreground is all that differs from the most frequent value, if that fills 5 % of the image.
    """
    values = without_outliers(image).data[0].flatten()
    values = values[:: max(1, len(values) // 300_000)]
    is_ct, values = looks_like_ct(values), values.numpy()
    if is_ct and values.max() > 200:
        return _ct_window(values)
    levels, counts = np.unique(values, return_counts=True)
    if counts.max() > 0.05 * len(values) and len(levels) > 2:
        values = values[values != levels[counts.argmax()]]
    low, high = np.percentile(values, [1, 99.5]).tolist()
    if high <= low:
        low, high = float(levels[0]), float(max(levels[-1], levels[0] + 1))
    return Window(low, high, "1 to 99.5 percentile")


def _ct_window(values: np.ndarray) -> Window:
    """The window for a head (brain and much bone), lungs, or other soft tissue; in HU."""
    body = np.count_nonzero(values > -300)
    brain = np.count_nonzero((values > 15) & (values < 50))
    bone = np.count_nonzero(values > 250)
    lung = np.count_nonzero((values > -950) & (values < -500))
    if brain > 0.3 * body and bone > 0.1 * body:
        return Window(-20.0, 100.0, "CT brain, level 40, width 120 HU")
    if lung > 0.25 * body:
        return Window(-1000.0, 400.0, "CT wide, level -300, width 1400 HU")
    return Window(-160.0, 240.0, "CT soft tissue, level 40, width 400 HU")


@dataclass(frozen=True)
class Display:
    """The display grid, and resampling of data from the fixed grid to it.

    box: the displayed part of the fixed grid, array order. order: the array axis of the fixed
    grid for each array axis of the display. turned: the display axes that are flipped.
    """

    grid: Grid
    box: tuple[slice, ...]
    order: tuple[int, ...]
    turned: tuple[int, ...]

    @classmethod
    def of(cls, fixed: Image, window: Window) -> Display:
        """A display of the foreground of a fixed image, upright, in nearly isotropic voxels."""
        box = _object_box(fixed, window)
        cropped = fixed.grid.crop([s.start for s in box], [s.stop for s in box])
        order, turned = cropped.upright_axes()
        return cls(_square(cropped.with_axes(order, turned)), box, order, turned)

    @property
    def coarse_shape(self) -> tuple[int, ...]:
        shape = self.grid.shape
        if math.prod(shape) < _COARSE_FROM:
            return shape
        return tuple(math.ceil(n / 2) for n in shape)

    @cached_property
    def coarse_grid(self) -> Grid:
        """Of the arrays that are kept at half resolution."""
        return _of_shape(self.grid, self.coarse_shape)

    def show(self, data: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
        """Values (C, *fixed shape) on the display grid or on another shape with the same extent."""
        return _resize(self._upright(data), shape or self.grid.shape)

    def show_coarse(self, data: Tensor, grid: Grid) -> Tensor:
        """Values on the fixed grid, or already on the coarse one, on the latter."""
        return data if grid == self.coarse_grid else self.show(data, self.coarse_shape)

    def lowest(self, data: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Like ``show``, but the minimum over each voxel."""
        pool = F.adaptive_max_pool3d if len(shape) == 3 else F.adaptive_max_pool2d
        return -pool(-self._upright(data), shape)

    def show_nearest(self, data: Tensor) -> Tensor:
        """Labels (*fixed shape) on the display grid."""
        data = self._upright(data[None])[0]
        for axis, count in enumerate(self.grid.shape):
            index = ((torch.arange(count) + 0.5) * (data.shape[axis] / count)).long()
            data = data.index_select(axis, index) if count != data.shape[axis] else data
        return data

    def describe(self) -> dict[str, np.ndarray]:
        shape = self.coarse_shape[::-1]
        coarse = [e / n for e, n in zip(self.grid.extent, shape, strict=True)]
        return {
            "spacing_mm": np.array(self.grid.spacing),
            "coarse_spacing_mm": np.array(coarse),
            "origin_mm": np.array(self.grid.origin),
            "direction": np.array(self.grid.direction),
            "letters": np.array(axis_letters(self.grid)),
        }

    def _upright(self, data: Tensor) -> Tensor:
        data = data[(slice(None), *self.box)].permute(0, *[axis + 1 for axis in self.order])
        return data.flip([axis + 1 for axis in self.turned])


def axis_letters(grid: Grid) -> list[tuple[str, str]]:
    """The patient's side at the low and the high end of each voxel axis, (x, y, z) order.

    An axis more than about 24 degrees off the patient's gets a second letter, as in "AL". A 2D
    image has no orientation in the patient: its letters are empty.
    """
    if grid.dimension == 2:
        return [("", "")] * 2
    letters = []
    for column in np.array(grid.direction).T:
        main = [axis for axis in np.argsort(-abs(column)) if abs(column[axis]) > 0.4][:2]
        letters.append(tuple("".join(side(a, way * column[a]) for a in main) for way in (-1, 1)))
    return letters


def _square(grid: Grid) -> Grid:
    """The same field of view in nearly isotropic voxels, at most ``MAX_VOXELS``."""
    dimension = grid.dimension
    side = max(min(grid.spacing), max(grid.extent) / MAX_SIDE[dimension])
    side = max(side, (math.prod(grid.extent) / MAX_VOXELS) ** (1 / dimension))
    return _of_shape(grid, tuple(max(1, round(e / side)) for e in grid.extent[::-1]))


def _of_shape(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """The same field of view in another number of voxels."""
    if shape == grid.shape:
        return grid
    size = shape[::-1]
    spacing = np.array([e / n for e, n in zip(grid.extent, size, strict=True)])
    half = np.array(grid.direction) @ ((np.array(size) - 1) / 2 * spacing)
    origin = grid.center.numpy() - half
    return replace(grid, shape=shape, spacing=tuple(spacing), origin=tuple(origin))


def _object_box(image: Image, window: Window) -> tuple[slice, ...]:
    """Array slices around all above the lowest tenth of the window, with a margin."""
    bright = image.data[0] > window.low + 0.1 * (window.high - window.low)
    box = []
    for axis, count in enumerate(bright.shape):
        others = [a for a in range(bright.ndim) if a != axis]
        where = bright.amax(others).nonzero()[:, 0]
        first, last = (where[0].item(), where[-1].item()) if len(where) else (0, count - 1)
        margin = math.ceil(_MARGIN * (last + 1 - first))
        box.append(slice(max(0, first - margin), min(count, last + 1 + margin)))
    return tuple(box)


def _resize(data: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Linear from face to face, averaging where it shrinks; (C, *shape)."""
    if tuple(data.shape[1:]) == tuple(shape):
        return data
    settings = {"mode": "bilinear", "antialias": True, "align_corners": False}
    if len(shape) == 2:
        return F.interpolate(data[None], size=shape, **settings)[0]
    data = F.interpolate(data, size=shape[1:], **settings)  # (C, Z, y, x)
    data = F.interpolate(data.transpose(1, 2), size=(shape[0], shape[2]), **settings)
    return data.transpose(1, 2)


def _before(moving: Image, initial: Transform, grid: Grid, window: Window) -> np.ndarray:
    """The moving image through ``initial`` on the display grid, uint8."""
    start = compose(AffineTransform(torch.eye(grid.dimension + 1)), initial)
    if not isinstance(start, AffineTransform):
        first = replace(moving, data=moving.data[:1])
        return window.apply(warp(first, start, onto=grid, default=window.low).data[0])
    # ndimage is three times as fast as the exact warp, but lacks half a voxel at the border.
    matrix = moving.grid.physical_to_voxel() @ start.matrix @ grid.voxel_to_physical()
    matrix = matrix.numpy()
    data = ndimage.affine_transform(
        moving.data[0].numpy(),
        matrix[:-1, :-1][::-1, ::-1],
        matrix[:-1, -1][::-1],
        output_shape=grid.shape,
        order=1,
        cval=window.low,
    )
    return window.apply(torch.from_numpy(data))


def _shown_matches(
    matches: Matches | None, moving: Image, transform: Transform, grid: Grid, window: Window
) -> dict[str, np.ndarray]:
    """At most ``_MATCHES``, evenly spaced in their order; nothing of None."""
    if matches is None:
        return {}
    first = parts_of(transform)[:1]
    affine = compose(*(part for part in first if isinstance(part, AffineTransform)))
    few = slice(None, None, max(1, math.ceil(len(matches.kept) / _MATCHES)))
    matrix = grid.physical_to_voxel()
    back = affine.inverse()
    return {
        "aligned": _before(moving, affine, grid, window),
        "matches_fixed": apply_matrix(matrix, matches.fixed[few]).float().numpy(),
        "matches_moving": apply_matrix(matrix, back(matches.moving[few])).float().numpy(),
        "matches_of_fixed": matches.of_fixed[few].numpy(),
        "matches_kept": matches.kept[few].numpy(),
    }


def _shown_jacobian(display: Display, jacobian: Image) -> np.ndarray:
    """Averaged, but a fold stays a fold; positive values stay positive in float16."""
    shown = display.show_coarse(jacobian.data, jacobian.grid)
    if jacobian.grid != display.coarse_grid and (jacobian.data <= 0).any():
        lowest = display.lowest(jacobian.data, display.coarse_shape)
        shown = torch.where(lowest <= 0, lowest, shown)
    shown = torch.where(shown > 0, shown.clamp(1e-6, 6e4), shown.clamp(min=-6e4))
    return shown[0].to(torch.float16).numpy()


def _shown_values(display: Display, image: Image) -> np.ndarray:
    return display.show_coarse(image.data[:1], image.grid)[0].to(torch.float16).numpy()


def _shown_displacement(display: Display, field: DisplacementField) -> np.ndarray:
    shown = display.show_coarse(field.vectors.to(torch.float32), field.grid)
    axes = torch.tensor(display.grid.direction, dtype=torch.float32)
    return torch.einsum("ij,i...->j...", axes, shown).to(torch.float16).numpy()


def _shown_labels(display: Display, labels: LabelMap, grid: Grid) -> np.ndarray:
    """uint16 where the labels fit, else int32."""
    if not labels.grid.matches(grid):
        labels = warp(labels, IDENTITY, onto=grid)
    data = display.show_nearest(labels.data)
    small = 0 <= int(data.min()) and int(data.max()) < 1 << 16
    return data.numpy().astype(np.uint16 if small else np.int32)


def _check_grids(grid: Grid, values: Mapping[str, Image | DisplacementField | None]):
    for name, value in values.items():
        if value is not None and not value.grid.matches(grid):
            raise ValueError(
                f"{name} (size {value.grid.size}) does not lie on the fixed grid (size "
                f"{grid.size}): resample it onto the fixed image first"
            )
