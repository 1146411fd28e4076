"""The input of networks: grid, smoothing and intensity scaling of a pair.

Common to methods, targets and training, so that inputs in use and in training are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.intensity import to_unit
from hybridreg.momentum import momentum_grid
from hybridreg.preprocessing import smoothed_for
from hybridreg.transforms import IDENTITY, Transform, parts_of
from hybridreg.warping import lowest, warp

_SHOWN = 0.02  # of the range of intensities: larger differences from the border are foreground


@dataclass(frozen=True)
class NetworkInputs:
    """The preprocessing of a network's input, as in its model card.

    spacing_mm: of the voxels along every axis; that of the fixed image if coarser.
    intensity: a rule of ``intensity.to_unit``, or None for unscaled values.
    """

    spacing_mm: float
    intensity: str | None = "percentiles"

    def grid(self, pair: ImagePair) -> Grid:
        """The grid of the input: the foreground of both images and a margin (``momentum_grid``).

        pair: both images on the fixed grid.
        """
        return momentum_grid(shown_box(pair), self.spacing_mm, self.spacing_mm)[0]

    def __call__(self, pair: ImagePair, initial: Transform, onto: Grid) -> ImagePair:
        """Both images on a grid, the moving one through ``initial`` (fixed -> moving), scaled."""
        shown = on_grid(pair, initial, onto)
        return replace(
            pair,
            fixed=scaled(shown.fixed, self.intensity),
            moving=scaled(shown.moving, self.intensity),
        )


def on_grid(pair: ImagePair, initial: Transform, onto: Grid) -> ImagePair:
    """Both images smoothed for the voxels of a grid and sampled there, the moving one through
    ``initial``.

    Masks and points are left out. An image that stays where it is, on that grid, is not changed.
    """
    spacing = min(onto.spacing)
    fixed, moving = (
        image
        if image.grid == onto and not parts_of(by)
        else warp(smoothed_for(image, spacing), by, onto=onto, default=lowest(image))
        for image, by in ((pair.fixed, IDENTITY), (pair.moving, initial))
    )
    return ImagePair(fixed, moving)


def scaled(image: Image, rule: str | None) -> Image:
    """The image in [0, 1] by a rule of ``intensity.to_unit``; None leaves it as it is."""
    return image if rule is None else to_unit(image, rule)[0]


def shown_box(pair: ImagePair) -> Grid:
    """The part of the fixed grid with the foreground of both images, which are on that grid."""
    shown = torch.zeros(pair.fixed.grid.shape, dtype=torch.bool)
    for image in (pair.fixed, pair.moving):
        for channel in image.data:
            border = channel.flatten()[0]
            span = channel.max() - channel.min()
            shown |= (channel - border).abs() > _SHOWN * span
    if not shown.any():
        shown[:] = True
    start, stop = [], []
    for axis in range(shown.ndim):
        others = tuple(a for a in range(shown.ndim) if a != axis)
        places = shown.any(others[0]) if len(others) == 1 else shown.amax(others)
        places = places.nonzero().flatten()
        start.append(int(places[0]))
        stop.append(int(places[-1]) + 1)
    return pair.fixed.grid.crop(start, stop)
