"""Agreement of label maps: overlap, and distances between surfaces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from hybridreg.images import LabelMap

_LARGEST_COUNTED = 1 << 20  # labels beyond it are renumbered before they are counted


class SurfaceDistance(NamedTuple):
    """Between the surfaces of one label in two maps; see ``surface_distances``."""

    hd95_mm: float
    mean_mm: float
    max_mm: float


class Count(NamedTuple):
    """Voxels of one label in the fixed map, in the moved map, and in both at once."""

    fixed: int
    moved: int
    both: int


def dice(fixed_labels: LabelMap, moved_labels: LabelMap) -> dict[int, float]:
    """2 |F and M| / (|F| + |M|) for every label of the fixed map;
    0 where the moved map lacks it.
    """
    counts = count(fixed_labels, moved_labels)
    return {label: 2 * n.both / (n.fixed + n.moved) for label, n in counts.items()}


def overall_dice(fixed_labels: LabelMap, moved_labels: LabelMap) -> float | None:
    """2 sum |F and M| / sum (|F| + |M|) over the labels of the fixed map: large ones count more.

    None where the fixed map has no label.
    """
    counts = count(fixed_labels, moved_labels).values()
    total = sum(n.fixed + n.moved for n in counts)
    return 2 * sum(n.both for n in counts) / total if total else None


def count(fixed_labels: LabelMap, moved_labels: LabelMap) -> dict[int, Count]:
    """Voxels of every label of the fixed map, in rising order of the labels."""
    _check_grids(fixed_labels, moved_labels)
    fixed, moved = fixed_labels.data.numpy().ravel(), moved_labels.data.numpy().ravel()
    names = None
    if min(fixed.min(), moved.min()) < 0 or max(fixed.max(), moved.max()) > _LARGEST_COUNTED:
        names, numbers = np.unique(np.stack([fixed, moved]), return_inverse=True)
        fixed, moved = numbers.reshape(2, -1)
    length = max(fixed.max(), moved.max()) + 1
    counts = [np.bincount(v, minlength=length) for v in (fixed, moved, fixed[fixed == moved])]
    found = {}
    for number in np.flatnonzero(counts[0]):
        label = int(number if names is None else names[number])
        if label != 0:
            found[label] = Count(*(int(c[number]) for c in counts))
    return found


def surface_distances(
    fixed_labels: LabelMap, moved_labels: LabelMap
) -> dict[int, SurfaceDistance | None]:
    """Distances in mm between the surfaces of every label of the fixed map.

    None where the moved map lacks the label. The surface of a label are the centers of its voxels
    that share a face with another label or with the outside of the image; from each, the distance
    to the nearest one of the other map is taken.

    hd95: the larger of the two directed 95th percentiles (as in MONAI; the percentile of the union
    would be smaller). mean: over the points of both surfaces. max: the Hausdorff distance.
    """
    _check_grids(fixed_labels, moved_labels)
    fixed, moved = _surfaces(fixed_labels), _surfaces(moved_labels)
    return {
        label: _distance(points, moved[label]) if label in moved else None
        for label, points in fixed.items()
    }


def _distance(fixed: np.ndarray, moved: np.ndarray) -> SurfaceDistance:
    there, _ = cKDTree(moved).query(fixed)
    back, _ = cKDTree(fixed).query(moved)
    return SurfaceDistance(
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        mean_mm=float(np.concatenate([there, back]).mean()),
        max_mm=float(max(there.max(), back.max())),
    )


def _surfaces(labels: LabelMap) -> dict[int, np.ndarray]:
    """The surface points (N, D) of each label, in mm along the voxel axes."""
    data = labels.data.numpy()
    surface = np.zeros(data.shape, dtype=bool)
    for axis, length in enumerate(data.shape):
        if length == 1:  # a volume of one slice: its labels have edges, no faces
            continue
        view, values = np.moveaxis(surface, axis, 0), np.moveaxis(data, axis, 0)
        differs = values[1:] != values[:-1]
        view[1:] |= differs
        view[:-1] |= differs
        view[[0, -1]] = True
    surface &= data != 0
    points = np.argwhere(surface) * labels.grid.spacing[::-1]
    values = data[surface]
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    return dict(zip(found.tolist(), np.split(points[order], starts[1:]), strict=False))


def _check_grids(fixed: LabelMap, moved: LabelMap):
    if not fixed.grid.matches(moved.grid):
        raise ValueError(
            "labels are compared voxel by voxel, but the fixed labels (size "
            f"{fixed.grid.size}, spacing {fixed.grid.spacing}) and the moved ones (size "
            f"{moved.grid.size}, spacing {moved.grid.spacing}) lie on different grids: warp the "
            "moving labels onto the grid of the fixed ones"
        )
