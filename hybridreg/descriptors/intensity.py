"""Intensities themselves, scaled to [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridreg.images import Image
from hybridreg.intensity import to_unit


@dataclass(frozen=True)
class Intensity:
    """Intensities in [0, 1]: for images of one modality.

    rule: of ``intensity.to_unit``, such as "percentiles", "bone" or "0..900"; all channels are
        scaled alike. ValueError for an image that the rule cannot scale, such as a constant one.
    """

    rule: str = "percentiles"

    def __call__(self, image: Image) -> Image:
        return replace(to_unit(image, self.rule)[0], dtype="float32")
