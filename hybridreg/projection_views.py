"""The pictures of a 2D/3D registration: radiographs side by side, and projections before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridreg.drr import Projector, attenuation
from hybridreg.geometry import Grid
from hybridreg.kernels.smoothing import downsampled
from hybridreg.poses import rigid_matrix
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Detector
from hybridreg.transforms import IDENTITY, AffineTransform, Transform
from hybridreg.views import MAX_SIDE, Window, make_views


@make_views.register
def _(
    pair: ProjectionPair,
    transform: Transform,
    *,
    initial: Transform = IDENTITY,
    **_: Any,
) -> dict[str, np.ndarray]:
    projector = Projector(attenuation(pair.moving))
    detectors = [radiograph.detector for radiograph in pair.fixed]
    step = max(max(d.grid.spacing[:2]) for d in detectors)
    width = sum(d.shape[1] * d.grid.spacing[0] for d in detectors)
    step *= max(1.0, width / step / (len(detectors) * MAX_SIDE[2]))

    def drawn(pose: Transform) -> list[Tensor]:
        at = AffineTransform(rigid_matrix(pose))
        return [_coarse(projector(d, at), d, step) for d in detectors]

    fixed = [_coarse(r.data[:1], r.detector, step) for r in pair.fixed]
    before, after = drawn(initial), drawn(transform)
    windows = [_window(image) for image in fixed]
    high = max(*(image.max().item() for image in before + after), 1e-6)
    moving_window = Window(0.0, high, "line integrals")
    shown = _side_by_side([w.apply(i[0]) for w, i in zip(windows, fixed, strict=True)])
    grid = Grid(shown.shape, (step, step))
    return {
        "fixed": shown,
        "before": _side_by_side([moving_window.apply(image[0]) for image in before]),
        "moved": _side_by_side([moving_window.apply(image[0]) for image in after]),
        "spacing_mm": np.array(grid.spacing),
        "coarse_spacing_mm": np.array(grid.spacing),
        "origin_mm": np.array(grid.origin),
        "direction": np.array(grid.direction),
        "letters": np.array([("", "")] * 2),
        **windows[0].describe("fixed"),
        **moving_window.describe("moving"),
    }


def _coarse(image: Tensor, detector: Detector, step: float) -> Tensor:
    """An image (1, rows, columns) in square pixels of ``step`` mm."""
    return downsampled(image, tuple(step / s for s in detector.grid.spacing[:2]))


def _side_by_side(images: list[np.ndarray]) -> np.ndarray:
    rows = max(len(image) for image in images)
    return np.hstack([np.pad(image, ((0, rows - len(image)), (0, 0))) for image in images])


def _window(data: Tensor) -> Window:
    values = data.flatten()[:: max(1, data.numel() // 300_000)]
    low, high = torch.quantile(values, torch.tensor([0.005, 0.995])).tolist()
    return Window(low, high if high > low else low + 1, "0.5 to 99.5 percentile")
