"""Initial transforms by alignment of centers."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.choices import INITIALIZATIONS
from hybridreg.images import Image, LabelMap
from hybridreg.preprocessing import without_outliers
from hybridreg.transforms import AffineTransform


def initialize(pair: ImagePair, how: str) -> AffineTransform:
    """The translation that aligns the centers, fixed -> moving.

    how: "centers" for the centers of the fields of view, "mass" for the centers of mass of
    intensities above the background (within the masks, if given).
    """
    if how == "centers":
        shift = pair.moving.grid.center - pair.fixed.grid.center
    elif how == "mass":
        moving = center_of_mass(pair.moving, pair.moving_mask)
        shift = moving - center_of_mass(pair.fixed, pair.fixed_mask)
    else:
        raise ValueError(f"an initialization is one of {', '.join(INITIALIZATIONS)}, found {how!r}")
    return AffineTransform.from_parts(torch.eye(pair.dimension), shift)


def center_of_mass(image: Image, mask: LabelMap | None = None) -> Tensor:
    """LPS mm of the mean position, weighted by intensity above the lowest 1 %; shape (D,).

    Intensities are clipped at the 99th percentile, to limit the influence of metal and vessels.
    """
    data = without_outliers(image).data.mean(0)
    sample = data.flatten()[:: max(1, data.numel() // 100_000)]
    low, high = torch.quantile(sample, torch.tensor([0.01, 0.99])).tolist()
    weights = (data - low).clamp(0, max(high - low, 1e-12))
    if mask is not None:
        weights = weights * (mask.data != 0)
    total = weights.sum(dtype=torch.float64)
    if total == 0:
        return image.grid.center
    matrix = image.grid.voxel_to_physical()
    index = []
    for axis in range(data.ndim - 1, -1, -1):  # (x, y, z) order
        others = [a for a in range(data.ndim) if a != axis]
        profile = weights.sum(others, dtype=torch.float64)
        steps = torch.arange(len(profile), dtype=torch.float64)
        index.append((profile * steps).sum() / total)
    return matrix[:-1, :-1] @ torch.stack(index) + matrix[:-1, -1]
