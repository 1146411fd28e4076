"""What a 2D/3D registration sees: radiographs of one patient, and the CT whose pose they show."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hybridreg.images import Image
from hybridreg.radiographs import Radiograph


@dataclass(frozen=True, eq=False)
class ProjectionPair:
    """Radiographs taken without the patient moving, and a CT; all that a method may see.

    fixed: one or more, in one frame of the C-arm; one may be given alone. moving: CT in HU.
    The transform sought is a pose, from the C-arm's mm to the LPS mm of the CT.
    """

    fixed: tuple[Radiograph, ...]
    moving: Image

    def __post_init__(self):
        fixed = (self.fixed,) if isinstance(self.fixed, Radiograph) else tuple(self.fixed)
        object.__setattr__(self, "fixed", fixed)
        if not fixed:
            raise ValueError("a projection pair needs at least one radiograph")
        if self.moving.grid.dimension != 3 or self.moving.channels != 1:
            raise ValueError(
                f"radiographs are registered to a CT, a 3D volume of one channel; found "
                f"{self.moving.grid.dimension}D with {self.moving.channels} channel(s)"
            )
        for number, radiograph in enumerate(fixed, start=1):
            data = radiograph.data
            if not torch.isfinite(data).all() or data.min() == data.max():
                raise ValueError(
                    f"radiograph {number} is constant or has pixels that are NaN or infinite: "
                    "is it the right file?"
                )

    @property
    def dimension(self) -> int:
        """Of the space of the pose."""
        return 3
