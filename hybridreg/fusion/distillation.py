"""Distillation of the published fusion network into the fast one.

The published network's output is, up to the order of the two images, the difference of two evidence
maps, one per image (``FusionNetwork.evidence``). So the teacher evaluates every picture once, and
then any two pictures are a training example: the same place blurred or in another contrast, or two
places with nothing in common, as is often the case for CT and MR.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hybridreg.fusion.fast import FAST_ARCHITECTURE, FAST_KIND, FastNetwork
from hybridreg.fusion.network import FusionNetwork
from hybridreg.fusion.photograph_tasks import card_of, check_apart, fingerprints
from hybridreg.fusion.windows import (
    BLUR_REACH,
    LEVELS,
    SCALES,
    Windows,
    blurred,
    middle,
    other_contrast,
)
from hybridreg.io.checkpoints import Card

_SIDE = 160  # of a picture
_GROUP = 4  # pictures of one place
_BLOTCH = 20  # pixels from one blur, or from picture to black, to the other
_SOFT = 16.0  # evidence is divided by it in the softer of the two losses
_AT_ONCE = 32


class Lessons(NamedTuple):
    """Pictures (N, y, x) in [0, 1] and the teacher's evidence, (N, rows, columns)."""

    pictures: Tensor
    evidence: Tensor


def draw_pictures(photographs: Windows, number: int, random: Generator) -> Tensor:
    """Pictures of photographs, four of each place, shape (number, 160, 160).

    Each has two of the six levels of blur (including none) in different regions. Half have another
    contrast or are negatives, a quarter are seen through a narrow intensity window, saturated on
    both sides; a third are black around a blob, like images of heads.
    """
    places = photographs.draw(-(-number // _GROUP), random).repeat_interleave(_GROUP, 0)[:number]
    stack = torch.stack([middle(w, _SIDE) for w in (places, *blurred(places))])
    each = torch.arange(number)
    levels = torch.randint(LEVELS + 1, (2, number), generator=random)
    first, second = (stack[level, each] for level in levels)
    pictures = torch.lerp(first, second, _blotches(number, random))
    kind = torch.rand(number, 1, 1, generator=random)
    pictures = torch.where(kind < 0.5, other_contrast(pictures, random), pictures)
    pictures = torch.where(kind > 0.75, _windowed(pictures, random), pictures)
    black = torch.rand(number, 1, 1, generator=random) < 1 / 3
    return torch.where(black, pictures * _blotches(number, random), pictures)


def _windowed(pictures: Tensor, random: Generator) -> Tensor:
    """Pictures through a random intensity window of a fifth to half of the gray values."""
    width = 0.2 + 0.3 * torch.rand(len(pictures), 1, 1, generator=random)
    low = (1 - width) * torch.rand(len(pictures), 1, 1, generator=random)
    return ((pictures - low) / width).clamp_(0, 1)


def _blotches(number: int, random: Generator) -> Tensor:
    """Random regions that cover about half of each picture: 0 outside, 1 inside, steep but soft."""
    coarse = torch.randn(number, 1, _SIDE // _BLOTCH, _SIDE // _BLOTCH, generator=random)
    field = F.interpolate(coarse, (_SIDE, _SIDE), mode="bicubic", align_corners=False)[:, 0]
    return (4 * field + 0.5).clamp_(0, 1)


@dataclass(frozen=True, eq=False)
class FastTask:
    """Learns the teacher's weights for any two pictures of a batch.

    Photographs by name, each of shape (y, x), uint8, at least 190 pixels along each side: for
    training, for validation and for a final test. pictures: drawn from the training photographs and
    evaluated by the teacher, once; more of them reduce overfitting and take longer.
    batch_size: pictures per step; every one is compared with every other.
    learning_rate: of Adam; None is 1e-3; halved every ``halving`` steps.
    """

    photographs: Mapping[str, Tensor]
    validation_photographs: Mapping[str, Tensor]
    test_photographs: Mapping[str, Tensor] = field(default_factory=dict)
    teacher: FusionNetwork = field(kw_only=True)
    teacher_name: str = "not stated"
    pictures: int = 768
    judged_pictures: int = 48
    batch_size: int = 16
    learning_rate: float | None = None
    halving: int = 600
    steps_per_epoch: int = 100
    data: str = "natural photographs"
    data_licence: str = "not stated"
    weights_licence: str = "not stated"
    kind: str = FAST_KIND

    def __post_init__(self):
        parts = (self.photographs, self.validation_photographs, self.test_photographs)
        check_apart(*parts)
        for part in parts:  # raises for photographs that are too small before any long work
            _ = part and _windows(part)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "pictures": self.pictures,
            "judged_pictures": self.judged_pictures,
            "batch_size": self.batch_size,
            "learning_rate": self.first_rate,
            "halving": self.halving,
            "steps_per_epoch": self.steps_per_epoch,
            "teacher": _fingerprint(self.teacher),
            "photographs": fingerprints(self.photographs),
            "validation_photographs": fingerprints(self.validation_photographs),
        }

    @property
    def first_rate(self) -> float:
        return 1e-3 if self.learning_rate is None else self.learning_rate

    @cached_property
    def _lessons(self) -> Lessons:
        return self._lessons_from(self.photographs, self.pictures)

    def _lessons_from(self, photographs: Mapping[str, Tensor], number: int) -> Lessons:
        """Pictures of these photographs with the teacher's evidence; always the same ones."""
        pictures = draw_pictures(_windows(photographs), number, Generator().manual_seed(0))
        return Lessons(pictures, torch.stack([self.teacher.evidence(p) for p in pictures]))

    def network(self, generator: Generator) -> FastNetwork:
        network = FastNetwork()
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=generator)
        return network.to(memory_format=torch.channels_last)

    def optimizer(self, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
        optimizer = Adam(network.parameters(), self.first_rate)
        return optimizer, LambdaLR(optimizer, lambda step: 0.5 ** (step / self.halving))

    def batch(self, generator: Generator) -> Lessons:
        lessons = self._lessons
        # Whole groups, so that a batch has several pictures of a place.
        groups = torch.randperm(self.pictures // _GROUP, generator=generator)
        first = _GROUP * groups[: max(1, self.batch_size // _GROUP), None]
        chosen = (first + torch.arange(_GROUP)).flatten()
        return Lessons(lessons.pictures[chosen], lessons.evidence[chosen])

    def validation(self) -> Iterator[Lessons]:
        lessons = self._lessons_from(self.validation_photographs, self.judged_pictures)
        yield from _batches(lessons, self.batch_size)

    def losses(self, network: FastNetwork, batch: Lessons) -> dict[str, Tensor]:
        found, wanted = _differences(network(batch.pictures)), _differences(batch.evidence)
        return {
            "weights": _cross_entropy(found, wanted),
            "soft_weights": _cross_entropy(found / _SOFT, wanted / _SOFT),
        }

    def scores(self, network: FastNetwork, batch: Lessons) -> dict[str, Tensor]:
        found, wanted = network(batch.pictures), batch.evidence
        return {"weight_error": _error(found, wanted)}

    @torch.no_grad()
    def test(self, network: FastNetwork) -> dict[str, float]:
        """Mean absolute difference of the weights, for each photograph and over all of them."""
        found = {}
        for name, photo in self.test_photographs.items():
            lessons = self._lessons_from({name: photo}, self.judged_pictures)
            errors = [self.scores(network, b)["weight_error"] for b in _batches(lessons, _AT_ONCE)]
            found[name] = torch.stack(errors).mean().item()
        return {**found, "weight_error": sum(found.values()) / len(found)} if found else {}

    def card(self) -> Card:
        return card_of(
            self,
            architecture=FAST_ARCHITECTURE,
            training_grid=f"{_SIDE} x {_SIDE} pixels of photographs at scales 1 to "
            f"{SCALES[-1]:.2f}",
            training={
                "task": "the weights that the teacher gives every two pictures of a batch: blurred "
                "in part, in other contrasts, negatives, saturated, black around; cross-entropy",
                "teacher": self.teacher_name,
                "pictures": self.pictures,
                "batch_size": self.batch_size,
                "optimizer": "adam",
                "learning_rate": self.first_rate,
                "halved_every": self.halving,
            },
        )


def _windows(photographs: Mapping[str, Tensor]) -> Windows:
    return Windows(photographs, size=_SIDE + 2 * BLUR_REACH, varied=True)


def _batches(lessons: Lessons, size: int) -> Iterator[Lessons]:
    for pictures, evidence in zip(*(part.split(size) for part in lessons), strict=True):
        yield Lessons(pictures, evidence)


def _differences(evidence: Tensor) -> Tensor:
    """First minus second of all pairs of N maps: (N (N - 1) / 2, rows, columns)."""
    first, second = torch.triu_indices(len(evidence), len(evidence), offset=1)
    return evidence[first] - evidence[second]


def _cross_entropy(found: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(found, wanted.sigmoid())


def _error(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of the weights, as spread over the pixels."""
    maps = (_differences(evidence).sigmoid() for evidence in (found, wanted))
    a, b = (F.avg_pool2d(m[None], 8, stride=1) for m in maps)
    return (a - b).abs().mean()


def _fingerprint(network: nn.Module) -> str:
    state = network.state_dict()
    content = b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))
    return hashlib.sha256(content).hexdigest()[:16]
