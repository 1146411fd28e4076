"""The protocol of a descriptor."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hybridreg.geometry import Grid
from hybridreg.images import Image


@runtime_checkable
class Descriptor(Protocol):
    """An image (C, *shape) -> an image of descriptor channels on the same grid.

    Each channel of the image is described separately; their descriptors are concatenated.
    """

    def __call__(self, image: Image) -> Image: ...


@runtime_checkable
class OfSomeGrids(Protocol):
    """A descriptor that cannot describe every image, such as a network trained for volumes."""

    def check(self, grid: Grid):
        """Raises ValueError for images on such a grid, and says what to do."""
        ...


@runtime_checkable
class OfSeveral(Protocol):
    """A descriptor whose channels can only be compared between images that it describes
    together.
    """

    def jointly(self, *images: Image) -> list[Image]: ...


def image_of(descriptors: list[Tensor], image: Image) -> Image:
    """The descriptors (C, *shape) of each channel of an image, one after the other on its grid."""
    return Image(torch.cat(descriptors), image.grid)
