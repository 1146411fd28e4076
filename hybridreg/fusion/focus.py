"""How the fusion network learns: which of two patches of a photograph is the sharp one (Liu 2017)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hybridreg.fusion.network import PATCH, FusionNetwork
from hybridreg.io.checkpoints import Card, read_checkpoint

KIND = "fusion"
ARCHITECTURE = (
    "siamese network of Liu 2017: conv 3x3x64, conv 3x3x128, max pooling 2, conv 3x3x256, "
    "conv 8x8x2 on the features of both images, softmax"
)
INTENSITY_RULE = "grey values in [0, 1]"
LEVELS = 5  # of blur: the filter once to five times
_SIGMA, _TAPS = 2.0, 7
_MARGIN = LEVELS * (_TAPS // 2)  # pixels around a patch that its strongest blur sees
_WINDOW = PATCH + 2 * _MARGIN
_LEAST_VARIANCE = 25 / 255**2
_SCALES = (1.0, 2**-0.5, 0.5, 0.5 * 2**-0.5)
_TRIES = 100  # draws of patches in a row before photographs count as empty


def trained_network(weights: str | Path = "fusion-focus") -> FusionNetwork:
    """The fusion network with trained weights: packaged ones by name, or a checkpoint file."""
    return read_checkpoint(weights, kind=KIND).fill(FusionNetwork())


class Patches:
    """Patches of photographs, sharp and blurred, drawn many at a time.

    photographs: by name, shape (y, x), uint8, at least 46 pixels along each side.
    varied: also from smaller copies, mirrored, turned by quarters, in other brightness and contrast,
    and as negatives; else as they are.
    """

    def __init__(self, photographs: Mapping[str, Tensor], *, varied: bool):
        self._varied = varied
        copies = [
            [c for scale in (_SCALES if varied else (1.0,)) for c in _scaled(name, photo, scale)]
            for name, photo in photographs.items()
        ]
        flat = [copy for per_photo in copies for copy in per_photo]
        # All in one row, so that one indexing takes windows from any of them.
        self._pixels = torch.cat([copy.flatten() for copy in flat])
        sizes = torch.tensor([copy.shape for copy in flat])
        self._height, self._width = sizes.unbind(1)
        self._start = sizes.prod(1).cumsum(0) - sizes.prod(1)
        counts = torch.tensor([len(per_photo) for per_photo in copies])
        self._count, self._first = counts, counts.cumsum(0) - counts

    def draw(self, number: int, random: Generator) -> tuple[Tensor, Tensor]:
        """Sharp patches and the same ones blurred, each of shape (number, 1, 16, 16), in [0, 1].

        Drawn evenly from photographs, their scales, places and levels of blur, as long as the sharp
        patch has a variance above 25 (of grey values to 255).
        """
        windows = self._windows(number, random)
        if self._varied:
            windows = _other_contrast(windows, random)
        level = torch.randint(LEVELS, (number,), generator=random)
        blurred = torch.stack([_core(b) for b in _blurred(windows)])[level, torch.arange(number)]
        return _core(windows)[:, None], blurred[:, None]

    def _windows(self, number: int, random: Generator) -> Tensor:
        """Patches that show something, with the margin that blur needs: (number, 46, 46)."""
        found: list[Tensor] = []
        for _ in range(_TRIES):
            windows = self._pixels[self._places(2 * number, random)] / 255
            found.append(windows[_core(windows).flatten(1).var(1, correction=0) > _LEAST_VARIANCE])
            if sum(map(len, found)) >= number:
                return torch.cat(found)[:number]
        raise ValueError(
            "the photographs show too little: hardly a patch has a variance above 25; give others"
        )

    def _places(self, number: int, random: Generator) -> Tensor:
        """Where in the row of all pixels the windows lie: (number, 46, 46)."""

        def below(limits: Tensor) -> Tensor:
            return (torch.rand(number, generator=random, dtype=torch.float64) * limits).long()

        photo = below(torch.tensor(float(len(self._count))))
        copy = self._first[photo] + below(self._count[photo])
        width = self._width[copy]
        y, x = below(self._height[copy] - _WINDOW + 1), below(width - _WINDOW + 1)
        corner = self._start[copy] + y * width + x
        down, right = width, torch.ones_like(width)
        if self._varied:  # the eight ways to lay a square: by the steps, without touching pixels
            flips = torch.rand(3, number, generator=random) < 0.5
            for flipped, step in ((flips[0], down), (flips[1], right)):
                corner = corner + torch.where(flipped, (_WINDOW - 1) * step, 0)
            down, right = (torch.where(f, -s, s) for f, s in zip(flips, (down, right)))
            down, right = torch.where(flips[2], right, down), torch.where(flips[2], down, right)
        along = torch.arange(_WINDOW)
        rows = corner[:, None] + down[:, None] * along
        return rows[:, :, None] + (right[:, None] * along)[:, None]


@dataclass(frozen=True, eq=False)
class FocusTask:
    """Two classes: the second patch is the sharp one (0), or the first (1).

    Photographs by name, each of shape (y, x), uint8: to learn from, to choose by and to test once.
    batch: answers to learn from at a step, half of them in each order.
    learning_rate: None is what suits the optimizer; halved every ``halving`` steps.
    """

    photographs: Mapping[str, Tensor]
    validation_photographs: Mapping[str, Tensor]
    test_photographs: Mapping[str, Tensor] = field(default_factory=dict)
    batch_size: int = 128
    optimizer_name: str = "adam"
    learning_rate: float | None = None
    halving: int = 500
    validation_size: int = 1024
    steps_per_epoch: int = 50
    data: str = "natural photographs"
    data_licence: str = "not stated"
    weights_licence: str = "not stated"
    kind: str = KIND

    def __post_init__(self):
        parts = (self.photographs, self.validation_photographs, self.test_photographs)
        if not self.photographs or not self.validation_photographs:
            raise ValueError("give photographs to learn from, and others to choose the weights by")
        twice = [
            name for i, a in enumerate(parts) for b in parts[i + 1 :] for name in a if name in b
        ]
        if twice:
            raise ValueError(f"{twice[0]} is both learned from and judged by: leave it out of one")
        if self.optimizer_name not in _OPTIMIZERS:
            raise ValueError(
                f"the optimizer is one of {', '.join(_OPTIMIZERS)}; found {self.optimizer_name!r}"
            )
        for part in parts[1:]:
            _ = [Patches({name: photo}, varied=False) for name, photo in part.items()]
        self._patches.draw(1, Generator().manual_seed(0))  # refuses empty photographs at once

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "optimizer": self.optimizer_name,
            "learning_rate": self.first_rate,
            "halving": self.halving,
            "validation_size": self.validation_size,
            "steps_per_epoch": self.steps_per_epoch,
            "photographs": _fingerprints(self.photographs),
            "validation_photographs": _fingerprints(self.validation_photographs),
        }

    @property
    def first_rate(self) -> float:
        return _RATES[self.optimizer_name] if self.learning_rate is None else self.learning_rate

    @cached_property
    def _patches(self) -> Patches:
        return Patches(self.photographs, varied=True)

    def network(self, generator: Generator) -> FusionNetwork:
        network = FusionNetwork()
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)
        return network.to(memory_format=torch.channels_last)  # a fifth faster on the CPU

    def optimizer(self, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
        optimizer = _OPTIMIZERS[self.optimizer_name](network.parameters(), self.first_rate)
        return optimizer, LambdaLR(optimizer, lambda step: 0.5 ** (step / self.halving))

    def batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        return self._patches.draw(self.batch_size // 2, generator)

    def validation(self) -> Iterable[tuple[Tensor, Tensor]]:
        return _judged_by(self.validation_photographs, self.validation_size // 2)

    def losses(self, network: FusionNetwork, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"softmax": F.cross_entropy(*_answers(network, batch))}

    def scores(self, network: FusionNetwork, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        scores, right = _answers(network, batch)
        return {"accuracy": (scores.argmax(1) == right).float().mean()}

    def test(self, network: FusionNetwork) -> dict[str, float]:
        return accuracies(network, self.test_photographs)

    def card(self) -> Card:
        return Card(
            kind=KIND,
            architecture=ARCHITECTURE,
            training_grid=f"{PATCH} x {PATCH} pixels of photographs at scales 1 to {_SCALES[-1]:.2f}",
            intensity_rule=INTENSITY_RULE,
            data=self.data,
            data_licence=self.data_licence,
            weights_licence=self.weights_licence,
            split={
                "train": sorted(self.photographs),
                "validation": sorted(self.validation_photographs),
                "test": sorted(self.test_photographs),
            },
            seed=0,
            validation={},
            training={
                "task": f"sharp or blurred {LEVELS} times at most (Gaussian of {_SIGMA:g} pixels "
                f"cut to {_TAPS} x {_TAPS}); patches of variance above 25; softmax loss",
                "batch_size": self.batch_size,
                "optimizer": self.optimizer_name,
                "learning_rate": self.first_rate,
                "halved_every": self.halving,
            },
        )


@torch.no_grad()
def accuracies(
    network: FusionNetwork, photographs: Mapping[str, Tensor], *, number: int = 2000
) -> dict[str, float]:
    """The share of right answers for each photograph, and over all of them ("accuracy").

    number: patches of each photograph as it is, at least; each is asked about in both orders.
    """
    shares = {}
    for name, photo in photographs.items():
        right = [_right(network, batch) for batch in _judged_by({name: photo}, number)]
        shares[name] = torch.cat(right).double().mean().item()
    return {**shares, "accuracy": sum(shares.values()) / len(shares)} if shares else {}


def _right(network: FusionNetwork, batch: tuple[Tensor, Tensor]) -> Tensor:
    scores, right = _answers(network, batch)
    return scores.argmax(1) == right


def _answers(network: FusionNetwork, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scores (2 N, 2) of N pairs in both orders, from features computed once; what is right (2 N)."""
    sharp, blurred = network.features(torch.cat(batch)).chunk(2)
    orders = torch.cat([torch.cat([sharp, blurred], 1), torch.cat([blurred, sharp], 1)])
    right = torch.tensor([1, 0], device=sharp.device).repeat_interleave(len(sharp))
    return network.scores(orders).flatten(1), right


def _judged_by(photographs: Mapping[str, Tensor], number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Always the same patches of photographs as they are, in batches of 64."""
    random = Generator().manual_seed(0)
    patches = Patches(photographs, varied=False)
    for start in range(0, number, 64):
        yield patches.draw(min(64, number - start), random)


def _scaled(name: str, photo: Tensor, scale: float) -> list[Tensor]:
    """The photograph made smaller, smoothed as that needs; nothing if too small for a window."""
    if scale == 1 and (photo.ndim != 2 or min(photo.shape) < _WINDOW):
        raise ValueError(
            f"{name} has {' x '.join(map(str, reversed(photo.shape)))} pixels; photographs need "
            f"{_WINDOW} x {_WINDOW} at least: leave it out"
        )
    size = [round(n * scale) for n in photo.shape]
    if min(size) < _WINDOW:
        return []
    if scale == 1:
        return [photo]
    image = photo[None, None].float()
    small = F.interpolate(image, size, mode="bilinear", antialias=True)
    return [small[0, 0].round().to(torch.uint8)]


def _blurred(windows: Tensor) -> Iterator[Tensor]:
    """The windows blurred once, twice, and so on, each smaller by what the filter reached over."""
    along = torch.arange(_TAPS, dtype=torch.float32) - _TAPS // 2
    taps = torch.exp(-(along**2) / (2 * _SIGMA**2))
    taps = (taps / taps.sum()).to(windows)
    image = windows[:, None]
    for _ in range(LEVELS):
        image = F.conv2d(F.conv2d(image, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
        yield image[:, 0]


def _core(windows: Tensor) -> Tensor:
    """The patch in the middle of each window, whatever margin is left."""
    margin = (windows.shape[-1] - PATCH) // 2
    return windows[:, margin : margin + PATCH, margin : margin + PATCH]


def _other_contrast(windows: Tensor, random: Generator) -> Tensor:
    """In half to one and a half times the contrast, a fifth darker or lighter, half as negatives."""
    gain, shift, sign = torch.rand(3, len(windows), 1, 1, generator=random)
    gain = (0.5 + gain) * torch.where(sign < 0.5, -1.0, 1.0)
    return ((windows - 0.5) * gain + 0.5 + 0.4 * (shift - 0.5)).clamp_(0, 1)


def _fingerprints(photographs: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: hashlib.sha256(photo.contiguous().numpy().tobytes()).hexdigest()[:16]
        for name, photo in sorted(photographs.items())
    }


def _sgd(parameters: Iterable[nn.Parameter], learning_rate: float) -> Optimizer:
    return SGD(parameters, learning_rate, momentum=0.9, weight_decay=5e-4)  # as published


_OPTIMIZERS = {"adam": Adam, "sgd": _sgd}
_RATES = {"adam": 3e-4, "sgd": 1e-2}
