"""The pictures of a 2D/3D registration: the first radiograph, and projections before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridreg.drr import Projector, attenuation
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.kernels.smoothing import downsampled
from hybridreg.poses import rigid_matrix
from hybridreg.projection_pair import ProjectionPair
from hybridreg.transforms import IDENTITY, AffineTransform, Transform
from hybridreg.views import MAX_SIDE, Window, make_views


@make_views.register
def _(
    pair: ProjectionPair,
    transform: Transform,
    *,
    initial: Transform = IDENTITY,
    moved: Image | None = None,
    **_: Any,
) -> dict[str, np.ndarray]:
    radiograph, projector = pair.fixed[0], Projector(attenuation(pair.moving))

    def drawn(pose: Transform) -> Tensor:
        return projector(radiograph.detector, AffineTransform(rigid_matrix(pose)))

    after = drawn(transform) if moved is None else moved.data[:, 0]
    factor = max(1.0, max(radiograph.detector.shape) / MAX_SIDE[2])
    images = [
        downsampled(i[:1], (factor, factor)) for i in (radiograph.data, drawn(initial), after)
    ]
    fixed, before, after = images
    window = _window(fixed)
    high = max(after.max().item(), before.max().item(), 1e-6)
    moving_window = Window(0.0, high, "line integrals")
    spacing = [step * factor for step in radiograph.grid.spacing[:2]]
    grid = Grid(tuple(fixed.shape[1:]), spacing)
    return {
        "fixed": window.apply(fixed[0]),
        "before": moving_window.apply(before[0]),
        "moved": moving_window.apply(after[0]),
        "spacing_mm": np.array(grid.spacing),
        "coarse_spacing_mm": np.array(grid.spacing),
        "origin_mm": np.array(grid.origin),
        "direction": np.array(grid.direction),
        "letters": np.array([("", "")] * 2),
        **window.describe("fixed"),
        **moving_window.describe("moving"),
    }


def _window(data: Tensor) -> Window:
    values = data.flatten()[:: max(1, data.numel() // 300_000)]
    low, high = torch.quantile(values, torch.tensor([0.005, 0.995])).tolist()
    return Window(low, high if high > low else low + 1, "0.5 to 99.5 percentile")
