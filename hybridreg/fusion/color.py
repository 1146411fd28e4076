"""Color in fusion: functional images given as colored pictures, and numbers laid over anatomy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hybridreg.fusion.aligned import Fused, fuse
from hybridreg.images import Image

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: BT.601

# Colors from 0 to 1, linear between: both start at black, so that a value of 0 adds nothing.
COLORMAPS = {
    "hot": ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)),
    "cold": ((0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)),
}


def luminance(image: Image) -> Image:
    """The BT.601 luma of a color image in [0, 1] (three channels); a gray one as it is."""
    if image.channels == 1:
        return image
    if image.channels != 3:
        raise ValueError(
            f"a color image has three channels, red, green and blue; found {image.channels}"
        )
    return replace(image, data=_luma(image.data))


def with_luminance(color: Image, luma: Image) -> Image:
    """A color image (three channels in [0, 1]) with another luma and its own chroma.

    Cb and Cr of BT.601 in full range are kept, and so are U and V of YUV: they measure the same
    differences of blue and red from the luma. So all three channels change by as much as the luma.
    Where that leaves [0, 1] they are cut, and luma and chroma with them.
    """
    data = color.data + (luma.data - _luma(color.data))
    return replace(color, data=data.clamp(0, 1))


def fuse_color(fixed: Image, moved: Image, **settings) -> tuple[Fused, Image]:
    """Fuses two aligned images in [0, 1], of which one may be in color; in gray and in color.

    The luma of the color image (three channels) is fused, and the color result keeps its
    chroma. For two gray images both results are the same. settings: as for ``fuse``.
    """
    if fixed.channels > 1 and moved.channels > 1:
        raise ValueError(
            "both images are in color, and only one chroma can be kept: give the anatomical one in "
            "gray"
        )
    fused = fuse(luminance(fixed), luminance(moved), **settings)
    colored = fixed if fixed.channels > 1 else moved
    if colored.channels == 1:
        return fused, fused.image
    return fused, with_luminance(colored, fused.image)


def overlay(
    anatomy: Image, functional: Image, *, colormap: str = "hot", opacity: float = 0.7
) -> Image:
    """A functional image in color over a gray one: three channels in [0, 1], for display.

    Both are gray, in [0, 1], on one grid. The opacity of the colors is ``opacity`` times the
    functional image: where it is 0 the anatomy is unchanged. Measured
    values stay in the functional image itself, which is not changed.
    """
    if colormap not in COLORMAPS:
        raise ValueError(f"there is no color map {colormap!r}; known are {', '.join(COLORMAPS)}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"an opacity lies between 0 and 1, found {opacity}")
    if not functional.grid.matches(anatomy.grid):
        raise ValueError(
            f"the functional image (size {functional.grid.size}) does not lie on the grid of the "
            f"anatomical one (size {anatomy.grid.size}): register or resample it first"
        )
    for name, image in (("anatomical", anatomy), ("functional", functional)):
        if image.channels != 1 or not ((image.data >= 0) & (image.data <= 1)).all():
            raise ValueError(f"the {name} image must be gray and in [0, 1]: scale it first")
    alpha = opacity * functional.data
    return replace(
        anatomy, data=torch.lerp(anatomy.data, _colored(functional.data, colormap), alpha)
    )


def _luma(data: Tensor) -> Tensor:
    """Shape (1, ...) of red, green and blue (3, ...)."""
    return torch.tensordot(torch.tensor(_LUMA), data, dims=1)[None]


def _colored(values: Tensor, colormap: str) -> Tensor:
    """Red, green and blue (3, ...) of values (1, ...) in [0, 1]."""
    colors = np.array(COLORMAPS[colormap], dtype=np.float64)
    stops = np.linspace(0, 1, len(colors))
    channels = [np.interp(values[0].numpy(), stops, channel) for channel in colors.T]
    return torch.from_numpy(np.stack(channels)).float()
