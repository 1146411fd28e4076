"""Training of the stacked autoencoder: layer by layer first, then as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hybridreg.descriptors.autoencoder.network import KIND, StackedAutoencoder
from hybridreg.descriptors.patches import Patches, in_another_contrast
from hybridreg.descriptors.training_images import TrainingImages, fingerprints
from hybridreg.io.checkpoints import Card

_NOISE = 0.02  # standard deviation added to the input, of intensities in [0, 1]
_MIDDLE = 0.2  # standard deviation of the Gaussian that weighs a patch's voxels, in patches


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining(TrainingImages):
    """Trains descriptors without labels, for the descriptor ``autoencoder``.

    widths, kernels, dilations: see ``StackedAutoencoder``. contrasts: "one" for images of one
    modality; "any" encodes patches in a random contrast and decodes the original one, so that
    descriptors do not depend on the contrast.
    layer_steps: of each layer's own training, before all are trained together. batch_size: patches
    per step. learning_rate: of the first step; halved every ``halving`` steps.
    """

    widths: tuple[int, ...] = (16, 16, 12)
    kernels: tuple[int, ...] = (5, 3, 3)
    dilations: tuple[int, ...] = (1, 1, 2)
    contrasts: Literal["one", "any"] = "one"
    layer_steps: int = 100
    batch_size: int = 128
    learning_rate: float = 3e-3
    halving: int = 400

    def task(self) -> AutoencoderTask:
        """What ``training.train`` takes."""
        return AutoencoderTask(*self.values(), settings_given=self)


class Examples(NamedTuple):
    """What is encoded, and what is to be decoded: (N, 1, *patch)."""

    given: Tensor
    wanted: Tensor


@dataclass(frozen=True, eq=False)
class AutoencoderTask:
    """Learns to say in few numbers what a patch looks like.

    The first steps train one layer after the other, each on the output of those below: greedy
    pre-training. The remaining steps train all together to decode the patch from its
    descriptor. images: by name, each (1, *shape) in [0, 1].
    """

    images: Mapping[str, Tensor]
    validation_images: Mapping[str, Tensor]
    settings_given: AutoencoderTraining = field(kw_only=True)
    steps_per_epoch: int = 100
    kind: str = KIND

    def __post_init__(self):
        _ = self._patches, self._validation_patches  # raises for unsuitable images

    @property
    def settings(self) -> dict[str, Any]:
        return {
            **self._architecture,
            "contrasts": self.settings_given.contrasts,
            "layer_steps": self.settings_given.layer_steps,
            "batch_size": self.settings_given.batch_size,
            "learning_rate": self.settings_given.learning_rate,
            "halving": self.settings_given.halving,
            "images": fingerprints(self.images),
            "validation_images": fingerprints(self.validation_images),
        }

    @property
    def _architecture(self) -> dict[str, Any]:
        names = ("dimension", "widths", "kernels", "dilations")
        values = {name: getattr(self.settings_given, name) for name in names}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}

    @cached_property
    def _patches(self) -> Patches:
        return Patches(self.images, size=StackedAutoencoder(**self._architecture).patch)

    @cached_property
    def _validation_patches(self) -> Patches:
        return Patches(self.validation_images, size=StackedAutoencoder(**self._architecture).patch)

    def network(self, generator: Generator) -> StackedAutoencoder:
        network = StackedAutoencoder(**self._architecture)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)
        return network

    def optimizer(self, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
        optimizer = Adam(network.parameters(), self.settings_given.learning_rate)
        halving = self.settings_given.halving
        return optimizer, LambdaLR(optimizer, lambda step: 0.5 ** (step / halving))

    def batch(self, generator: Generator) -> Examples:
        return self._examples(self._patches, self.settings_given.batch_size, generator)

    def validation(self) -> Iterator[Examples]:
        for seed in range(2):
            yield self._examples(self._validation_patches, 128, Generator().manual_seed(seed))

    def _examples(self, patches: Patches, count: int, generator: Generator) -> Examples:
        wanted = patches.draw(count, generator)
        given = wanted
        if self.settings_given.contrasts == "any":
            given = in_another_contrast(wanted, generator)
        return Examples(given + _NOISE * torch.randn(given.shape, generator=generator), wanted)

    def losses(self, network: StackedAutoencoder, batch: Examples) -> dict[str, Tensor]:
        """The part of the variance that is not decoded: of a layer's input, or of the patch."""
        if network.training:
            layer = int(network.steps) // max(1, self.settings_given.layer_steps)
            network.steps += 1
            if layer < len(network.encoders) and self.settings_given.layer_steps:
                return {"layer": _of_layer(network, layer, batch.given)}
        return {"patch": _unexplained(network.reconstructed(batch.given), batch.wanted)}

    def scores(self, network: StackedAutoencoder, batch: Examples) -> dict[str, Tensor]:
        found = network.reconstructed(batch.given)
        return {"error": (found - batch.wanted).square().mean().sqrt()}

    def test(self, network: StackedAutoencoder) -> dict[str, float]:
        return {}

    def card(self) -> Card:
        given = self.settings_given
        layers = ", ".join(
            f"conv {k} at dilation {d} to {w}"
            for k, d, w in zip(given.kernels, given.dilations, given.widths, strict=True)
        )
        size = StackedAutoencoder(**self._architecture).patch
        return given.card(
            self.images,
            self.validation_images,
            kind=self.kind,
            architecture=f"stacked autoencoder, tanh between layers: {layers}; decoders mirror it",
            training_grid=f"patches of {size} voxels along {given.dimension} axes, "
            f"{given.spacing_mm:g} mm",
            arguments=self._architecture,
            training={
                "task": "decode a patch from its descriptor, its middle weighing most; "
                "patches drawn by "
                "gradient magnitude; layer by layer first, then all together",
                "contrasts": given.contrasts,
                "layer_steps": given.layer_steps,
                "batch_size": given.batch_size,
                "optimizer": "adam",
                "learning_rate": given.learning_rate,
                "halved_every": given.halving,
            },
        )


def _of_layer(network: StackedAutoencoder, layer: int, given: Tensor) -> Tensor:
    """The part of the variance of a layer's input, in the middle of patches,
    that is not decoded.
    """
    cut = network.reach - network.reach_of(layer)
    given = given[(..., *[slice(cut, n - cut) for n in given.shape[2:]])]
    with torch.no_grad():
        for below in range(layer):
            given = network.encoded(given, below)
    found = network.decoded(network.encoded(given, layer), layer)
    step = network.encoders[layer].dilation[0]  # between them a dilated decoder says nothing
    taps = (..., *[slice(None, None, step)] * (given.ndim - 2))
    return (found - given)[taps].square().mean() / given[taps].var().clamp(min=1e-6)


def _unexplained(found: Tensor, wanted: Tensor) -> Tensor:
    size = wanted.shape[-1]
    places = torch.arange(size, device=wanted.device) - size // 2
    window = (-0.5 * (places / (_MIDDLE * size)).square()).exp()
    weight = window / window.sum()
    for _ in range(wanted.ndim - 3):
        weight = weight[..., None] * (window / window.sum())
    error = ((found - wanted).square() * weight).flatten(1).sum(1).mean()
    return error / wanted.var().clamp(min=1e-6)
