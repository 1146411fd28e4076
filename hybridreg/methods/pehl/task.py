"""Trains PEHL on projections of one CT: what is learned, and its settings as in a TOML file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hybridreg.drr import Projector, attenuation
from hybridreg.images import Image
from hybridreg.io.checkpoints import Card
from hybridreg.io.images import read_image
from hybridreg.io.radiographs import read_geometry
from hybridreg.methods.pehl.backgrounds import backgrounds
from hybridreg.methods.pehl.body import Body, source_to_isocenter
from hybridreg.methods.pehl.network import KIND, PehlNetwork, Seen, initialize
from hybridreg.methods.pehl.placement import GROUPS, PARAMETERS, Placement
from hybridreg.methods.pehl.points import Choice, candidates, chosen_points
from hybridreg.methods.pehl.samples import Look, Pool, Ranges, render
from hybridreg.radiographs import Detector

_VALIDATION_BATCHES = 8
_LEARNED = (
    *("channels", "local", "joint", "samples", "batch_size", "steps_per_epoch", "optimizer"),
    *("learning_rate", "decay", "power", "backgrounds", "data", "data_licence", "weights_licence"),
)
"""Settings on which rendered samples do not depend."""
_HELD_OUT = 1 << 20  # added to the seed for samples that are not learned from


@dataclass(frozen=True, kw_only=True)
class PehlTraining:
    """Trains regressors of the pose of one object on projections of its CT (Miao 2016).

    ct: in HU, of the object alone. geometry: the C-arm, a file as for ``hybridreg project``.
    zones: along alpha and beta, of zone_deg each, about middle_deg. points, width_mm, pixels: how
    many regions, how wide at the object, and in pixels. channels, local, joint: see
    ``network.Regressor``.
    cache: folder for rendered samples, which a continued run then reads. data, licenses: for the
        card.
    pixel_mm: of the detector in training. samples: of each group in each zone; batch_size: of each
        group in a step.
    """

    ct: Path
    geometry: Path
    zones: tuple[int, int] = (1, 1)
    zone_deg: float = 20.0
    middle_deg: tuple[float, float] = (0.0, 0.0)
    points: int = 18
    width_mm: float = 18.0
    pixels: int = 52
    channels: int = 20
    local: int = 100
    joint: int = 250
    pixel_mm: float = 0.5
    samples: int = 25_000
    batch_size: int = 64
    steps_per_epoch: int = 390
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.0025
    decay: float = 1e-4
    power: float = 0.75
    ranges: Ranges = Ranges()
    choice: Choice = Choice()
    scatter: float = 0.03
    blur_mm: float = 1.0
    cache: Path | None = None
    backgrounds: int = 200
    data: str = "projections of one CT before synthetic backgrounds"
    data_licence: str = "not stated"
    weights_licence: str = "not stated"

    def task(self) -> PehlTask:
        """What ``training.train`` takes."""
        return PehlTask(read_image(self.ct), read_geometry(self.geometry), self)


@dataclass(frozen=True, eq=False)
class PehlTask:
    """The regressors of all zones and groups, trained together.

    ct: in HU. detector: of the C-arm. how: the settings.
    """

    ct: Image
    detector: Detector
    how: PehlTraining
    kind: ClassVar[str] = KIND

    @property
    def steps_per_epoch(self) -> int:
        return self.how.steps_per_epoch

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a run must share with the one it continues."""
        stated = {k: v for k, v in asdict(self.how).items() if k not in ("ct", "geometry", "cache")}
        return {**stated, "ct": _checksum(self.ct.data), "source": list(self.detector.source)}

    @cached_property
    def mu(self) -> Image:
        return attenuation(self.ct)

    @cached_property
    def body(self) -> Body:
        return Body.of(self.mu)

    @cached_property
    def placement(self) -> Placement:
        """On the detector in training pixels, with the object's center of mass at the isocenter."""
        return Placement(self.detector.with_spacing((self.how.pixel_mm,) * 2), self.body.center)

    @property
    def seen(self) -> Seen:
        how, detector = self.how, self.detector
        return Seen(
            *(how.width_mm, how.pixel_mm, how.scatter, how.zone_deg),
            source_to_detector_mm=detector.distance,
            source_to_isocenter_mm=source_to_isocenter(detector),
            absorption=self.body.absorption,
            spread_mm=self.body.spread_mm,
        )

    @cached_property
    def middles(self) -> Tensor:
        """Alpha and beta in the middle of each zone, (zones, 2)."""
        axes = [
            middle + self.how.zone_deg * (torch.arange(n, dtype=torch.float64) - (n - 1) / 2)
            for middle, n in zip(self.how.middle_deg, self.how.zones, strict=True)
        ]
        return torch.cartesian_prod(*axes)

    @cached_property
    def points(self) -> Tensor:
        """Of each zone, (zones, N, 3) CT mm."""
        return torch.stack([self._points_of(zone) for zone in range(len(self.middles))])

    def _points_of(self, zone: int) -> Tensor:
        how, random = self.how, Generator().manual_seed(zone)
        middle = torch.cat([torch.zeros(4, dtype=torch.float64), self.middles[zone]])
        found = candidates(self.mu, self.placement, middle, how.choice, random)
        poses = how.ranges.poses(how.choice.draws, self.middles[zone], how.zone_deg, random)
        errors = how.ranges.drawn_errors(how.choice.draws, "in_plane", random)
        return chosen_points(
            self._projector,
            self.placement,
            found,
            poses,
            errors,
            count=how.points,
            width_mm=how.width_mm,
            pixels=how.pixels,
            scatter=how.scatter,
            choice=how.choice,
        )

    @cached_property
    def _projector(self) -> Projector:
        return Projector(self.mu)

    def look(self, zone: int) -> Look:
        """How residuals are made in a zone."""
        how = self.how
        return Look(self.placement, self.points[zone], how.width_mm, how.pixels, how.scatter)

    @cached_property
    def _pools(self) -> list[dict[str, Pool]]:
        return [self._pool(zone, self.how.samples) for zone in range(len(self.middles))]

    @cached_property
    def _behind(self) -> Tensor:
        return self._backgrounds(0)

    def _backgrounds(self, seed: int) -> Tensor:
        random = Generator().manual_seed(seed)
        return backgrounds(self.how.backgrounds, self.placement.detector.shape, random)

    def _pool(self, zone: int, count: int, seed: int = 0) -> dict[str, Pool]:
        """Samples of each group; from the cache, if there is one."""
        if self.how.cache is None:
            return self._rendered(zone, count, seed)
        stated = {k: v for k, v in self.settings.items() if k not in _LEARNED}
        key = hashlib.sha256(json.dumps([stated, zone, count, seed]).encode())
        files = {g: self.how.cache / f"{key.hexdigest()[:16]}-{g}.npz" for g in GROUPS}
        if all(file.is_file() for file in files.values()):
            return {group: Pool.load(file) for group, file in files.items()}
        made = self._rendered(zone, count, seed)
        for group, file in files.items():
            made[group].save(file)
        return made

    def _rendered(self, zone: int, count: int, seed: int) -> dict[str, Pool]:
        how = self.how
        return render(
            self._projector,
            self.look(zone),
            self.middles[zone],
            count=count,
            zone_deg=how.zone_deg,
            ranges=how.ranges,
            blur_px=how.blur_mm / how.pixel_mm,
            generator=Generator().manual_seed(seed + zone),
        )

    def network(self, generator: Generator) -> PehlNetwork:
        """New regressors, with the points of this CT."""
        network = PehlNetwork(**self._arguments)
        initialize(network, generator)
        network.points.copy_(self.points)
        network.middles.copy_(self.middles)
        network.center.copy_(self.placement.center)
        network.axes.copy_(self.placement.turned)
        network.ranges.copy_(torch.tensor(self.how.ranges.errors))
        return network

    @property
    def _arguments(self) -> dict[str, Any]:
        names = ("points", "pixels", "channels", "local", "joint")
        sizes = {name: getattr(self.how, name) for name in names}
        return {"zones": len(self.middles), **sizes, "seen": self.seen}

    def optimizer(self, network: PehlNetwork) -> tuple[Optimizer, LRScheduler]:
        """Published: SGD, momentum .9, weight decay 1e-4, rate (1 + decay step)^-power."""
        how, weights = self.how, network.parameters()
        if how.optimizer == "sgd":
            optimizer: Optimizer = SGD(weights, how.learning_rate, momentum=0.9, weight_decay=1e-4)
        else:
            optimizer = Adam(weights, how.learning_rate)
        return optimizer, LambdaLR(optimizer, lambda step: (1 + how.decay * step) ** -how.power)

    def batch(self, generator: Generator) -> dict[str, Tensor]:
        """Residuals and targets of each group, of one zone drawn at random."""
        zone = int(torch.randint(len(self._pools), (), generator=generator))
        index = torch.randint(self.how.samples, (self.how.batch_size,), generator=generator)
        return self._batch(self._pools[zone], zone, index, self._behind, generator)

    def _batch(
        self,
        pools: dict[str, Pool],
        zone: int,
        index: Tensor,
        behind: Tensor,
        generator: Generator,
    ) -> dict[str, Tensor]:
        found = {"zone": torch.tensor(zone)}
        for group, pool in pools.items():
            part = pool.batch(index, self.look(zone), behind, generator)
            found[f"{group}_residuals"], found[f"{group}_targets"] = part
        return found

    @cached_property
    def _validation(self) -> list[dict[str, Tensor]]:
        batches = []
        for zone in range(len(self.middles)):
            count = _VALIDATION_BATCHES * self.how.batch_size
            pools = self._pool(zone, count, seed=_HELD_OUT)
            random = Generator().manual_seed(_HELD_OUT + zone)
            behind = self._backgrounds(_HELD_OUT)
            for index in torch.arange(count).split(self.how.batch_size):
                batches.append(self._batch(pools, zone, index, behind, random))
        return batches

    def validation(self) -> Iterator[dict[str, Tensor]]:
        yield from self._validation

    def losses(self, network: PehlNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared error of each group, in units of the trained ranges."""
        regressors = network.regressors[int(batch["zone"])]
        return {
            group: (regressors[group](batch[f"{group}_residuals"]) - batch[f"{group}_targets"])
            .square()
            .mean()
            for group in GROUPS
        }

    @torch.no_grad()
    def scores(self, network: PehlNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The RMS error of each parameter in mm or degrees, by its own group."""
        found, regressors = {}, network.regressors[int(batch["zone"])]
        for number, (group, chosen) in enumerate(GROUPS.items()):
            off = regressors[group](batch[f"{group}_residuals"]) - batch[f"{group}_targets"]
            scale = network.ranges[number, list(chosen)].to(off)
            for parameter, rms in zip(chosen, off.square().mean(0).sqrt() * scale, strict=True):
                found[f"error_{PARAMETERS[parameter]}"] = rms
        return found

    def test(self, network: PehlNetwork) -> dict[str, float]:
        return {}

    def card(self) -> Card:
        how = self.how
        names = (
            "samples",
            "batch_size",
            "optimizer",
            "learning_rate",
            "decay",
            "power",
            "zone_deg",
        )
        return Card(
            kind=KIND,
            architecture=(
                f"for each zone and group: in {how.points} regions conv 5x5x{how.channels}, max "
                "pooling 2, conv "
                f"5x5x{how.channels}, max pooling 2, full {how.local}; joined full "
                f"{how.joint} (Miao 2016)"
            ),
            training_grid=f"{how.pixels} x {how.pixels} pixels of regions {how.width_mm:g} mm wide",
            intensity_rule="contrast of regions",
            data=how.data,
            data_licence=how.data_licence,
            weights_licence=how.weights_licence,
            split={"train": ["simulated"], "validation": ["simulated"], "test": []},
            seed=0,
            validation={},
            training={name: getattr(how, name) for name in names},
            arguments={**self._arguments, "seen": asdict(self.seen)},
        )


def _checksum(data: Tensor) -> str:
    return hashlib.sha256(data.contiguous().numpy().tobytes()).hexdigest()[:16]
