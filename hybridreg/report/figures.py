"""The pictures of a report: panels of slices as data URIs, drawn from the arrays of views."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.feature import canny

from hybridreg.report.painting import Line, contours, data_uri, painted, tinted, with_lines

Views = Mapping[str, np.ndarray]

FIXED_COLOR, MOVED_COLOR = (64, 208, 222), (255, 176, 32)
FOLD_COLOR = (226, 0, 38)
GRID_COLOR = (176, 224, 160)
MAX_LABELS = 8  # more outlines than these hide each other
_FACTORS = (1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)  # ends of the Jacobian's color bar
_UNCERTAIN = ((244, 244, 240), (246, 206, 128), (224, 110, 60), (140, 24, 60))
_COLORS = ((8, 64, 129), (78, 160, 214), (244, 244, 240), (242, 184, 72), (140, 84, 0))


@dataclass(frozen=True)
class Plane:
    """One way to cut the display grid; its axes are 0, 1, 2 for x, y, z.

    normal: the axis along which slices are stacked, None for the one plane of a 2D image.
    across, down: the axes shown from left to right and from top to bottom.
    turned: ``down`` runs from the high end to the low one, so that superior is at the top.
    """

    name: str
    normal: int | None
    across: int
    down: int
    turned: bool = False

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """One slice as it is shown, rows from top to bottom."""
        if self.normal is None:
            return volume
        cut = volume.take(index, axis=volume.ndim - 1 - self.normal)
        return cut[::-1] if self.turned else cut

    def letters(self, ends: np.ndarray) -> dict[str, str]:
        """The patient's side at each edge; ends: letters of views, (axis, low or high)."""
        top, bottom = ends[self.down][::-1] if self.turned else ends[self.down]
        left, right = ends[self.across]
        return {"left": left, "right": right, "top": top, "bottom": bottom}


PLANES = {
    2: (Plane("image", None, 0, 1),),
    3: (
        Plane("axial", 2, 0, 1),
        Plane("coronal", 1, 0, 2, turned=True),
        Plane("sagittal", 0, 1, 2, turned=True),
    ),
}


@dataclass(frozen=True)
class Panel:
    """One slice in a row of them: its pictures by name, its size in mm, letters and slice."""

    images: Mapping[str, str]
    width_mm: float
    height_mm: float
    letters: Mapping[str, str]
    plane: Plane
    index: int
    named: bool = False  # even a single picture shows its name

    @property
    def axis(self) -> str:
        return "" if self.plane.normal is None else "xyz"[self.plane.normal]


Draw = Callable[[Plane, int], dict[str, str]]  # the pictures of a slice by name


@dataclass(frozen=True)
class ColorBar:
    """The legend of a map: CSS colors, numbers and words from its low to its high end."""

    colors: Sequence[str]
    ticks: Sequence[str]
    ends: Sequence[str] = ()


class Figures:
    """Draws the panels of one case; every method returns rows of them."""

    def __init__(self, views: Views):
        self.views = views
        self.dimension = views["fixed"].ndim
        self.planes = PLANES[self.dimension]

    def flicker(self) -> list[list[Panel]]:
        """Five slices of each plane with their fixed, before and moved pictures."""
        names = ("fixed", "before", "moved")
        return self._rows(5, lambda *cut: {name: self._gray(name, *cut) for name in names})

    def edges(self) -> list[list[Panel]]:
        """The fixed image's edges over the moved one, on the same slices."""
        return self._rows(5, lambda *cut: {"edges": self._edges(*cut)})

    def checkerboard(self) -> list[list[Panel]]:
        """Alternating tiles of fixed and moved, one slice of each plane."""
        return self._middle_row(lambda *cut: {"checkerboard": self._checker(*cut)})

    def jacobian(self) -> list[list[Panel]]:
        """Local change of volume on a log scale; through the folds, if there are any."""
        return [[self._through_folds(plane) for plane in self.planes]]

    def uncertainty(self) -> list[list[Panel]]:
        """The standard deviation of the displacement, one slice of each plane."""
        return self._middle_row(lambda *cut: {"uncertainty": self._uncertain(*cut)})

    def deformation(self) -> list[list[Panel]]:
        """A regular grid of the moving image as it appears in the moved image."""
        return self._middle_row(lambda *cut: {"grid": self._deformed(*cut)})

    def labels(self) -> list[list[Panel]]:
        """Outlines of the largest structures, fixed and moved, over the fixed image."""
        chosen = self.outlined_labels()
        return self._rows(3, lambda *cut: {"labels": self._outlines(*cut, chosen)})

    def fusion(self) -> list[list[Panel]]:
        """Both sources as they were fused, their overlay, the fused image and the weight."""
        shown = {"fixed": "fusion_fixed", "moved": "fusion_moved"}
        shown |= {"fused": "fused", "weight of fixed": "fusion_weight"}
        layers = (("fixed",), ("moved",), ("fixed", "moved"), ("fused",), ("weight of fixed",))
        rows = []
        for plane in self.planes:
            index = self._slices(plane, 1)[0]
            drawn = {name: self._gray(key, plane, index) for name, key in shown.items()}
            panels = [{name: drawn[name] for name in names} for names in layers]
            rows.append([replace(self._panel(plane, index, p), named=True) for p in panels])
        return rows

    def matches(self) -> list[list[Panel]]:
        """Critical points on a slice of the fixed image, and where they lie in the moving one."""
        rows = []
        for plane in self.planes:
            index = self._slices(plane, 1)[0]
            drawn = self._matched(plane, index)
            panels = [self._panel(plane, index, {name: uri}) for name, uri in drawn.items()]
            rows.append([replace(panel, named=True) for panel in panels])
        return rows

    def frames(self) -> list[Panel]:
        """Each plane without a picture: its size and letters."""
        return [self._panel(plane, 0, {}) for plane in self.planes]

    @property
    def grid_step_mm(self) -> float:
        """A round number that gives about twenty lines along the longest side."""
        size = np.array(self.views["fixed"].shape[::-1]) * self.views["spacing_mm"]
        exact = float(size.max()) / 20
        power = 10 ** math.floor(math.log10(exact))
        return min((step * power for step in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / exact)))

    @property
    def has_folds(self) -> bool:
        return bool((self.views["jacobian"] <= 0).any())

    @property
    def color_bar(self) -> ColorBar:
        end = self._factor
        ticks = (1 / end, 1 / math.sqrt(end), 1, math.sqrt(end), end)
        colors = [f"rgb{color}" for color in _COLORS]
        ends = ("moving image enlarged", "shrunk")
        return ColorBar(colors, [f"{tick:.3g}" for tick in ticks], ends)

    @property
    def uncertainty_bar(self) -> ColorBar:
        end = self._most_uncertain
        colors = [f"rgb{color}" for color in _UNCERTAIN]
        return ColorBar(colors, [f"{part * end:.2g} mm" for part in (0, 0.5, 1)])

    def outlined_labels(self) -> list[int]:
        """The structures that are outlined: those with the most voxels in the fixed labels."""
        labels, counts = np.unique(self.views["fixed_labels"], return_counts=True)
        largest = [int(label) for label in labels[np.argsort(-counts)] if label != 0]
        return largest[:MAX_LABELS]

    @property
    def _factor(self) -> float:
        """The end of the color bar: the first round factor beyond 99 % of the voxels."""
        positive = self.views["jacobian"][self.views["jacobian"] > 0].astype(np.float32)
        wanted = np.percentile(np.abs(np.log(positive)), 99) if positive.size else 0.0
        return next((f for f in _FACTORS if math.log(f) >= wanted), _FACTORS[-1])

    def _slices(self, plane: Plane, count: int) -> list[int]:
        """``count`` slice numbers, evenly spaced through the foreground of the fixed image."""
        if plane.normal is None:
            return [0]
        fixed = self.views["fixed"]
        axis = fixed.ndim - 1 - plane.normal
        others = tuple(a for a in range(fixed.ndim) if a != axis)
        shown = np.flatnonzero((fixed > 40).mean(others) > 0.01)
        first, last = (shown[0], shown[-1]) if len(shown) else (0, fixed.shape[axis] - 1)
        where = (np.arange(count) + 1) / (count + 1)
        return sorted({int(i) for i in np.round(first + where * (last - first))})

    def _rows(self, count: int, draw: Draw) -> list[list[Panel]]:
        """``count`` slices of each plane, one row per plane."""
        return [
            [self._panel(plane, index, draw(plane, index)) for index in self._slices(plane, count)]
            for plane in self.planes
        ]

    def _middle_row(self, draw: Draw) -> list[list[Panel]]:
        """The middle slice of each plane, all in one row."""
        return [[panel for row in self._rows(1, draw) for panel in row]]

    def _panel(self, plane: Plane, index: int, images: Mapping[str, str]) -> Panel:
        size = np.array(self.views["fixed"].shape[::-1]) * self.views["spacing_mm"]
        letters = plane.letters(self.views["letters"])
        width, height = float(size[plane.across]), float(size[plane.down])
        return Panel(images, width, height, letters, plane, index)

    def _zoom(self, plane: Plane, pixels: int = 560) -> int:
        shape = self.views["fixed"].shape[::-1]
        return max(1, round(pixels / max(shape[plane.across], shape[plane.down])))

    def _enlarged(self, name: str, plane: Plane, index: int, zoom: int) -> Image.Image:
        cut = Image.fromarray(np.ascontiguousarray(plane.cut(self.views[name], index)))
        size = (cut.width * zoom, cut.height * zoom)
        return cut if zoom == 1 else cut.resize(size, Image.Resampling.BICUBIC)

    def _gray(self, name: str, plane: Plane, index: int) -> str:
        return data_uri(self._enlarged(name, plane, index, 1), crisp=self.dimension == 2)

    def _edges(self, plane: Plane, index: int) -> str:
        zoom = self._zoom(plane, 420)
        fixed = np.asarray(self._enlarged("fixed", plane, index, zoom), dtype=np.float32) / 255
        sigma = zoom * max(1.5, max(self.views["fixed"].shape) / 150)
        found = canny(fixed, sigma, low_threshold=0.22 / sigma, high_threshold=0.6 / sigma)
        soft = np.clip(ndimage.gaussian_filter(found.astype(np.float32), 0.6) * 2.2, 0, 1)
        moved = self._enlarged("moved", plane, index, zoom)
        return data_uri(painted(moved, soft, FIXED_COLOR))

    def _checker(self, plane: Plane, index: int) -> str:
        zoom = self._zoom(plane)
        fixed, moved = (
            np.asarray(self._enlarged(name, plane, index, zoom)) for name in ("fixed", "moved")
        )
        tile = math.ceil(max(fixed.shape) / 8)
        row, column = np.indices(fixed.shape) // tile
        return data_uri(Image.fromarray(np.where((row + column) % 2 == 0, fixed, moved)))

    def _through_folds(self, plane: Plane) -> Panel:
        index = self._slices(plane, 1)[0]
        folds = self.views["jacobian"] <= 0
        if plane.normal is not None and folds.any():
            axis = folds.ndim - 1 - plane.normal
            others = tuple(a for a in range(folds.ndim) if a != axis)
            worst = int(folds.sum(others).argmax())
            index = int((worst + 0.5) * self.views["fixed"].shape[axis] / folds.shape[axis])
        return self._panel(plane, index, {"jacobian": self._jacobian(plane, index)})

    def _jacobian(self, plane: Plane, index: int) -> str:
        cut = self._coarse(plane, self.views["jacobian"], index).astype(np.float32)
        zoom = self._zoom(plane)
        base = self._enlarged("fixed", plane, index, zoom)
        level = np.log(np.maximum(cut, 1e-3)) / math.log(self._factor)
        level = Image.fromarray(level).resize(base.size, Image.Resampling.BILINEAR)
        position = np.clip((np.asarray(level) + 1) / 2, 0, 1)
        colored = np.asarray(tinted(base, position, _COLORS))
        folds = Image.fromarray(cut <= 0).resize(base.size, Image.Resampling.NEAREST)
        image = np.where(np.asarray(folds)[..., None], FOLD_COLOR, colored)
        return data_uri(Image.fromarray(image.astype(np.uint8)))

    @property
    def _most_uncertain(self) -> float:
        """The end of the color bar: 99 % of the voxels are below."""
        return max(float(np.percentile(self.views["uncertainty"].astype(np.float32), 99)), 1e-3)

    def _uncertain(self, plane: Plane, index: int) -> str:
        cut = self._coarse(plane, self.views["uncertainty"], index).astype(np.float32)
        base = self._enlarged("fixed", plane, index, self._zoom(plane))
        level = np.clip(cut / self._most_uncertain, 0, 1)
        level = np.asarray(Image.fromarray(level).resize(base.size, Image.Resampling.BILINEAR))
        return data_uri(tinted(base, level, _UNCERTAIN))

    def _deformed(self, plane: Plane, index: int) -> str:
        zoom, step = self._zoom(plane), self.grid_step_mm
        moved = self._enlarged("moved", plane, index, zoom).point(lambda value: value * 0.6)
        lines: list[Line] = []
        for axis in (plane.across, plane.down):
            position = self._coarse(plane, self._mapped(axis), index)
            scale = moved.height / position.shape[0], moved.width / position.shape[1]
            first, last = math.ceil(position.min() / step), math.floor(position.max() / step)
            for level in range(first, last + 1):
                lines += contours(position, level * step, scale, GRID_COLOR)
        return data_uri(with_lines(moved, lines, 1.5))

    def _mapped(self, axis: int) -> np.ndarray:
        """T of each coarse voxel along a display axis, in mm from the grid's low face."""
        component = self.views["displacement"][axis].astype(np.float32)
        array_axis = component.ndim - 1 - axis
        steps = np.arange(component.shape[array_axis]) + 0.5
        shape = [-1 if a == array_axis else 1 for a in range(component.ndim)]
        return component + (steps * self.views["coarse_spacing_mm"][axis]).reshape(shape)

    def _coarse(self, plane: Plane, volume: np.ndarray, index: int) -> np.ndarray:
        """The slice of a coarse volume at a slice of the display grid."""
        if plane.normal is None:
            return volume
        axis = volume.ndim - 1 - plane.normal
        count = self.views["fixed"].shape[axis]
        return plane.cut(volume, int((index + 0.5) * volume.shape[axis] / count))

    def _outlines(self, plane: Plane, index: int, chosen: Sequence[int]) -> str:
        zoom = self._zoom(plane)
        lines: list[Line] = []
        for name, color in (("moved_labels", MOVED_COLOR), ("fixed_labels", FIXED_COLOR)):
            if name not in self.views:
                continue
            cut = plane.cut(self.views[name], index)
            for label in np.intersect1d(chosen, np.unique(cut)):
                mask = ndimage.gaussian_filter(np.pad(cut == label, 1).astype(np.float32), 0.6)
                for points, _ in contours(mask, 0.5, (zoom, zoom), color):
                    lines.append((points - zoom, color))
        fixed = self._enlarged("fixed", plane, index, zoom).point(lambda value: value * 0.7)
        return data_uri(with_lines(fixed, lines, 1.5))

    def _matched(self, plane: Plane, index: int) -> dict[str, str]:
        """Both ends of the matches that start on a slice, in the fixed and the aligned image."""
        zoom = self._zoom(plane)
        fixed, moving = self.views["matches_fixed"], self.views["matches_moving"]
        on_slice = np.ones(len(fixed), bool)
        if plane.normal is not None:
            on_slice = np.round(fixed[:, plane.normal]) == index
        of_fixed, kept = (self.views[f"matches_{name}"][on_slice] for name in ("of_fixed", "kept"))
        a, b = (self._pixels(plane, where[on_slice], zoom) for where in (fixed, moving))
        dots: list[list[Line]] = [[], []]
        lines: list[Line] = []
        for chosen, color in (
            (kept & of_fixed, FIXED_COLOR),
            (kept & ~of_fixed, MOVED_COLOR),
            (~kept, FOLD_COLOR),
        ):
            for dot, ends in zip(dots, (a, b), strict=True):
                dot += [(np.stack([p - (0, 1), p + (0, 1)]), color) for p in ends[chosen]]
            lines += [(np.stack(ends), color) for ends in zip(a[chosen], b[chosen], strict=True)]
        under, over = (
            self._enlarged(name, plane, index, zoom).point(lambda value: value * 0.7)
            for name in ("fixed", "aligned")
        )
        return {
            "fixed": data_uri(with_lines(under, dots[0], 4)),
            "moving, affine only": data_uri(with_lines(with_lines(over, lines, 1), dots[1], 4)),
        }

    def _pixels(self, plane: Plane, voxels: np.ndarray, zoom: int) -> np.ndarray:
        """(row, column) of voxels (N, D) in a picture of a slice."""
        last = self.views["fixed"].shape[::-1][plane.down] - 1
        down = voxels[:, plane.down]
        rows = last - down if plane.turned else down
        return (np.stack([rows, voxels[:, plane.across]], 1) + 0.5) * zoom - 0.5
