"""The packaged network for 2D brain slices: closer than the affine in one pass, one geodesic, no folds."""

from __future__ import annotations

import pytest
from test_presets import FLAT, ONE

from hybridreg.cases import ImagePair
from hybridreg.config import load_intent, load_method
from hybridreg.geodesics import GeodesicTransform
from hybridreg.io.checkpoints import read_card
from hybridreg.io.images import read_image
from hybridreg.phantoms import head_case
from hybridreg.transforms import AffineTransform, parts_of
from hybridreg.warping import jacobian_determinant, warp

PRESET = load_method("quicksilver-2d")


def test_it_is_for_two_persons_and_one_contrast_and_says_that_it_is_narrow():
    intent = load_intent("quicksilver-2d")
    assert intent.same_subject is False and intent.same_contrast
    card = read_card("quicksilver-2d")
    assert "narrow" in card.architecture and "OASIS" in card.data
    assert card.training["cases"] > 200 and card.training["steps"] > 1000


def test_a_phantom_head_gets_an_affine_after_a_geodesic_without_folds():
    pair = head_case(**ONE, **FLAT).pair
    result = PRESET.register(pair)
    affine, geodesic = parts_of(result.transform)
    assert isinstance(affine, AffineTransform) and isinstance(geodesic, GeodesicTransform)
    grid = pair.fixed.grid
    assert jacobian_determinant(result.transform, grid).data.min() > 0
    points = grid.crop([8, 8], [n - 8 for n in grid.shape]).points()
    there = result.inverse(result.transform(points))
    assert (there - points).norm(dim=-1).mean() < 0.1 * min(grid.spacing)


@pytest.mark.parametrize(("fixed", "moving"), [(60, 61), (65, 62)])
def test_slices_that_were_not_trained_on_fit_better_than_after_the_affine(data, fixed, moving):
    folder = data / "oasis_2d_mermaid"
    pair = ImagePair(*(read_image(folder / f"oasis2d_{n:04d}.nrrd") for n in (fixed, moving)))
    result = PRESET.register(pair)
    found = result.transform
    before, after = (
        (warp(pair.moving, t, onto=pair.fixed.grid).data - pair.fixed.data).square().mean().sqrt()
        for t in (parts_of(found)[0], found)
    )
    assert after < 0.9 * before
    assert jacobian_determinant(found, pair.fixed.grid).data.min() > 0
    assert result.doubts == ()
