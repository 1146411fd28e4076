"""The training of DIRNet and DLIR without ground truth: similarity and bending, one stage at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hybridreg.image_pairs import ImagePairs
from hybridreg.io.checkpoints import Card, Checkpoint, read_checkpoint
from hybridreg.io.files import errors_of, sha256_of
from hybridreg.io.tables import CaseRow, read_case_table
from hybridreg.kernels.jacobians import determinants
from hybridreg.methods.dirnet.augmentation import varied
from hybridreg.methods.dirnet.network import (
    Stage,
    StagedNetwork,
    initialized,
    multiple_of,
    sampled,
    staged_network,
)
from hybridreg.methods.dirnet.splines import bending
from hybridreg.network_inputs import NetworkInputs
from hybridreg.similarity import NCC, Measure

KIND = "dirnet"


@dataclass(frozen=True, kw_only=True)
class DirnetTraining:
    """Trains a network that predicts B-splines, from pairs of images alone (de Vos 2017, 2019).

    cases: a case table; validation: another, of other persons; by default every tenth person's
    cases (their column ``subject``; without it every tenth case). A case's initial transform is
    used.
    size: voxels (x, y, z) of a training pair, multiples of the spacing of its control points.
    spacing_mm: of the voxels. intensity: see ``network_inputs.NetworkInputs``.
    stage: what is trained. after: the checkpoint of an earlier training, whose stages come first
    and do not change.
    bending: weight of the bending energy of displacements in voxels; a larger one is smoother.
    learning_rate: of the first step, halved every ``halving`` steps.
    rotation_deg, scaling, mirrored: random changes of both images of a pair alike, see
    ``augmentation.varied``.
    """

    cases: Path
    validation: Path | None = None
    size: tuple[int, ...]
    spacing_mm: float
    intensity: str = "auto"
    stage: Stage = Stage()
    after: Path | None = None
    similarity: Measure = NCC()
    bending: float = 0.0
    batch_size: int = 8
    steps_per_epoch: int = 100
    learning_rate: float = 1e-3
    halving: int = 5000
    rotation_deg: float = 0.0
    scaling: float = 1.0
    mirrored: bool = False
    data: str = "not stated"
    data_licence: str = "not stated"
    weights_licence: str = "not stated"

    def __post_init__(self):
        if len(self.size) not in (2, 3):
            raise ValueError(f"the size has 2 or 3 axes, found {self.size}")
        positive = ("spacing_mm", "batch_size", "steps_per_epoch", "learning_rate", "halving")
        for name in (*positive, "scaling"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, found {getattr(self, name)}")
        if not self.bending >= 0:
            raise ValueError(f"bending must not be negative, found {self.bending}")

    def task(self) -> DirnetTask:
        """What ``training.train`` takes."""
        cases = read_case_table(self.cases)
        if self.validation is None:
            cases, validation = _every_tenth_left_out(cases)
        else:
            validation = read_case_table(self.validation)
        with errors_of(self.validation or self.cases):
            check_persons_apart(cases, validation)
        earlier = None if self.after is None else read_checkpoint(self.after, kind=KIND)
        return DirnetTask(self, tuple(cases), tuple(validation), earlier)


@dataclass(frozen=True, eq=False)
class DirnetTask:
    """One stage learned by the similarity of the fixed and the moved image.

    earlier: the stages before it, which do not change.
    """

    given: DirnetTraining
    cases: Sequence[CaseRow]
    validation_cases: Sequence[CaseRow]
    earlier: Checkpoint | None = None
    kind: ClassVar[str] = KIND

    def __post_init__(self):
        if self.earlier is not None:
            self.earlier.require(
                spacing_mm=self.given.spacing_mm, intensity_rule=self.given.intensity
            )
            self._check_dimension()
        multiple = multiple_of(self.stages)
        if any(n % multiple for n in self.given.size):
            raise ValueError(
                f"the size {self.given.size} is no multiple of {multiple} voxels, the "
                "largest spacing "
                "of control points: choose another size"
            )

    def _check_dimension(self):
        found = self.earlier.card.arguments["dimension"]
        if found != self.dimension:
            raise ValueError(
                f"{self.earlier.path}: these weights are for {found} dimensions, and the size "
                f"{self.given.size} has {self.dimension}: train for the same images"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.given.steps_per_epoch

    @property
    def dimension(self) -> int:
        return len(self.given.size)

    @property
    def settings(self) -> dict[str, Any]:
        about = asdict(self.given)
        left = ("cases", "validation", "after", "data", "data_licence", "weights_licence")
        about = {name: value for name, value in about.items() if name not in left}
        names = {"cases": self.cases, "validation_cases": self.validation_cases}
        earlier = None if self.earlier is None else sha256_of(self.earlier.path)
        listed = {key: [row.name for row in rows] for key, rows in names.items()}
        return {**about, "similarity": repr(self.given.similarity), "after": earlier, **listed}

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        if self.earlier is None:
            return (self.given.stage,)
        before = self.earlier.built(staged_network)
        return (*before.settings, self.given.stage)

    @cached_property
    def pairs(self) -> ImagePairs:
        return self._pairs(self.cases)

    def _pairs(self, cases: Sequence[CaseRow]) -> ImagePairs:
        inputs = NetworkInputs(self.given.spacing_mm, self.given.intensity)
        return ImagePairs(cases, inputs, self.given.size)

    @cached_property
    def channels(self) -> int:
        return self.pairs.draw(1, Generator())["fixed"].shape[1]

    def network(self, generator: Generator) -> StagedNetwork:
        network = initialized(StagedNetwork(self.dimension, self.channels, self.stages), generator)
        if self.earlier is not None:
            network.load_state_dict(dict(self.earlier.tensors), strict=False)
        for regressor in network.regressors[:-1]:
            regressor.requires_grad_(False)
        return network

    def optimizer(self, network: StagedNetwork) -> tuple[Optimizer, LRScheduler]:
        learned = network.regressors[-1].parameters()
        optimizer = Adam(learned, self.given.learning_rate, amsgrad=True)
        return optimizer, LambdaLR(optimizer, lambda step: 0.5 ** (step / self.given.halving))

    def batch(self, generator: Generator) -> dict[str, Tensor]:
        drawn = self.pairs.draw(self.given.batch_size, generator)
        both = torch.cat([drawn["fixed"], drawn["moving"]], 1)
        given = self.given
        how = {"rotation_deg": given.rotation_deg, "scaling": given.scaling}
        both = varied(both, generator, mirrored=given.mirrored, **how)
        fixed, moving = both.chunk(2, 1)
        return {"fixed": fixed.contiguous(), "moving": moving.contiguous()}

    def validation(self) -> Iterator[dict[str, Tensor]]:
        return self._pairs(self.validation_cases).middle(self.given.batch_size)

    def losses(self, network: StagedNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        fixed, moving = batch["fixed"], batch["moving"]
        found = network(fixed, moving)
        moved = sampled(moving, found.displacement)
        terms = {"similarity": self.given.similarity(fixed.flatten(0, 1), moved.flatten(0, 1))}
        if self.given.bending and self.given.stage.transform == "bspline":
            energy = bending(found.outputs[-1], self.given.stage.spacing)
            terms["bending"] = self.given.bending * energy
        return terms

    @torch.no_grad()
    def scores(self, network: StagedNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The dissimilarity before, and the percentage of folded voxels."""
        fixed, moving = batch["fixed"], batch["moving"]
        before = self.given.similarity(fixed.flatten(0, 1), moving.flatten(0, 1))
        fields = network(fixed, moving).displacement
        unit = (1.0,) * self.dimension
        folded = torch.stack([(determinants(u.cpu(), unit) <= 0).float().mean() for u in fields])
        return {"similarity_before": before, "folded_percent": 100 * folded.mean()}

    def test(self, network: nn.Module) -> dict[str, float]:
        return {}

    def card(self) -> Card:
        given = self.given
        size = " x ".join(map(str, given.size))
        stages = [asdict(stage) for stage in self.stages]
        history = {} if self.earlier is None else {"earlier": self.earlier.card.training}
        shown = ("similarity", "bending", "batch_size", "learning_rate", "halving")
        changes = ("rotation_deg", "scaling", "mirrored")
        how = {name: getattr(given, name) for name in (*shown, *changes)}
        return Card(
            kind=KIND,
            architecture="; then ".join(map(str, self.stages)),
            training_grid=f"{size} voxels",
            intensity_rule=given.intensity,
            data=given.data,
            data_licence=given.data_licence,
            weights_licence=given.weights_licence,
            split={"train": _persons(self.cases), "validation": _persons(self.validation_cases)},
            seed=0,
            validation={},
            training={**how, "similarity": repr(given.similarity), **history},
            arguments={"dimension": self.dimension, "channels": self.channels, "stages": stages},
            spacing_mm=given.spacing_mm,
            domain=self.pairs.domain().for_card(),
        )


def check_persons_apart(cases: Sequence[CaseRow], validation: Sequence[CaseRow]):
    """Refuses cases of which a person or an image is used for both training and validation."""
    for what, known in (("person", _subjects), ("file", _files)):
        if both := sorted(known(cases) & known(validation)):
            raise ValueError(
                f"the {what} {both[0]} is in both training and validation: leave it out"
            )


def _subjects(rows: Sequence[CaseRow]) -> set[str]:
    return {row.subject for row in rows if row.subject}


def _files(rows: Sequence[CaseRow]) -> set[str]:
    return {str(path.resolve()) for row in rows for path in (row.fixed, row.moving)}


def _persons(rows: Sequence[CaseRow]) -> list[str]:
    return sorted({row.subject or row.name for row in rows})


def _every_tenth_left_out(rows: Sequence[CaseRow]) -> tuple[list[CaseRow], list[CaseRow]]:
    held = set(_persons(rows)[::10])
    parts: tuple[list[CaseRow], list[CaseRow]] = [], []
    for row in rows:
        parts[(row.subject or row.name) in held].append(row)
    if not parts[0] or not parts[1]:
        raise ValueError(
            "the table needs cases of at least two persons, to learn from and to choose by"
        )
    return parts
