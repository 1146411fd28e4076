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
    channels = without_outliers(image).data
    data = channels.mean(0) if len(channels) > 1 else channels[0]
    sample = data.flatten()[:: max(1, data.numel() // 100_000)]
    low, high = torch.quantile(sample, torch.tensor([0.01, 0.99])).tolist()
    rows, columns = [], 0  # the weights summed along x, and along all other axes
    for number, part in enumerate(data):  # slice by slice, for little memory
        weights = (part.double() - low).clamp_(0, max(high - low, 1e-12))
        if mask is not None:
            weights *= mask.data[number] != 0
        rows.append(weights.sum(-1))
        columns = columns + (weights if weights.ndim == 1 else weights.sum(0))
    rows = torch.stack(rows)
    total = rows.sum()
    if total == 0:
        return image.grid.center
    profiles = [columns] + ([rows] if rows.ndim == 1 else [rows.sum(0), rows.sum(1)])  # x, y, z
    index = [(p * torch.arange(len(p), dtype=torch.float64)).sum() / total for p in profiles]
    matrix = image.grid.voxel_to_physical()
    return matrix[:-1, :-1] @ torch.stack(index) + matrix[:-1, -1]
