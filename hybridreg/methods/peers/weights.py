"""Weights that a user brings for a network of another package."""

from __future__ import annotations

from pathlib import Path


def without_weights(weights: str, where: str) -> str:
    """What to do about weights that are not given or not there; empty where they are.

    where: the place where the authors of the network publish some.
    """
    if not weights:
        return f'it needs weights: name their file (weights = "..." in its TOML file); {where}'
    return "" if Path(weights).is_file() else f"there are no weights {weights}; {where}"
