"""Similarity without labels behaves as its definitions say."""

import math

import pytest
import torch
from conftest import oblique_grid

from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.quality import similarity
from hybridreg.transforms import IDENTITY, AffineTransform


def smooth(grid, phase: float = 0.0) -> Image:
    p = grid.points()
    waves = torch.sin(p[..., 0] / 5 + phase) * torch.cos(p[..., 1] / 6) + torch.sin(p[..., -1] / 7)
    return Image(waves, grid)


def shift(grid, mm: float) -> AffineTransform:
    d = grid.dimension
    return AffineTransform.from_parts(torch.eye(d), [mm] * d)


@pytest.mark.parametrize("dimension", [2, 3])
def test_an_image_agrees_with_itself_and_less_so_when_shifted(dimension):
    grid = oblique_grid(dimension)
    pair = ImagePair(smooth(grid), smooth(grid))
    same, off = similarity(pair, IDENTITY), similarity(pair, shift(grid, 4.0))
    assert same.overlap == 1 and same.correlation == pytest.approx(1)
    assert off.overlap < 0.9
    assert off.correlation < same.correlation - 0.2
    assert off.mutual_information < same.mutual_information / 2


def test_mutual_information_does_not_care_about_contrast_but_correlation_does():
    grid = oblique_grid()
    fixed = smooth(grid)
    inverted = Image(-fixed.data, grid)
    same = similarity(ImagePair(fixed, fixed), IDENTITY)
    other = similarity(ImagePair(fixed, inverted), IDENTITY)
    assert other.correlation == pytest.approx(-1)
    assert other.mutual_information == pytest.approx(same.mutual_information, rel=1e-3)


def test_mutual_information_of_independent_noise_is_near_zero_and_of_two_values_is_their_entropy():
    grid = oblique_grid()
    noise = [Image(torch.rand(grid.shape), grid) for _ in range(2)]
    assert similarity(ImagePair(*noise), IDENTITY).mutual_information < 0.1
    grid = Grid((20, 30, 600))
    halves = Image((torch.arange(600) < 300).expand(grid.shape), grid)
    found = similarity(ImagePair(halves, halves), IDENTITY).mutual_information
    assert found == pytest.approx(math.log(2), abs=0.05)  # the edge is interpolated


def test_masks_decide_where_it_is_compared():
    grid = oblique_grid()
    fixed, mask = smooth(grid), torch.zeros(grid.shape)
    mask[:10] = 1
    spoiled = fixed.data.clone()
    spoiled[:, 10:] = torch.rand(spoiled[:, 10:].shape)
    pair = ImagePair(fixed, Image(spoiled, grid), fixed_mask=LabelMap(mask, grid))
    assert similarity(pair, IDENTITY).correlation > 0.99


def test_without_overlap_there_is_no_similarity():
    grid = oblique_grid()
    found = similarity(ImagePair(smooth(grid), smooth(grid)), shift(grid, 500.0))
    assert found.overlap == 0 and found.correlation is None and found.mutual_information is None
