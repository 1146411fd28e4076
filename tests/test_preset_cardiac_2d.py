"""The preset for cardiac cine MR follows the blood pool, on a phantom and on real slices."""

from __future__ import annotations

import pytest
import torch

from hybridreg.cases import ImagePair
from hybridreg.config import load_intent, load_method, with_settings
from hybridreg.evaluation import dice
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, read_labels
from hybridreg.transforms import IDENTITY
from hybridreg.warping import jacobian_determinant, warp

PRESET = with_settings(load_method("cardiac-2d"), threads=1)
# Of train persons: diastole and systole of one slice level.
PAIRS = [
    ("SC-HF-I-01-IM-0001-0079", "SC-HF-I-01-IM-0001-0068"),
    ("SC-HF-NI-34-IM-0001-0119", "SC-HF-NI-34-IM-0001-0107"),
]


def slice_through_a_heart(pool_mm: float, *, seed: int) -> tuple[Image, LabelMap]:
    """A body with a bright ventricle in a gray wall of constant area, drawn in closed form."""
    grid = Grid((128, 120), (1.3, 1.3), (-80.0, -75.0))
    x, y = grid.points().unbind(-1)
    body = (x / 72) ** 2 + (y / 60) ** 2 < 1
    lung = ((x - 42) / 20) ** 2 + (y / 40) ** 2 < 1
    radius = ((x + 4) ** 2 + (y - 3) ** 2).sqrt()
    wall_mm = (pool_mm**2 + 34**2 - 24**2) ** 0.5
    data = torch.where(body, 70 + 15 * (x / 9).sin() * (y / 11).cos(), 4.0)
    data = torch.where(lung, 12.0, data)
    data = torch.where(radius < wall_mm, 55.0, data)
    data = torch.where(radius < pool_mm, 180.0, data)
    noise = 4 * torch.randn(grid.shape, generator=torch.Generator().manual_seed(seed))
    return Image(data + noise, grid), LabelMap(radius < pool_mm, grid)


def dice_and_least_determinant(fixed, moving) -> tuple[float, float, float]:
    """Dice of the pools before and after, and the least determinant of the transform."""
    (image, pool), (moving_image, moving_pool) = fixed, moving
    found = PRESET.register(ImagePair(image, moving_image)).transform
    before, after = (
        next(iter(dice(pool, warp(moving_pool, t, onto=image.grid)).values()))
        for t in (IDENTITY, found)
    )
    return before, after, jacobian_determinant(found, image.grid).data.min().item()


def test_it_says_that_it_is_for_one_person_and_one_contrast():
    intent = load_intent("cardiac-2d")
    assert intent.same_subject and intent.same_contrast


@pytest.mark.parametrize("systole_is_fixed", [True, False])
def test_a_phantom_ventricle_is_followed_both_ways(systole_is_fixed):
    frames = [slice_through_a_heart(15.0, seed=1), slice_through_a_heart(24.0, seed=2)]
    fixed, moving = frames if systole_is_fixed else reversed(frames)
    before, after, least = dice_and_least_determinant(fixed, moving)
    assert before < 0.6
    assert after > 0.95  # a pixel around the smaller pool is .08 of it
    assert least > 0


@pytest.mark.parametrize("names", PAIRS, ids=lambda names: names[0][3:10])
def test_diastole_comes_onto_systole_of_real_slices(data, names):
    folder = data / "sunnybrook_2d"
    diastole, systole = (
        (
            read_image(folder / "images" / f"{name}.dcm.png"),
            read_labels(folder / "labels" / f"{name}.dcm.png"),
        )
        for name in names
    )
    before, after, least = dice_and_least_determinant(systole, diastole)
    assert before < 0.76
    assert after > before + 0.12
    assert least > 0
