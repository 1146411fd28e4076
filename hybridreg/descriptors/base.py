"""The protocol of a descriptor."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hybridreg.images import Image


@runtime_checkable
class Descriptor(Protocol):
    """An image (C, *shape) -> an image of descriptor channels on the same grid.

    Each channel of the image is described separately; their descriptors are concatenated.
    """

    def __call__(self, image: Image) -> Image: ...


def image_of(descriptors: list[Tensor], image: Image) -> Image:
    """The descriptors (C, *shape) of each channel of an image, one after the other on its grid."""
    return Image(torch.cat(descriptors), image.grid)
