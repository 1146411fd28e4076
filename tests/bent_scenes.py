"""Pairs of bent blobs, for methods that compose small steps."""

from dataclasses import replace

import torch

from hybridreg.cases import ImagePair
from hybridreg.images import Image, LabelMap
from hybridreg.phantoms import blobs
from hybridreg.transforms import IDENTITY, DisplacementField, compose, rigid
from hybridreg.warping import warp


def bent(dimension: int, **settings):
    """Blobs on oblique anisotropic grids, turned, shifted and bent."""
    angles = (6.0,) if dimension == 2 else (4.0, -5.0, 6.0)
    return blobs(
        dimension=dimension,
        angles_deg=angles,
        translation_mm=(2.0, -1.0, 1.5)[:dimension],
        deformation_mm=3.0,
        **settings,
    )


def turned_far():
    """A case turned further than such a method finds by itself; that turn,
    alone and after a field.
    """
    angles, translation = (10.0, 20.0, -15.0), (20.0, 0.0, 5.0)
    case = blobs(dimension=3, angles_deg=angles, translation_mm=translation, deformation_mm=2.0)
    turn = rigid(angles, translation, case.pair.moving.grid.center)
    grid = case.pair.fixed.grid
    shift = DisplacementField(torch.full((3, *grid.shape), 0.5), grid)
    return case, (turn, compose(turn, shift))


def with_noise(pair: ImagePair) -> ImagePair:
    """A channel of noise before those of the images."""
    noise = torch.Generator().manual_seed(1)

    def noisy(image: Image) -> Image:
        rough = torch.rand(image.data.shape, generator=noise) * 0.1
        return Image(torch.cat([rough, image.data]), image.grid)

    return ImagePair(noisy(pair.fixed), noisy(pair.moving))


def thick(pair: ImagePair) -> ImagePair:
    """6 mm slices of blobs, whose widths are about as much."""

    def sliced(image: Image) -> Image:
        return warp(image, IDENTITY, onto=image.grid.with_spacing((*image.grid.spacing[:2], 6.0)))

    return ImagePair(sliced(pair.fixed), sliced(pair.moving))


def masked_apart(pair: ImagePair) -> ImagePair:
    """Masks of opposite corners, with nothing inside both."""
    masks = []
    for image, part in ((pair.fixed, slice(0, 8)), (pair.moving, slice(-8, None))):
        inside = torch.zeros(image.grid.shape, dtype=torch.int32)
        inside[part, part] = 1
        masks.append(LabelMap(inside, image.grid))
    return replace(pair, fixed_mask=masks[0], moving_mask=masks[1])


def error_mm(case, transform) -> torch.Tensor:
    moved = transform(case.fixed_landmarks.points)
    return (moved - case.moving_landmarks.points).norm(dim=-1)
