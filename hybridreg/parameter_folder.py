"""The folder of the packaged parameter files and presets."""

from __future__ import annotations

from pathlib import Path


def parameter_folder() -> Path:
    """The folder of elastix parameter files and method presets.

    In a checkout it is a link to the folder at its top.
    """
    return Path(__file__).parent / "parameter_files"
