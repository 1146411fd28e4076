"""The object that regressors were trained for, and whether a CT and a C-arm are those of the training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridreg.images import Image
from hybridreg.methods.pehl.network import PehlNetwork, Seen
from hybridreg.radiographs import Detector

_SAME_MM = 2.0
_SAME = 0.1  # relative


@dataclass(frozen=True, eq=False)
class Body:
    """Moments of an attenuation: its integral in mm^2, center of mass (3,) LPS mm, and spread."""

    absorption: float
    center: Tensor
    spread_mm: tuple[float, float, float]

    @classmethod
    def of(cls, mu: Image) -> Body:
        """ValueError where nothing absorbs."""
        weight = mu.data[0].double()
        total = weight.sum()
        if total <= 0:
            raise ValueError("the CT shows only air: is it the right file?")
        points = mu.grid.points()
        center = (weight[..., None] * points).sum((0, 1, 2)) / total
        spread = ((weight[..., None] * (points - center).square()).sum((0, 1, 2)) / total).sqrt()
        voxel = mu.grid.voxel_to_physical()[:3, :3].det().abs().item()
        return cls(total.item() * voxel, center, tuple(spread.tolist()))


def source_to_isocenter(detector: Detector) -> float:
    """In mm, along the normal of the detector."""
    normal = torch.tensor(detector.grid.direction, dtype=torch.float64)[:, 2]
    return (torch.tensor(detector.source, dtype=torch.float64) @ normal).item()


def check_body(body: Body, network: PehlNetwork):
    """ValueError for a CT of another object than that of the training, or placed otherwise."""
    seen: Seen = network.seen
    away = (body.center - network.center).norm().item()
    wide = torch.tensor([body.spread_mm, seen.spread_mm], dtype=torch.float64)
    other = abs(body.absorption / seen.absorption - 1) > _SAME
    if other or (wide[0] - wide[1]).abs().max() > _SAME_MM or away > _SAME_MM:
        raise ValueError(
            "this CT does not show the object of the training in its place: it absorbs "
            f"{body.absorption:.4g} mm^2 about "
            f"{_point(body.center)} mm with a spread of {_point(wide[0])} mm, in training "
            f"{seen.absorption:.4g} mm^2 "
            f"about {_point(network.center)} mm and {_point(wide[1])} mm: give that CT, or "
            "train on this one "
            "(hybridreg train pehl)"
        )


def check_c_arm(detector: Detector, seen: Seen):
    """ValueError for a C-arm with other distances than that of the training."""
    found = detector.distance, source_to_isocenter(detector)
    wanted = seen.source_to_detector_mm, seen.source_to_isocenter_mm
    if any(abs(f / w - 1) > _SAME for f, w in zip(found, wanted, strict=True)):
        mirrored = " (the image is mirrored: flip it)" if found[0] < 0 else ""
        raise ValueError(
            f"the source lies {found[0]:g} mm from the detector and {found[1]:g} mm from the "
            f"isocenter{mirrored}, in "
            f"training {wanted[0]:g} and {wanted[1]:g} mm: train with this geometry "
            "(hybridreg train pehl)"
        )


def _point(point: Tensor) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in point.tolist()) + ")"
