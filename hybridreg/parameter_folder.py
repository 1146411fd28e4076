"""Where the packaged parameter files and presets lie."""

from __future__ import annotations

from pathlib import Path


def parameter_folder() -> Path:
    """The folder of elastix parameter files and method presets.

    Installed, it lies inside the package; in a checkout of the repository, beside it.
    """
    package = Path(__file__).parent
    installed = package / "parameter_files"
    return installed if installed.is_dir() else package.parent / "parameter_files"
