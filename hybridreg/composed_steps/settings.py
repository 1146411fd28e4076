"""Checks of the settings that methods of composed steps share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def check_settings(method: Any, *, positive: Iterable[str], not_negative: Iterable[str]):
    """Makes ``iterations`` of a frozen dataclass a tuple; ValueError for one that makes no sense."""
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
