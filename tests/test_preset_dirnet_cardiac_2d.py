"""The packaged network for cardiac cine MR follows a phantom ventricle that it has never seen."""

from __future__ import annotations

import pytest
from test_preset_cardiac_2d import slice_through_a_heart

from hybridreg.cases import ImagePair
from hybridreg.config import load_intent, load_method
from hybridreg.evaluation import dice
from hybridreg.transforms import IDENTITY
from hybridreg.warping import jacobian_determinant, warp

PRESET = load_method("dirnet-cardiac-2d")


def test_it_is_for_one_person_and_one_contrast():
    intent = load_intent("dirnet-cardiac-2d")
    assert intent.same_subject and intent.same_contrast


@pytest.mark.parametrize("systole_is_fixed", [True, False])
def test_a_phantom_ventricle_is_followed_both_ways(systole_is_fixed):
    frames = [slice_through_a_heart(15.0, seed=1), slice_through_a_heart(24.0, seed=2)]
    (fixed, pool), (moving, moving_pool) = frames if systole_is_fixed else reversed(frames)
    found = PRESET.register(ImagePair(fixed, moving)).transform
    before, after = (
        next(iter(dice(pool, warp(moving_pool, t, onto=fixed.grid)).values()))
        for t in (IDENTITY, found)
    )
    assert after > 0.95 and before < 0.6
    assert jacobian_determinant(found, fixed.grid).data.min() > 0
