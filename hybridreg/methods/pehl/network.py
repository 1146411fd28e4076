"""The regressors of PEHL: for each zone of angles and group of parameters, a small convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hybridreg.io.checkpoints import read_checkpoint
from hybridreg.methods.pehl.placement import GROUPS

KIND = "pehl"
_KERNEL = 5


class Regressor(nn.Module):
    """Residuals (B, N, pixels, pixels) to errors (B, outputs), in units of the trained ranges.

    Every region passes through the same layers: conv 5x5, max pooling 2, conv 5x5, max pooling 2
    and a full layer of ``local`` outputs; those of all regions are joined by one of ``joint`` (Miao
    2016, Fig. 4).
    """

    def __init__(
        self, *, points: int, pixels: int, channels: int, local: int, joint: int, outputs: int
    ):
        super().__init__()
        side = ((pixels - _KERNEL + 1) // 2 - _KERNEL + 1) // 2
        if side < 1:
            raise ValueError(
                f"regions of {pixels} pixels are too small for the network: 16 at least"
            )
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, _KERNEL),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, channels, _KERNEL),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(channels * side**2, local),
            nn.ReLU(inplace=True),
        )
        self.joined = nn.Sequential(nn.Linear(points * local, joint), nn.ReLU(inplace=True))
        self.output = nn.Linear(joint, outputs)

    def forward(self, residuals: Tensor) -> Tensor:
        images = residuals.flatten(0, 1)[..., None].permute(0, 3, 1, 2)
        found = self.features(images)  # channels last in memory: pooling takes half the time
        return self.output(self.joined(found.unflatten(0, residuals.shape[:2]).flatten(1)))


@dataclass(frozen=True)
class Seen:
    """What regressors were trained on; with another object or C-arm their answers mean nothing.

    width_mm, pixel_mm, scatter: of regions, see ``residuals``; pixel_mm of the detector. zone_deg:
        of zones.
    source_to_detector_mm, source_to_isocenter_mm: of the C-arm. absorption: the integral of the
    object's attenuation in mm^2, and spread_mm: its standard deviation along each axis of the CT.
    """

    width_mm: float
    pixel_mm: float
    scatter: float
    zone_deg: float
    source_to_detector_mm: float
    source_to_isocenter_mm: float
    absorption: float
    spread_mm: tuple[float, float, float]


class PehlNetwork(nn.Module):
    """All regressors, and what they were trained for.

    zones: how many; seen: in training; the rest as for ``Regressor``. Buffers: points (zones, N, 3)
    CT mm; middles (zones, 2), alpha and beta in degrees; center (3,) and axes (3, 3) of
    ``placement.Placement``; ranges (groups, 6) of the errors in mm and degrees.
    """

    def __init__(
        self,
        *,
        zones: int,
        points: int,
        pixels: int,
        channels: int,
        local: int,
        joint: int,
        seen: Seen,
    ):
        super().__init__()
        self.seen, self.pixels = seen, pixels
        sizes = {
            "points": points,
            "pixels": pixels,
            "channels": channels,
            "local": local,
            "joint": joint,
        }
        self.regressors = nn.ModuleList(
            nn.ModuleDict({g: Regressor(**sizes, outputs=len(p)) for g, p in GROUPS.items()})
            for _ in range(zones)
        )
        for name, shape in (
            ("points", (zones, points, 3)),
            ("middles", (zones, 2)),
            ("center", (3,)),
            ("axes", (3, 3)),
            ("ranges", (len(GROUPS), 6)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def zone_of(self, parameters: Tensor) -> int:
        """The zone whose middle is nearest to the angles of parameters (6,)."""
        return int((self.middles - parameters[4:]).norm(dim=-1).argmin())

    def errors(self, residuals: Tensor, *, zone: int, group: str) -> Tensor:
        """The estimated errors (B, parameters of the group) in mm and degrees."""
        number = list(GROUPS).index(group)
        scale = self.ranges[number, list(GROUPS[group])]
        return self.regressors[zone][group](residuals) * scale.to(residuals)


def initialize(network: nn.Module, generator: torch.Generator):
    """Glorot's uniform weights and biases of 0."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)


def trained_network(weights: str | Path) -> PehlNetwork:
    """The regressors of a training: a file, or packaged weights by name (ValueError for others)."""
    return read_checkpoint(weights, kind=KIND).built(_network_of)


def _network_of(
    *, zones: int, points: int, pixels: int, channels: int, local: int, joint: int, seen: Seen
) -> PehlNetwork:
    sizes = {"points": points, "pixels": pixels, "channels": channels}
    return PehlNetwork(zones=zones, **sizes, local=local, joint=joint, seen=seen)
