"""What the networks of Quicksilver learn: the momentum in random patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hybridreg.geodesics import Kernel
from hybridreg.io.checkpoints import Card, Checkpoint
from hybridreg.io.target_store import TargetStore
from hybridreg.methods.quicksilver.contrast import remapped
from hybridreg.methods.quicksilver.network import KIND, PATCH, MomentumNetwork, momentum_network
from hybridreg.methods.quicksilver.orientation import mirrored, upright
from hybridreg.methods.quicksilver.smoothing import Smoothing
from hybridreg.network_inputs import scaled
from hybridreg.target_patches import IMAGES, Prepare, TargetPatches
from hybridreg.training_domain import TrainingDomain

INTENSITY = "percentiles"
LOSSES = {
    "absolute": "mean absolute difference",
    "smoothed": "mean square of the difference smoothed by the root of the kernel",
}
_SCALED_BY = 8  # cases whose mean momentum is the scale of the output
_KEPT_VALUES = 400_000_000  # of cases in memory, 4 bytes each
_DESCRIBED = 50  # cases whose images the card describes
_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}  # trains a third faster on CPUs


@dataclass(frozen=True)
class Steps:
    """How the weights are optimized.

    batch_size: patches. learning_rate: of Adam at the first step. halved_every: steps until it is
    halved; 0 for a constant one, as published. per_epoch: steps between two validations.
    validation_batches: how many are drawn for them.
    """

    batch_size: int = 64
    learning_rate: float = 1e-4
    halved_every: int = 0
    per_epoch: int = 200
    validation_batches: int = 8


@dataclass(frozen=True)
class Stated:
    """Names of the data and of licenses, for the card."""

    data: str
    data_licence: str
    weights_licence: str


@dataclass(frozen=True, eq=False)
class MomentumTask:
    """Learns the momentum of stored targets.

    store: of momentum targets. train, validation: names of cases. prepare: see ``TargetPatches``.
    loss: one of ``LOSSES``. patch: voxels along each axis of a patch. start: weights to begin with.
    remap: the moving image gets another contrast in every patch. mirror: half of the patches have
    left and right exchanged. about: of the card's ``training``.
    """

    store: TargetStore
    train: Sequence[str]
    validation_cases: Sequence[str]
    steps: Steps
    stated: Stated
    width: int = 64
    dropout: float = 0.0
    remap: bool = False
    mirror: bool = False
    loss: str = "absolute"
    patch: int = PATCH
    kind: str = KIND
    prepare: Prepare = upright
    start: Checkpoint | None = None
    about: Mapping[str, Any] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.steps.per_epoch

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "steps": asdict(self.steps),
            "width": self.width,
            "dropout": self.dropout,
            "remap": self.remap,
            "mirror": self.mirror,
            "loss": self.loss,
            "patch": self.patch,
            "train": list(self.train),
            "validation": list(self.validation_cases),
            "targets": dict(self.store.settings),
            "start": self.start and self.start.path.name,
            **(self.about or {}),
        }

    def network(self, generator: Generator) -> MomentumNetwork:
        network = self._built()
        if self.start is None:
            network.initialize(generator)
        else:
            self.start.require(
                **{name: self._facts[name] for name in ("spacing_mm", "kernel", "shooting")}
            )
            self.start.fill(network).train()
        return network.to(memory_format=_FORMAT[network.dimension])

    def _built(self) -> MomentumNetwork:
        return momentum_network(**self._arguments)

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        dimension = self._facts["dimension"]
        if self.start is None:
            scale = _scale(self._training_patches)
        else:
            scale = self.start.card.arguments["scale"]  # its last layer is for that
        return {
            "dimension": dimension,
            "width": self.width,
            "dropout": self.dropout,
            "scale": scale,
        }

    def optimizer(self, network: MomentumNetwork) -> tuple[Optimizer, LRScheduler]:
        optimizer = Adam(network.parameters(), self.steps.learning_rate)
        every = self.steps.halved_every
        return optimizer, LambdaLR(optimizer, lambda step: 0.5 ** (step / every if every else 0))

    def batch(self, generator: Generator) -> dict[str, Tensor]:
        return self._drawn(self._training_patches, generator)

    def validation(self) -> list[dict[str, Tensor]]:
        patches = self._patches(self.validation_cases)
        count = self.steps.validation_batches
        return [self._drawn(patches, Generator().manual_seed(n)) for n in range(count)]

    def _drawn(self, patches: TargetPatches, generator: Generator) -> dict[str, Tensor]:
        drawn = patches.draw(self.steps.batch_size, generator)
        if self.remap:
            drawn["moving"] = remapped(drawn["moving"], generator)
        found = {name: drawn[name] for name in ("fixed", "moving", "momentum")}
        if self.mirror:
            chosen = torch.rand(self.steps.batch_size, generator=generator) < 0.5
            found = mirrored(found, chosen)
        return found

    def losses(self, network: MomentumNetwork, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean difference, absolute (Yang 2017 sums it) or squared, in the network's scale."""
        layout = {"memory_format": _FORMAT[network.dimension]}
        images = (batch[name].contiguous(**layout) for name in ("fixed", "moving"))
        missed = (network(*images).float() - batch["momentum"]) / network.scale
        if self.loss == "smoothed":
            return {"smoothed": self._smoothing.energy(missed)}
        return {"absolute": missed.abs().mean()}

    def scores(self, network: MomentumNetwork, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Over those of a prediction of 0: the mean absolute difference, and the smoothed one."""
        wanted = batch["momentum"]
        missed = network(batch["fixed"], batch["moving"]).float() - wanted
        rough = missed.abs().mean() / wanted.abs().mean().clamp(min=1e-12)
        energies = [self._smoothing.energy(values) for values in (missed, wanted)]
        return {"relative": rough, "smooth_relative": energies[0] / energies[1].clamp(min=1e-12)}

    @cached_property
    def _smoothing(self) -> Smoothing:
        return Smoothing(Kernel(**self._facts["kernel"]), self._facts["spacing_mm"])

    def test(self, network: MomentumNetwork) -> dict[str, float]:
        return {}

    def card(self) -> Card:
        network = self._built()
        weights = sum(p.numel() for p in network.parameters())
        narrow = "" if self.width == 64 else f"narrow: {self.width} channels for the published 64; "
        about = {"task": f"the momentum of random patches; {LOSSES[self.loss]}"}
        about |= {"remapped_contrast": self.remap, "mirrored": self.mirror, "patch": self.patch}
        about |= _beginning(self.start)
        about |= {"cases": len(self.train), **asdict(self.steps)}
        return Card(
            kind=self.kind,
            architecture=f"Quicksilver in {network.dimension}D, {narrow}{weights} weights",
            training_grid=f"patches of {self.patch} voxels at {self._facts['spacing_mm']:g} mm",
            intensity_rule=INTENSITY,
            split={
                "train": list(self.train),
                "validation": list(self.validation_cases),
                "test": [],
            },
            seed=0,
            validation={},
            training={**about, **(self.about or {})},
            arguments=self._arguments,
            spacing_mm=self._facts["spacing_mm"],
            kernel=self._facts["kernel"],
            shooting=self._facts["shooting"],
            domain=self._domain(),
            **asdict(self.stated),
        )

    def _domain(self) -> dict[str, Any]:
        """What the images are like, from some cases, evenly over those to train on."""
        images = []
        for name in self.train[:: -(-len(self.train) // _DESCRIBED)]:
            case = self.store.read(name)
            for side, on_grid in IMAGES.items():
                seen = scaled(self.store.image(case.images[on_grid]), INTENSITY)
                if self.remap and side == "moving":
                    drawn = remapped(seen.data[None], Generator().manual_seed(len(images)))
                    seen = replace(seen, data=drawn[0])
                images.append((self.store.image(case.images[side]), seen))
        return TrainingDomain.of(images).for_card()

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return facts_of(self.store, self.train)

    @cached_property
    def _training_patches(self) -> TargetPatches:
        return self._patches(self.train)

    def _patches(self, cases: Sequence[str]) -> TargetPatches:
        return TargetPatches(
            self.store,
            size=self.patch,
            arrays=("momentum",),
            cases=list(cases),
            intensity=INTENSITY,
            cases_in_memory=max(8, _KEPT_VALUES // self._facts["values"]),
            prepare=self.prepare,
        )


def facts_of(store: TargetStore, cases: Sequence[str]) -> dict[str, Any]:
    """Dimension, spacing, kernel and shooting common to cases (ValueError if they differ).

    Also "values": the numbers that the largest of them has.
    """
    found: dict[str, Any] = {}
    largest = 0
    for name in cases:
        case = store.read(name)
        if "kernel" not in case.attributes or "momentum" not in case.array_names:
            raise ValueError(
                f"{store.path}: the case {name} has no momentum: make the targets with "
                "`hybridreg targets --kind momentum`"
            )
        spacing = {round(s, 6) for s in case.grid.spacing}
        if len(spacing) > 1:
            raise ValueError(
                f"{store.path}: the case {name} has voxels of {case.grid.spacing} mm; a network "
                "needs the same spacing along every axis: make the targets with a larger "
                "momentum spacing"
            )
        facts = {
            "dimension": case.grid.dimension,
            "spacing_mm": spacing.pop(),
            "kernel": {key: float(value) for key, value in case.attributes["kernel"].items()},
            "shooting": dict(case.attributes["shooting"]),
        }
        values = math.prod(case.grid.shape) * (2 + case.grid.dimension)
        for key, value in facts.items():
            if found.setdefault(key, value) != value:
                raise ValueError(
                    f"{store.path}: the cases differ in their {key}: {found[key]} and {value} "
                    f"({name}); train on cases that agree"
                )
        largest = max(largest, values)
    return {**found, "values": largest}


def _beginning(start: Checkpoint | None) -> dict[str, Any]:
    """Of a card: the weights to begin with, and all steps that led to them."""
    if start is None:
        return {}
    known = start.card.training
    before = known.get("best_step", 0) + known.get("steps_before", 0)
    return {"start": start.path.stem, "steps_before": before}


def _scale(patches: TargetPatches) -> float:
    """The mean absolute component of the momentum in patches of some cases."""
    generator = Generator().manual_seed(0)
    drawn = [patches.draw(32, generator)["momentum"].abs().mean() for _ in range(_SCALED_BY)]
    return float(f"{torch.stack(drawn).mean().item():.4g}")
