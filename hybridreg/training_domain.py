"""The images that a network was trained on, as a few numbers in its card, and doubts about others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hybridreg.cases import ImagePair
from hybridreg.images import Image

_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the foreground's intensities
_SHOWN = 0.02  # of the range above the lowest value: foreground
_SAMPLES = 5000  # of the foreground
_WIDER = 1.3  # sizes and spacings may differ by this factor from any in training
_DEVIATIONS, _LEAST_DEVIATION = 4.0, 0.03  # of a quantile from the mean of the training


@dataclass(frozen=True)
class TrainingDomain:
    """What the images of a training were like.

    diagonal_mm: the smallest and the largest from corner to corner. spacing_mm: the finest and the
    coarsest of their voxels. quantiles: mean and standard deviation over the images of the 10th,
    25th, 50th, 75th and 90th percentile of the foreground, as the network sees the intensities.
    """

    diagonal_mm: tuple[float, float]
    spacing_mm: tuple[float, float]
    quantiles: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, images: Iterable[tuple[Image, Image]]) -> TrainingDomain:
        """images: each as it is, and as the network sees it."""
        diagonals, spacings, found = [], [], []
        for image, seen in images:
            diagonals.append(image.grid.diagonal)
            spacings += image.grid.spacing
            found.append(_quantiles(seen))
        values = torch.stack(found)
        spread = values.std(0, correction=0)
        pairs = zip(values.mean(0).tolist(), spread.tolist(), strict=True)
        return cls((min(diagonals), max(diagonals)), (min(spacings), max(spacings)), tuple(pairs))

    @classmethod
    def from_card(cls, values: dict[str, Any]) -> TrainingDomain | None:
        """As in ``Card.domain``; None for weights whose card has none."""
        return cls(**values) if values else None

    def for_card(self) -> dict[str, Any]:
        return asdict(self)

    def doubts(self, pair: ImagePair, seen: ImagePair) -> Iterator[str]:
        """Why a network may fail on a pair: sizes, spacings and contrasts that it has not learned.

        seen: both images as the network sees them.
        """
        for side in ("fixed", "moving"):
            image = getattr(pair, side)
            low, high = self.diagonal_mm
            if not low / _WIDER <= image.grid.diagonal <= high * _WIDER:
                yield (
                    f"the {side} image measures {image.grid.diagonal:.0f} mm from corner "
                    "to corner, and "
                    f"the network was trained on images of {low:.0f} to {high:.0f} mm: "
                    "crop it to what "
                    "those show, or correct its spacing"
                )
            if max(image.grid.spacing) > self.spacing_mm[1] * _WIDER:
                yield (
                    f"the {side} image has voxels of {max(image.grid.spacing):.3g} mm, "
                    "and the network "
                    f"was trained on voxels of at most {self.spacing_mm[1]:.3g} mm: check "
                    "the result, or "
                    "refine it with another method"
                )
            if self._unusual(getattr(seen, side)):
                yield (
                    f"the {side} image has another contrast than the images that the network was "
                    "trained on: check the result, or use a method that is not trained"
                )

    def _unusual(self, seen: Image) -> bool:
        known = zip(_quantiles(seen).tolist(), self.quantiles, strict=True)
        return any(
            abs(value - mean) > _DEVIATIONS * max(spread, _LEAST_DEVIATION)
            for value, (mean, spread) in known
        )


def _quantiles(image: Image) -> torch.Tensor:
    """Of the intensities above the lowest, shape (5,)."""
    values = image.data.flatten()
    low, high = values.min(), values.max()
    shown = values[values > low + _SHOWN * (high - low)]
    shown = shown[:: max(1, len(shown) // _SAMPLES)] if len(shown) else values[:1]
    return torch.quantile(shown, torch.tensor(_QUANTILES))
