"""Training of the anatomy encoder: voxels of a structure near its prototype, far from all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hybridreg.descriptors.anatomy.examples import Labeled, Source, Voxels, contrasts_of
from hybridreg.descriptors.anatomy.network import KIND, AnatomyEncoder
from hybridreg.descriptors.trained_lattice import TrainedLattice
from hybridreg.descriptors.training_images import TrainingImages, fingerprints, read_all
from hybridreg.images import Image, LabelMap
from hybridreg.io.checkpoints import Card
from hybridreg.io.files import naming
from hybridreg.io.images import read_labels

_WARM_UP = 50  # steps
_PERSONS = 4  # in a step
_STEP = 5  # between the voxels of a validation image that are compared


@dataclass(frozen=True, kw_only=True)
class AnatomyTraining(TrainingImages):
    """Trains descriptors from labeled images, for the descriptor ``anatomy``.

    labels, validation_labels: a file for each image. tissues: for contrasts "any", a file for each
    training image: 0 outside, 1 to 3 for three tissues. contrasts: "one" or "any"; then ``made``
    other contrasts are made of each image: random functions of intensity, and random intensities of
    tissues and structures. channels: of the descriptor. width, depth, scales: see
    ``AnatomyEncoder``.
    batch_size: voxels per step. learning_rate: after the warm-up; it falls to a tenth over
    ``decay`` steps.
    """

    labels: tuple[Path, ...]
    validation_labels: tuple[Path, ...]
    tissues: tuple[Path, ...] = ()
    contrasts: Literal["one", "any"] = "one"
    channels: int = 12
    width: int = 96
    depth: int = 2
    scales: tuple[int, ...] = (1, 2, 4, 8, 16)
    made: int = 8
    spacing_mm: float = 2.0
    batch_size: int = 4096
    learning_rate: float = 3e-3
    decay: int = 1500

    def __post_init__(self):
        super().__post_init__()
        wanted = len(self.images) if self.contrasts == "any" else len(self.tissues)
        counts = {
            "labels": (len(self.labels), len(self.images)),
            "validation_labels": (len(self.validation_labels), len(self.validation)),
            "tissues": (len(self.tissues), wanted),
        }
        for name, (found, needed) in counts.items():
            if found != needed:
                raise ValueError(f"{name} has {found} files, and {needed} are needed")
        if self.dimension != 3:
            raise ValueError("the anatomy encoder is for volumes: dimension is 3")

    def task(self) -> AnatomyTask:
        """What ``training.train`` takes."""
        lattice = self.lattice(upright=True)
        train = _read(self.images, self.labels, lattice, self.tissues)
        validation = _read(self.validation, self.validation_labels, lattice)
        return AnatomyTask(train, validation, settings_given=self)


@dataclass(frozen=True, eq=False)
class AnatomyTask:
    """Learns which structure each voxel belongs to, as a nearest prototype among unit vectors.

    persons: by name; their classes are the labels of the image files until ``_with_classes``.
    """

    persons: Mapping[str, Labeled]
    validation_persons: Mapping[str, Labeled]
    settings_given: AnatomyTraining = field(kw_only=True)
    steps_per_epoch: int = 100
    kind: str = KIND

    @cached_property
    def labels(self) -> list[int]:
        """Of all training images, 0 for what has no label."""
        return sorted(
            set().union(*(p.classes.unique().tolist() for p in self.persons.values())) | {0}
        )

    def _with_classes(self, person: Labeled) -> Labeled:
        known = torch.tensor(self.labels)
        place = torch.searchsorted(known, person.classes.long()).clamp(max=len(known) - 1)
        return person._replace(
            classes=torch.where(known[place] == person.classes, place, -1).short()
        )

    @cached_property
    def _sources(self) -> list[Source]:
        given, found = self.settings_given, []
        for number, person in enumerate(map(self._with_classes, self.persons.values())):
            count = given.made if given.contrasts == "any" else 0
            contrasts = contrasts_of(person, count, Generator().manual_seed(number))
            found.append(Source(person, contrasts, given.scales))
        return found

    @property
    def settings(self) -> dict[str, Any]:
        given = self.settings_given
        names = ("contrasts", "made", "batch_size", "learning_rate", "decay")
        return {
            **self._arguments,
            **{name: getattr(given, name) for name in names},
            "images": fingerprints({n: p.values for n, p in self.persons.items()}),
        }

    @property
    def _arguments(self) -> dict[str, Any]:
        given = self.settings_given
        return {
            "labels": self.labels,
            "channels": given.channels,
            "width": given.width,
            "depth": given.depth,
            "scales": list(given.scales),
        }

    def network(self, generator: Generator) -> AnatomyEncoder:
        network = AnatomyEncoder(**self._arguments)
        for name, parameter in network.named_parameters():
            if name == "prototypes":
                nn.init.normal_(parameter, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                fan = parameter[0].numel() + (9 if name == "taps" else 0)
                nn.init.normal_(parameter, std=(2 / fan) ** 0.5, generator=generator)
        return network

    def optimizer(self, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
        given = self.settings_given
        optimizer = AdamW(network.parameters(), given.learning_rate, weight_decay=1e-3)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / _WARM_UP) * max(0.03, 10 ** (-step / given.decay))

        return optimizer, LambdaLR(optimizer, factor)

    def batch(self, generator: Generator) -> Voxels:
        few = torch.randperm(len(self._sources), generator=generator)[:_PERSONS].tolist()
        count = self.settings_given.batch_size // len(few)
        drawn = [self._sources[number].draw(count, generator) for number in few]
        return Voxels(*map(torch.cat, zip(*drawn)))

    def validation(self) -> Iterator[Voxels]:
        for person in map(self._with_classes, self.validation_persons.values()):
            yield Source(person, [person.values], self.settings_given.scales).every(_STEP)

    def losses(self, network: AnatomyEncoder, batch: Voxels) -> dict[str, Tensor]:
        vectors = network(batch.taps, batch.places)
        known = batch.classes >= 0
        return {"structures": F.cross_entropy(network.scores(vectors)[known], batch.classes[known])}

    def scores(self, network: AnatomyEncoder, batch: Voxels) -> dict[str, Tensor]:
        """The mean Dice coefficient of the structures by the nearest prototype."""
        found = network.scores(network(batch.taps, batch.places)).argmax(1)
        known, size = batch.classes >= 0, len(self.labels)
        found, wanted = found[known], batch.classes[known]
        both = wanted[wanted == found].bincount(minlength=size)
        sizes = wanted.bincount(minlength=size) + found.bincount(minlength=size)
        shown = wanted.bincount(minlength=size)[1:] > 0
        return {"dice": (2 * both / sizes.clamp(min=1))[1:][shown].mean()}

    def test(self, network: AnatomyEncoder) -> dict[str, float]:
        return {}

    def card(self) -> Card:
        given = self.settings_given
        distances = ", ".join(map(str, given.scales))
        return given.card(
            self.persons,
            self.validation_persons,
            kind=self.kind,
            architecture=f"27 taps at distances of {distances} voxels and the place in the brain, "
            f"{given.depth + 1} hidden layers of {given.width}; {given.channels} "
            "channels of unit norm",
            training_grid=f"voxels of brains, {given.spacing_mm:g} mm",
            arguments=self._arguments,
            training={
                "task": "which structure a voxel belongs to, by the nearest prototype "
                "of unit norm; "
                "cross-entropy; voxels drawn evenly from the structures; poses varied",
                "contrasts": given.contrasts,
                "made": given.made if given.contrasts == "any" else 0,
                "batch_size": given.batch_size,
                "optimizer": "adamw",
                "learning_rate": given.learning_rate,
                "decay": given.decay,
            },
        )


def _read(
    images: tuple[Path, ...],
    labels: tuple[Path, ...],
    lattice: TrainedLattice,
    tissues: tuple[Path, ...] = (),
) -> dict[str, Labeled]:
    found = {}
    for number, (name, image) in enumerate(read_all(images, lattice).items()):
        maps = [paths[number] for paths in (labels, tissues) if paths]
        found[name] = Labeled(lattice.values(image), *(_labels_on(p, image, lattice) for p in maps))
    return found


def _labels_on(path: Path, image: Image, lattice: TrainedLattice) -> Tensor:
    labels = read_labels(path)
    with naming(path):
        if not labels.grid.matches(image.grid):
            raise ValueError(
                "these labels do not lie on the grid of their image: resample them onto it"
            )
    return lattice.labels(LabelMap(labels.data, image.grid))
