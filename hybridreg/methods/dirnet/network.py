"""The networks of DIRNet (de Vos 2017) and DLIR (de Vos 2019): stages, each from the image moved so far.

Everything is in voxels, so weights do not depend on a spacing. Displacements are along the voxel
axes, components (x, y, z), from the fixed to the moving image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

from hybridreg.lattice import Lattice, sample
from hybridreg.methods.dirnet.affine import AffineRegressor, affine_displacement
from hybridreg.methods.dirnet.splines import dense

_LIMIT = (
    0.4  # of the spacing: cubic B-splines with smaller displacements are one-to-one (Choi 2000)
)


@dataclass(frozen=True)
class Stage:
    """One stage: a regressor of control points of a B-spline, or of an affine matrix.

    spacing: of the control points in voxels, a power of 2. shrink: the network sees images smaller
    by this factor, a power of 2 up to the spacing; a larger one is faster. width: channels.
    layers: convolutions of 3 voxels along each axis; dense: convolutions of 1 voxel after them.
    limited: control points move by at most 0.4 of their spacing, so that nothing folds.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    transform: Literal["bspline", "affine"] = "bspline"
    spacing: int = 8
    shrink: int = 1
    width: int = 32
    layers: int = 5
    dense: int = 2
    limited: bool = False

    def __post_init__(self):
        for name in ("spacing", "shrink"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"the {name} of a stage is a power of 2, found {value}")
        for name, least in (("width", 1), ("layers", self.halvings), ("dense", 0)):
            if getattr(self, name) < max(least, 0):
                raise ValueError(
                    f"a stage of spacing {self.spacing} and shrink {self.shrink} needs "
                    f"{name} of at "
                    f"least {least}, found {getattr(self, name)}"
                )
        if self.shrink > self.spacing:
            raise ValueError(
                f"the shrink of a stage is at most its spacing, {self.spacing}; found {self.shrink}"
            )

    @property
    def halvings(self) -> int:
        return int(math.log2(self.spacing // self.shrink)) if self.shrink <= self.spacing else 0

    def __str__(self) -> str:
        seen = f" of images shrunk {self.shrink} times" if self.shrink > 1 else ""
        if self.transform == "affine":
            return f"affine from {self.layers} convolutions x{self.width}{seen}"
        return (
            f"control points every {self.spacing} voxels from {self.layers} convolutions of 3 and "
            f"{self.dense} of 1 voxel x{self.width}{seen}"
        )


def multiple_of(stages: Sequence[Stage]) -> int:
    """Of which the number of voxels along each axis must be a multiple."""
    return max(stage.spacing for stage in stages)


class Found(NamedTuple):
    """The output of each stage: control points (B, D, *control shape), or parameters of an affine
    map.

    before: the displacement of all stages but the last, (B, D, *shape) in voxels; None for one
        stage.
    """

    outputs: tuple[Tensor, ...]
    stages: tuple[Stage, ...]
    before: Tensor | None
    shape: tuple[int, ...]

    @property
    def displacement(self) -> Tensor:
        """The total displacement, (B, D, *shape) in voxels."""
        return composed(self.before, displacement_of(self.stages[-1], self.outputs[-1], self.shape))


class StagedNetwork(nn.Module):
    """Stages in sequence; with one stage this is DIRNet."""

    def __init__(self, dimension: int, channels: int, stages: tuple[Stage, ...]):
        super().__init__()
        self.settings = tuple(stages)
        self.regressors = nn.ModuleList(
            AffineRegressor(dimension, channels, stage.width, stage.layers)
            if stage.transform == "affine"
            else ControlRegressor(dimension, channels, stage)
            for stage in stages
        )
        # Convolutions and pooling of few channels take a third less time this way (torch 2.13,
        # CPU).
        self.to(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[dimension])

    def forward(self, fixed: Tensor, moving: Tensor, repeats: int = 1) -> Found:
        """From images (B, C, *shape); moving(x + displacement(x)) is like fixed(x).

        repeats: how often the last stage is applied, each time to what is left.
        """
        found = Found((), (), None, tuple(fixed.shape[2:]))
        passes = list(zip(self.settings, self.regressors, strict=True))
        for stage, regressor in passes + passes[-1:] * (repeats - 1):
            before = found.displacement if found.outputs else None
            moved = moving if before is None else sampled(moving, before)
            output = regressor(*(standardized(shrunk(i, stage.shrink)) for i in (fixed, moved)))
            stages = (*found.stages, stage)
            found = Found((*found.outputs, output), stages, before, found.shape)
        return found


def staged_network(dimension: int, channels: int, stages: tuple[Stage, ...]) -> StagedNetwork:
    """As a card's arguments say (``Checkpoint.built``)."""
    return StagedNetwork(dimension, channels, stages)


class ControlRegressor(nn.Module):
    """The displacements of control points in voxels, from both images as channels (DIRNet)."""

    def __init__(self, dimension: int, channels: int, stage: Stage):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
        pool = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[dimension]
        parts: list[nn.Module] = []
        count = 2 * channels
        for layer in range(stage.layers):
            parts += [conv(count, stage.width, 3, padding=1), nn.ELU(inplace=True)]
            parts += [pool(2)] if layer < stage.halvings else []
            count = stage.width
        for _ in range(stage.dense):
            parts += [conv(count, stage.width, 1), nn.ELU(inplace=True)]
            count = stage.width
        self.features = nn.Sequential(*parts)
        self.head = conv(count, dimension, 1)
        self.limit = _LIMIT * stage.spacing if stage.limited else None

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        control = self.head(self.features(torch.cat([fixed, moving], 1)))
        return control if self.limit is None else self.limit * torch.tanh(control / self.limit)


def initialized(network: StagedNetwork, generator: torch.Generator) -> StagedNetwork:
    """The network with random weights, and heads of zero: it starts at the identity."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 or ".head." in name:
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=generator)
    return network


def composed(first: Tensor | None, then: Tensor) -> Tensor:
    """The displacement of x -> y + first(y) at y = x + then(x); first None is the identity."""
    return then if first is None else then + sampled(first, then)


def displacement_of(stage: Stage, output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The displacement of a stage at every voxel, (B, D, *shape),
    float32 whatever the precision.
    """
    with torch.autocast(output.device.type, enabled=False):
        if stage.transform == "affine":
            return affine_displacement(output.float(), shape)
        return dense(output.float(), stage.spacing)


def sampled(values: Tensor, displacement: Tensor) -> Tensor:
    """values (B, C, *shape) at x + displacement(x), (B, D, *shape), both in voxels."""
    unit = voxel_lattice(displacement.shape[2:])
    pairs = zip(values, displacement, strict=True)
    return torch.stack([sample(image, u.contiguous(), unit) for image, u in pairs])


def voxel_lattice(shape: tuple[int, ...]) -> Lattice:
    """A lattice whose mm are voxels."""
    return Lattice(tuple(shape), (1.0,) * len(shape), (0.0,) * len(shape))


def shrunk(images: Tensor, factor: int) -> Tensor:
    """Images (B, C, *shape) averaged over blocks of ``factor`` voxels along each axis."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[images.ndim - 2]
    return images if factor == 1 else pool(images, factor)


def standardized(images: Tensor) -> Tensor:
    """Each channel of each image (B, C, *shape) with mean 0 and standard deviation 1."""
    axes = tuple(range(2, images.ndim))
    middle = images - images.mean(axes, keepdim=True)
    return middle / middle.square().mean(axes, keepdim=True).sqrt().clamp(min=1e-6)
