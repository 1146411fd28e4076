"""The settings that methods of composed steps share, and their checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Settings(Protocol):
    """Of such a method, a frozen dataclass.

    spacing_mm: voxels of the finest level (see ``levels.levels``). iterations: maximum at each
    level, coarse to fine. scaled: scale one-channel images to [0, 1] first.
    """

    spacing_mm: float
    iterations: tuple[int, ...]
    scaled: bool
    device: str


def check_settings(method: Settings, *, positive: Iterable[str], not_negative: Iterable[str]):
    """Makes ``iterations`` a tuple. ValueError for settings that make no sense."""
    object.__setattr__(method, "iterations", tuple(method.iterations))
    if not method.iterations or min(method.iterations) < 1:
        raise ValueError(
            f"iterations needs a number of 1 or more for each level, found {method.iterations}"
        )
    for name in positive:
        if not getattr(method, name) > 0:
            raise ValueError(f"{name} must be more than 0, found {getattr(method, name)}")
    for name in not_negative:
        if not getattr(method, name) >= 0:
            raise ValueError(f"{name} must not be negative, found {getattr(method, name)}")
