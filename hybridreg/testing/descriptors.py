"""The contract of a descriptor, as functions of the descriptor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from hybridreg.descriptors.base import Descriptor
from hybridreg.images import Image
from hybridreg.phantoms import blobs
from hybridreg.testing.promises import doubled, require

_SHIFT, _BORDER = 2, 6  # voxels
_SHIFT_ERROR = 0.1  # in standard deviations of the descriptor


DIMENSIONS = (2, 3)


def check_descriptor(descriptor: Descriptor, dimensions: Sequence[int] = DIMENSIONS):
    """Runs every promise of a descriptor on small oblique phantoms, in 2D and 3D.

    dimensions: those that it describes, such as (3,). AssertionError says which promise is broken.
        See ``DESCRIPTOR_CHECKS`` for the promises.
    """
    for check in DESCRIPTOR_CHECKS:
        check(descriptor, dimensions)


def keeps_the_grid(descriptor: Descriptor, dimensions: Sequence[int] = DIMENSIONS):
    """An image on the same grid, float32 and finite, flat places and two channels included."""
    for image in _images(dimensions):
        for given in (image, Image(image.data.clamp(min=0.3), image.grid), doubled(image)):
            found = descriptor(given)
            require(isinstance(found, Image), f"it gave a {type(found).__name__}, not an Image")
            require(found.grid == given.grid, "it gave an image on another grid")
            require(found.data.dtype == torch.float32, f"it gave {found.data.dtype}, not float32")
            bad = int((~torch.isfinite(found.data)).sum())
            require(not bad, f"{bad} values of the descriptor are not finite")


def says_the_same_of_every_image(descriptor: Descriptor, dimensions: Sequence[int] = DIMENSIONS):
    """As many channels for the fixed image as for the moving one, which are not constant."""
    for dimension in dimensions:
        pair = blobs(dimension=dimension).pair
        counts = [descriptor(image).channels for image in (pair.fixed, pair.moving)]
        require(counts[0] == counts[1], f"two images have {counts[0]} and {counts[1]} channels")
        data = descriptor(pair.fixed).data.flatten(1)
        require(bool((data.std(1) > 0).any()), "the descriptor is the same everywhere")


def changes_no_image(descriptor: Descriptor, dimensions: Sequence[int] = DIMENSIONS):
    """The image is what it was, and gives the same descriptors again."""
    for image in _images(dimensions):
        before = image.data.clone()
        first, second = descriptor(image).data.clone(), descriptor(image).data
        require(torch.equal(before, image.data), "it changed an image that it was given")
        require(torch.equal(first, second), "it described the same image twice, and differently")


def follows_a_shift(descriptor: Descriptor, dimensions: Sequence[int] = DIMENSIONS):
    """What lies elsewhere is described alike there: in other voxels,
    and in another place in space.
    """
    for image in _images(dimensions):
        here = descriptor(image).data
        origin = [x + 100.0 for x in image.grid.origin]
        away = Image(image.data, replace(image.grid, origin=origin))
        _alike(here, descriptor(away).data, "another place in space")
        axis = image.data.ndim - 1
        shifted = descriptor(Image(image.data.roll(_SHIFT, axis), image.grid)).data
        _alike(here, shifted.roll(-_SHIFT, axis), f"{_SHIFT} voxels aside")


DESCRIPTOR_CHECKS: tuple[Callable[..., None], ...] = (
    keeps_the_grid,
    changes_no_image,
    says_the_same_of_every_image,
    follows_a_shift,
)


def _images(dimensions: Sequence[int]) -> Iterator[Image]:
    for dimension in dimensions:
        yield blobs(dimension=dimension, noise=0.02).pair.fixed


def _alike(a: torch.Tensor, b: torch.Tensor, where: str):
    inner = (slice(None), *[slice(_BORDER, -_BORDER)] * (a.ndim - 1))
    apart = ((a - b)[inner].abs().mean() / a[inner].std().clamp(min=1e-12)).item()
    require(
        apart < _SHIFT_ERROR,
        f"it does not follow a shift: {where} it differs by {apart:.2g} standard deviations",
    )
