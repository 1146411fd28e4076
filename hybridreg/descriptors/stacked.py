"""The channels of several descriptors, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from hybridreg.descriptors.base import Descriptor, OfSeveral, OfSomeGrids, image_of
from hybridreg.descriptors.intensity import Intensity
from hybridreg.descriptors.mind import Mind
from hybridreg.geometry import Grid
from hybridreg.images import Image


@dataclass(frozen=True)
class Stacked:
    """Several descriptors of an image as channels, such as intensities before anatomy.

    descriptors: in order; the measure ``mixed`` treats the first channel in another way than the
        others.
    """

    descriptors: tuple[Descriptor, ...] = (Intensity(), Mind())

    def __post_init__(self):
        object.__setattr__(self, "descriptors", tuple(self.descriptors))
        if not self.descriptors:
            raise ValueError("stacked needs at least one descriptor")
        for descriptor in self.descriptors:
            if isinstance(descriptor, OfSeveral):
                raise ValueError(
                    f"{type(descriptor).__name__} describes both images together and "
                    "cannot be stacked"
                )

    def check(self, grid: Grid):
        """Refuses images on grids that one of the descriptors refuses (ValueError)."""
        for descriptor in self.descriptors:
            if isinstance(descriptor, OfSomeGrids):
                descriptor.check(grid)

    def __call__(self, image: Image) -> Image:
        return image_of([descriptor(image).data for descriptor in self.descriptors], image)
