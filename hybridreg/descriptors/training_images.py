"""The images that descriptors are trained on: settings, reading and checks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hybridreg.descriptors.trained_lattice import TrainedLattice
from hybridreg.images import Image
from hybridreg.io.checkpoints import Card
from hybridreg.io.files import naming
from hybridreg.io.images import read_image


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """Images to train on, and their description in the model card.

    images: for training, files. validation: others, of other persons, for choosing the weights.
    dimension: of the images. spacing_mm: voxels to train with; images are resampled to it.
    intensity: a rule of ``intensity.to_unit``.
    """

    images: tuple[Path, ...]
    validation: tuple[Path, ...]
    dimension: int = 3
    spacing_mm: float = 1.0
    intensity: str = "percentiles"
    data: str = "not stated"
    data_licence: str = "not stated"
    weights_licence: str = "not stated"

    def __post_init__(self):
        names = [path.name for path in (*self.images, *self.validation)]
        if not self.images or not self.validation:
            raise ValueError("give images for training, and others for validation")
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)} is given twice: leave one out")
        if self.dimension not in (2, 3) or not self.spacing_mm > 0:
            raise ValueError(
                "images have 2 or 3 dimensions and spacing_mm is more than 0, found "
                f"{self.dimension} and {self.spacing_mm}"
            )

    def lattice(self, *, upright: bool = False) -> TrainedLattice:
        """What the network gets to see of an image."""
        return TrainedLattice(self.dimension, self.spacing_mm, self.intensity, upright)

    def values(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The images for training and for validation as the network sees them, by name."""
        lattice = self.lattice()
        return tuple(
            {name: lattice.values(image) for name, image in read_all(paths, lattice).items()}
            for paths in (self.images, self.validation)
        )

    def card(self, train: Iterable[str], validation: Iterable[str], **others: Any) -> Card:
        """The card of weights trained with these settings on images of these names."""
        return Card(
            intensity_rule=self.intensity,
            spacing_mm=self.spacing_mm,
            split={"train": sorted(train), "validation": sorted(validation)},
            seed=0,
            validation={},
            data=self.data,
            data_licence=self.data_licence,
            weights_licence=self.weights_licence,
            **others,
        )


def read_all(paths: Iterable[Path], lattice: TrainedLattice) -> dict[str, Image]:
    """The first channel of every image by the name of its file (ValueError for unsuitable ones)."""
    found = {}
    for path in paths:
        image = read_image(path)
        with naming(path):
            lattice.check(image.grid)
            found[path.name.partition(".")[0]] = Image(image.data[:1], image.grid)
    return found


def fingerprints(values: Mapping[str, Tensor]) -> dict[str, str]:
    """Checksums of arrays by name, which must not change when a run is resumed."""
    return {
        name: hashlib.sha256(array.contiguous().numpy().tobytes()).hexdigest()[:16]
        for name, array in sorted(values.items())
    }
