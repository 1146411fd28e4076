"""Square windows of photographs, the training data of the fusion networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

LEVELS = 5  # of blur: the filter once to five times (Liu 2017)
SIGMA, TAPS = 2.0, 7
BLUR_REACH = LEVELS * (TAPS // 2)  # margin in pixels that the strongest blur of a patch needs
SCALES = (1.0, 2**-0.5, 0.5, 0.5 * 2**-0.5)


class Windows:
    """Windows of photographs, drawn evenly from photographs, their scales and places.

    photographs: by name, shape (y, x), uint8, at least ``size`` pixels along each side.
    varied: also from smaller copies, mirrored and rotated by multiples of 90 degrees.
    """

    def __init__(self, photographs: Mapping[str, Tensor], *, size: int, varied: bool):
        self._size, self._varied = size, varied
        copies = [
            [
                c
                for scale in (SCALES if varied else (1.0,))
                for c in _scaled(name, photo, scale, size)
            ]
            for name, photo in photographs.items()
        ]
        flat = [copy for per_photo in copies for copy in per_photo]
        # All in one flat tensor, so that one indexing takes windows from any of them.
        self._pixels = torch.cat([copy.flatten() for copy in flat])
        sizes = torch.tensor([copy.shape for copy in flat])
        self._height, self._width = sizes.unbind(1)
        self._start = sizes.prod(1).cumsum(0) - sizes.prod(1)
        counts = torch.tensor([len(per_photo) for per_photo in copies])
        self._count, self._first = counts, counts.cumsum(0) - counts

    def draw(self, number: int, random: Generator) -> Tensor:
        """Shape (number, size, size), in [0, 1]."""
        return self._pixels[self._places(number, random)] / 255

    def _places(self, number: int, random: Generator) -> Tensor:
        """Indices of random windows into the flat tensor of all pixels: (number, size, size)."""

        def below(limits: Tensor) -> Tensor:
            return (torch.rand(number, generator=random, dtype=torch.float64) * limits).long()

        size = self._size
        photo = below(torch.tensor(float(len(self._count))))
        copy = self._first[photo] + below(self._count[photo])
        width = self._width[copy]
        y, x = below(self._height[copy] - size + 1), below(width - size + 1)
        corner = self._start[copy] + y * width + x
        down, right = width, torch.ones_like(width)
        if self._varied:  # the eight orientations of a square, by index steps alone
            flips = torch.rand(3, number, generator=random) < 0.5
            for flipped, step in ((flips[0], down), (flips[1], right)):
                corner = corner + torch.where(flipped, (size - 1) * step, 0)
            down, right = (torch.where(f, -s, s) for f, s in zip(flips, (down, right)))
            down, right = torch.where(flips[2], right, down), torch.where(flips[2], down, right)
        along = torch.arange(size)
        rows = corner[:, None] + down[:, None] * along
        return rows[:, :, None] + (right[:, None] * along)[:, None]


def blurred(windows: Tensor) -> Iterator[Tensor]:
    """The windows blurred once, twice, and so on, each smaller by the filter's margin."""
    along = torch.arange(TAPS, dtype=torch.float32) - TAPS // 2
    taps = torch.exp(-(along**2) / (2 * SIGMA**2))
    taps = (taps / taps.sum()).to(windows)
    image = windows[:, None]
    for _ in range(LEVELS):
        image = F.conv2d(F.conv2d(image, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
        yield image[:, 0]


def middle(windows: Tensor, size: int) -> Tensor:
    """The central square of ``size`` pixels of each window."""
    margin = (windows.shape[-1] - size) // 2
    return windows[:, margin : margin + size, margin : margin + size]


def other_contrast(windows: Tensor, random: Generator) -> Tensor:
    """Random contrast of 0.5 to 1.5, brightness changed by up to 0.2, half of them as negatives."""
    gain, shift, sign = torch.rand(3, len(windows), 1, 1, generator=random)
    gain = (0.5 + gain) * torch.where(sign < 0.5, -1.0, 1.0)
    return ((windows - 0.5) * gain + 0.5 + 0.4 * (shift - 0.5)).clamp_(0, 1)


def _scaled(name: str, photo: Tensor, scale: float, least: int) -> list[Tensor]:
    """The photograph downsampled with antialiasing; empty if too small for a window."""
    if scale == 1 and (photo.ndim != 2 or min(photo.shape) < least):
        raise ValueError(
            f"{name} has {' x '.join(map(str, reversed(photo.shape)))} pixels; photographs need "
            f"{least} x {least} at least: leave it out"
        )
    size = [round(n * scale) for n in photo.shape]
    if min(size) < least:
        return []
    if scale == 1:
        return [photo]
    image = photo[None, None].float()
    small = F.interpolate(image, size, mode="bilinear", antialias=True)
    return [small[0, 0].round().to(torch.uint8)]
