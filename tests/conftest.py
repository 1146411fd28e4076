"""Where tests find real images, and oblique phantoms that every test can use."""

import os
from pathlib import Path

import pytest
import torch

from hybridreg.geometry import Grid

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real images, from the environment variable HYBRIDREG_DATA."""
    folder = os.environ.get("HYBRIDREG_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HYBRIDREG_DATA does not name the folder of real images")
    return Path(folder)


def oblique_grid(dimension: int = 3, *, left_handed: bool = False) -> Grid:
    """Anisotropic, non-cubic, off-origin and turned about no axis of symmetry."""
    from hybridreg.transforms import rigid

    angles = (20.0, -35.0, 15.0) if dimension == 3 else (25.0,)
    axes = rigid(angles, [0.0] * dimension, [0.0] * dimension).linear.numpy().copy()
    if left_handed:
        axes[:, 0] *= -1
    if dimension == 2:
        return Grid((31, 24), (1.1, 1.7), (-40.0, 25.0), axes)
    return Grid((21, 31, 24), (1.1, 0.9, 2.3), (-40.0, 25.0, 60.0), axes)
