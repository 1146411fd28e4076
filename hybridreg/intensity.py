"""Scaling of intensities of any modality to [0, 1]."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.preprocessing import foreground, looks_like_ct

CT_WINDOWS = {"brain": (80.0, 40.0), "bone": (2000.0, 500.0), "wide": (2500.0, 250.0)}  # W, L in HU
CT_DEFAULT = "bone"  # CT adds bone to MR, which is saturated in the brain window
PERCENTILES = (0.5, 99.5)  # of the foreground: a few vessels and outliers lie beyond
WAYS = ("auto", *CT_WINDOWS, "percentiles", "8bit")

_SAMPLED_MM, _SAMPLED_FEWEST = 3.0, 16  # distance of voxels, and their number along an axis
_AIR_HU = -1000.0
_MIN_HU = -1024.0  # lower values, such as -2048, are padding outside the scan
_VALUES = 1_000_000  # sampled for percentiles
_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"


@dataclass(frozen=True)
class Scaling:
    """The scaling of an image to [0, 1]: linear from ``low`` to ``high``, clipped outside.

    kind: "CT window" (low and high in HU), "percentiles" (of the foreground), "8 bit" or "range".
    name: of the window or percentiles, empty for user-defined ones.
    chosen: "auto" or "given".
    """

    kind: str
    low: float
    high: float
    name: str
    chosen: str

    def __str__(self) -> str:
        unit = " HU" if self.kind == "CT window" else ""
        named = f"{self.name} " if self.name else ""
        return f"{named}{self.kind}: {self.low:g} to {self.high:g}{unit} became 0 to 1"


def to_unit(image: Image, how: str = "auto") -> tuple[Image, Scaling]:
    """The image scaled to [0, 1], float32, and its scaling; values beyond the ends are clipped.

    how: "auto" treats an image of number type uint8 as already scaled (0 to 255), one with values
    below -500 HU as CT in the bone window, and any other as MR. Or "brain" (W 80 L 40), "bone" (W
    2000 L 500), "wide" (W 2500 L 250); "W,L" in HU; "low..high" in any unit; "percentiles" (0.5 to
    99.5 % of the foreground, see ``preprocessing.foreground``); "8bit". With a CT window, values
    below -1024 HU count as air. ValueError for values that are not finite, and if no value lies
    between the ends.
    """
    bad = int((~torch.isfinite(image.data)).sum())
    if bad:
        raise ValueError(
            f"it has {bad} voxels that are NaN or infinite: replace them by the background "
            "value first"
        )
    scaling = _scaling(image, how)
    data = image.data
    if scaling.kind == "CT window":
        data = torch.where(data < _MIN_HU, _AIR_HU, data)
    scaled = ((data.double() - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return replace(image, data=scaled.float(), dtype="float32"), scaling


def unit_pair(pair: ImagePair, scale: Callable[[Image], Image] | None = None) -> ImagePair:
    """One-channel images scaled to [0, 1] by percentiles, taken from every 3 mm; others unchanged.

    scale: what scales an image in place of that.
    """
    if pair.fixed.channels > 1:
        return pair
    scaled = {}
    for side in ("fixed", "moving"):
        try:
            scaled[side] = (scale or to_unit_fast)(getattr(pair, side))
        except ValueError as error:
            raise ValueError(f"the {side} image: {error}") from error
    return replace(pair, **scaled)


def to_unit_fast(image: Image, how: str = "percentiles") -> Image:
    """As ``to_unit``, but percentiles are those of voxels some mm apart: several times faster."""
    grid = image.grid
    steps = [
        max(1, min(round(_SAMPLED_MM / s), n // _SAMPLED_FEWEST))
        for s, n in zip(grid.spacing, grid.size, strict=True)
    ]
    few = image.data[(slice(None), *(slice(None, None, step) for step in reversed(steps)))]
    spacing = tuple(s * step for s, step in zip(grid.spacing, steps, strict=True))
    sampled = Image(few, Grid(few.shape[1:], spacing, grid.origin, grid.direction), image.dtype)
    _, scaling = to_unit(sampled, how)
    if scaling.kind != "percentiles":
        return to_unit(image, how)[0]
    scaled = (image.data - scaling.low).mul_(1 / (scaling.high - scaling.low)).clamp_(0, 1)
    return replace(image, data=scaled, dtype="float32")


def _scaling(image: Image, how: str) -> Scaling:
    chosen = "auto" if how == "auto" else "given"
    way = _recognized(image) if how == "auto" else how
    if way == "8bit":
        _check_8bit(image)
        return Scaling("8 bit", 0.0, 255.0, "", chosen)
    if way == "percentiles":
        name = "{:g} to {:g} %".format(*PERCENTILES)
        return Scaling("percentiles", *_percentiles(image), name, chosen)
    if way in CT_WINDOWS:
        return Scaling("CT window", *_ends(*CT_WINDOWS[way]), way, chosen)
    return _own(way)


def _recognized(image: Image) -> str:
    if image.dtype == "uint8":
        return "8bit"
    return CT_DEFAULT if looks_like_ct(image.data) else "percentiles"


def _ends(width: float, level: float) -> tuple[float, float]:
    return level - width / 2, level + width / 2


def _own(text: str) -> Scaling:
    """A user-defined window: 'W,L' or 'low..high'."""
    if match := re.fullmatch(f"{_NUMBER},{_NUMBER}", text):
        kind, (low, high) = "CT window", _ends(*map(float, match.groups()))
    elif match := re.fullmatch(rf"{_NUMBER}\.\.{_NUMBER}", text):
        kind, (low, high) = "range", map(float, match.groups())
    else:
        raise ValueError(
            f"{text!r} is no way to scale intensities: give {', '.join(WAYS)}, a window as "
            "'width,level' in HU such as '80,40', or its ends as 'low..high' such as '-100..300'"
        )
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the window {text!r} goes from {low:g} to {high:g}: make it wider")
    return Scaling(kind, low, high, "", "given")


def _check_8bit(image: Image):
    low, high = image.data.min().item(), image.data.max().item()
    if low < 0 or high > 255:
        raise ValueError(
            f"its values go from {low:g} to {high:g}, so it is not scaled to 8 bits: give a window "
            "or 'percentiles'"
        )


def _percentiles(image: Image) -> tuple[float, float]:
    if image.data.min() == image.data.max():
        raise ValueError(
            f"it is constant ({image.data.min().item():g} everywhere): is it the right file? "
            "To use it all the same, give its window as 'low..high'"
        )
    try:
        inside = foreground(image).data != 0
    except ValueError as error:
        raise ValueError(
            "no foreground stands out whose percentiles could be taken: is it the right "
            "file, and large "
            "enough? A window 'low..high' needs none"
        ) from error
    values = image.data[:, inside].flatten()
    values = values[:: max(1, len(values) // _VALUES)].numpy(force=True)
    low, high = np.percentile(values, PERCENTILES).tolist() if len(values) else (0.0, 0.0)
    if not low < high:
        raise ValueError(
            "its foreground is all of one value, so there are no percentiles: give 'low..high'"
        )
    return low, high
