"""Principal components of patches: the linear baseline of learned descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Generator, Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from hybridreg.descriptors.patches import Patches
from hybridreg.descriptors.trained import TrainedDescriptor
from hybridreg.descriptors.trained_lattice import over_slabs
from hybridreg.descriptors.training_images import TrainingImages, fingerprints
from hybridreg.io.checkpoints import Card

KIND = "pca"


class Components(nn.Module):
    """The principal components of patches less their mean, at every voxel, as a convolution."""

    def __init__(self, dimension: int = 3, size: int = 7, channels: int = 12):
        super().__init__()
        if dimension not in (2, 3) or size % 2 == 0 or not 0 < channels < size**dimension:
            raise ValueError(
                "a patch has 2 or 3 dimensions, an odd size and fewer channels than voxels, found "
                f"{dimension}, {size} and {channels}"
            )
        self.reach = size // 2
        self.filters = nn.Parameter(torch.zeros(channels, 1, *[size] * dimension))

    def forward(self, patches: Tensor) -> Tensor:
        """(N, 1, *shape) -> (N, channels, *shape less the patch's reach)."""
        return (F.conv2d if patches.ndim == 4 else F.conv3d)(patches, self.filters)

    @torch.no_grad()
    def dense(self, values: Tensor) -> Tensor:
        """(1, *shape) -> (channels, *shape); beyond the border values repeat."""
        sides = [self.reach] * 2 * (values.ndim - 1)
        padded = F.pad(values[None], sides, mode="replicate")[0]
        found = over_slabs(padded, lambda v: F.pad(self(v[None])[0], sides), reach=self.reach)
        inner = [slice(self.reach, n - self.reach) for n in padded.shape[1:]]
        return found[(slice(None), *inner)]


def components_of(dimension: int, size: int, channels: int) -> Components:
    """The network of a card's arguments."""
    return Components(dimension, size, channels)


@dataclass(frozen=True)
class Pca(TrainedDescriptor):
    """The principal components of the patch around each voxel, centered and of unit norm.

    weights: packaged ones, or a file that ``hybridreg train pca`` has written.
    """

    weights: str = "pca-brain"

    KIND: ClassVar = KIND
    NETWORK: ClassVar = components_of
    FLAT: ClassVar = 0.02  # of the components of a patch


@dataclass(frozen=True, kw_only=True)
class PcaTraining(TrainingImages):
    """Finds the components for the descriptor ``pca``; in closed form, so one epoch is enough.

    size: of a patch in voxels. channels: components. patches: how many they are found from.
    """

    size: int = 7
    channels: int = 12
    patches: int = 20_000

    def task(self) -> PcaTask:
        """What ``training.train`` takes."""
        return PcaTask(*self.values(), settings_given=self)


@dataclass(frozen=True, eq=False)
class PcaTask:
    """The components are those of scikit-learn; the steps of the training do not change them."""

    images: Mapping[str, Tensor]
    validation_images: Mapping[str, Tensor]
    settings_given: PcaTraining = field(kw_only=True)
    steps_per_epoch: int = 1
    kind: str = KIND

    @property
    def settings(self) -> dict[str, Any]:
        return {
            **self._arguments,
            "patches": self.settings_given.patches,
            "images": fingerprints(self.images),
        }

    @property
    def _arguments(self) -> dict[str, int]:
        given = self.settings_given
        return {"dimension": given.dimension, "size": given.size, "channels": given.channels}

    def network(self, generator: Generator) -> Components:
        given, network = self.settings_given, Components(**self._arguments)
        patches = Patches(self.images, size=given.size).draw(given.patches, generator).flatten(1)
        centered = patches - patches.mean(1, keepdim=True)  # brightness is no structure
        found = PCA(given.channels, svd_solver="covariance_eigh").fit(centered.numpy())
        filters = torch.from_numpy(found.components_).to(network.filters)
        network.filters.data = (filters - filters.mean(1, keepdim=True)).reshape(
            network.filters.shape
        )
        return network

    def optimizer(self, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
        optimizer = SGD(network.parameters(), 0.0)
        return optimizer, ConstantLR(optimizer, 1.0)

    def batch(self, generator: Generator) -> Tensor:
        return Patches(self.images, size=self.settings_given.size).draw(16, generator)

    def validation(self) -> Iterator[Tensor]:
        patches = Patches(self.validation_images, size=self.settings_given.size)
        yield patches.draw(2000, Generator().manual_seed(0))

    def losses(self, network: Components, batch: Tensor) -> dict[str, Tensor]:
        """The part of the variance of patches that the components do not show."""
        patches = batch.flatten(1)
        patches = patches - patches.mean(1, keepdim=True)
        filters = network.filters.flatten(1)
        missed = patches - patches @ filters.T @ filters
        return {"patch": missed.square().sum() / patches.square().sum().clamp(min=1e-12)}

    def scores(self, network: Components, batch: Tensor) -> dict[str, Tensor]:
        return {}

    def test(self, network: Components) -> dict[str, float]:
        return {}

    def card(self) -> Card:
        given = self.settings_given
        return given.card(
            self.images,
            self.validation_images,
            kind=self.kind,
            architecture=f"{given.channels} principal components of patches less their mean",
            training_grid=f"patches of {given.size} voxels along {given.dimension} axes, "
            f"{given.spacing_mm:g} mm",
            arguments=self._arguments,
            training={"task": "closed form", "patches": given.patches},
        )
