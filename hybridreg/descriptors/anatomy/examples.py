"""Labeled images as examples: contrasts made of them, and voxels drawn in random poses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from hybridreg.descriptors.anatomy.network import brain, products, pyramid
from hybridreg.descriptors.patches import in_another_contrast
from hybridreg.kernels.smoothing import smoothed

_TURN, _SCALE, _SHEAR = 0.2, 0.1, 0.05  # largest; radians and fractions
_BRIGHTNESS, _NOISE = 0.1, 0.02  # standard deviations of the first as a fraction
_BIAS = 0.15  # standard deviation of the logarithm of a smooth factor
_BALANCED = 0.7  # fraction of voxels drawn evenly from the structures, the others from the image


class Labeled(NamedTuple):
    """values: (1, *shape) in [0, 1]. classes: (*shape), -1 for unknown ones. tissues: (*shape),
    0 to 3.
    """

    values: Tensor
    classes: Tensor
    tissues: Tensor | None = None


class Voxels(NamedTuple):
    """What the encoder is given of voxels, and their classes (N,)."""

    taps: Tensor
    places: Tensor
    classes: Tensor


class Source:
    """A labeled image from which voxels are drawn, turned, scaled and sheared at random.

    images: (contrasts, scales, *shape), one pyramid for each contrast that was made of it.
    """

    def __init__(self, person: Labeled, contrasts: Sequence[Tensor], scales: Sequence[int]):
        self._shape = person.classes.shape
        self._images = torch.stack([pyramid(c, scales).half().flatten(1) for c in contrasts])
        self._scales = torch.tensor(scales, dtype=torch.float32)
        self._classes = person.classes.flatten().long()
        self._order = self._classes.argsort(stable=True)
        found, counts = self._classes.unique(return_counts=True)
        starts = counts.cumsum(0) - counts
        self._starts, self._counts = starts[found >= 0], counts[found >= 0]
        inside = brain(person.values).nonzero().float()
        self._center, centered = inside.mean(0), inside - inside.mean(0)
        self._covariance = centered.T @ centered / len(centered)
        self._shown = brain(person.values).flatten().nonzero().flatten()

    def draw(self, count: int, generator: Generator) -> Voxels:
        """Voxels in a random pose, most of them drawn evenly from the structures."""
        numbers = self._numbers(count, generator)
        image = self._images[int(torch.randint(len(self._images), (1,), generator=generator))]
        voxels = self._seen(image, numbers, _pose(generator))
        factor = 1 + _BRIGHTNESS * torch.randn(1, generator=generator)
        noise = _NOISE * torch.randn(voxels.taps.shape, generator=generator)
        return voxels._replace(taps=voxels.taps * factor + noise / self._scales[:, None])

    def every(self, step: int) -> Voxels:
        """Every so many voxels of the brain as they are, in the first contrast."""
        return self._seen(self._images[0], self._shown[::step], torch.eye(3))

    def _numbers(self, count: int, generator: Generator) -> Tensor:
        balanced = int(_BALANCED * count)
        which = torch.randint(len(self._counts), (balanced,), generator=generator)
        draws = torch.rand(balanced, generator=generator)
        inside = (draws * self._counts[which]).long().minimum(self._counts[which] - 1)
        others = torch.randint(len(self._shown), (count - balanced,), generator=generator)
        return torch.cat([self._order[self._starts[which] + inside], self._shown[others]])

    def _seen(self, image: Tensor, numbers: Tensor, pose: Tensor) -> Voxels:
        """pose: (3, 3), from the axes that the encoder sees to those of the image, (z, y, x)."""
        size = torch.tensor(self._shape)
        strides = torch.tensor([self._shape[1] * self._shape[2], self._shape[2], 1])
        points = torch.stack(
            [numbers // strides[0], numbers // strides[1] % size[1], numbers % size[2]], 1
        )
        steps = torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 3) @ pose.T  # (27, 3)
        taps = []
        for number, scale in enumerate(self._scales):
            index = (
                (points[:, None] + scale * steps).round_().long().clamp_(min=0).minimum(size - 1)
            )
            taps.append(image[number][(index * strides).sum(-1)].float())
        back = torch.linalg.inv(pose)
        spread = (back @ self._covariance @ back.T).diagonal().sqrt()
        where = (points - self._center) @ back.T / spread
        return Voxels(torch.stack(taps, 1), products(where), self._classes[numbers])


def contrasts_of(person: Labeled, count: int, generator: Generator) -> list[Tensor]:
    """The image and so many others of the same anatomy: painted by tissue and structure,
    or remapped.
    """
    made = [person.values]
    for number in range(count):
        if number % 2:
            values = in_another_contrast(person.values[None], generator)[0]
        else:
            values = _painted(person, generator)
        made.append(_with_bias(values, generator))
    return made


def _painted(person: Labeled, generator: Generator) -> Tensor:
    """Random intensities for tissues, and smaller random differences between their structures."""
    tissue, structure = person.tissues.long(), person.classes.long() + 1
    count = int(structure.max()) + 1
    means = torch.rand(4, 1, generator=generator) + 0.1 * torch.randn(4, count, generator=generator)
    texture = 0.06 * torch.rand(4, generator=generator)
    values = means[tissue, structure]
    values = values + texture[tissue] * torch.randn(values.shape, generator=generator)
    values = torch.where(tissue > 0, values.clamp(0.06, 1), 0.0)
    return smoothed(values[None], (0.5,) * 3)


def _with_bias(values: Tensor, generator: Generator) -> Tensor:
    coarse = _BIAS * torch.randn(1, 1, 4, 4, 4, generator=generator)
    bias = F.interpolate(coarse, values.shape[1:], mode="trilinear", align_corners=True)[0]
    return (values * bias.exp()).clamp_(0, 1)


def _pose(generator: Generator) -> Tensor:
    z, y, x = (_TURN * (2 * torch.rand(3, generator=generator) - 1)).tolist()
    skew = torch.tensor([[0, -x, y], [x, 0, -z], [-y, z, 0]])
    pose = torch.linalg.matrix_exp(skew) @ torch.diag(
        1 + _SCALE * (2 * torch.rand(3, generator=generator) - 1)
    )
    return pose + _SHEAR * (2 * torch.rand(3, 3, generator=generator) - 1)
