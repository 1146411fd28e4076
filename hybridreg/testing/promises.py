"""Common parts of the contracts."""

from __future__ import annotations

import torch

from hybridreg.images import Image


def require(holds: bool, otherwise: str):
    """AssertionError with the text, unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


def doubled(image: Image) -> Image:
    """Two channels that show the same in two contrasts."""
    return Image(torch.cat([image.data, 1.5 - 0.5 * image.data]), image.grid)
