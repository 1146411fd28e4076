"""What a network is shown: the same in training as in use."""

import torch
from conftest import oblique_grid

from hybridreg.cases import ImagePair
from hybridreg.images import Image
from hybridreg.network_inputs import NetworkInputs, on_grid
from hybridreg.phantoms import blobs
from hybridreg.transforms import IDENTITY
from hybridreg.warping import warp


def test_both_images_lie_on_one_grid_and_agree_there_through_the_true_transform():
    case = blobs(dimension=3, angles_deg=(8.0, -5.0, 6.0), translation_mm=(3.0, -2.0, 4.0))
    true, fixed = case.true_transform, case.pair.fixed
    aligned = ImagePair(fixed, warp(case.pair.moving, true, onto=fixed.grid))
    inputs = NetworkInputs(max(fixed.grid.spacing))
    onto = inputs.grid(aligned)
    shown = inputs(case.pair, true, onto)
    assert shown.fixed.grid == shown.moving.grid == onto
    values = torch.stack([shown.fixed.data, shown.moving.data]).flatten(1)
    assert values.min() >= 0 and values.max() <= 1
    assert torch.corrcoef(values)[0, 1] > 0.99
    apart = torch.stack([i.data for i in _images(inputs(case.pair, IDENTITY, onto))]).flatten(1)
    assert torch.corrcoef(apart)[0, 1] < 0.9


def test_coarse_grids_show_means_and_a_fixed_image_on_its_grid_stays_as_it_is():
    grid = oblique_grid()
    noise = Image(torch.randn(grid.shape, generator=torch.Generator().manual_seed(0)), grid)
    coarse = grid.with_spacing([4 * s for s in grid.spacing])
    shown = on_grid(ImagePair(noise, noise), IDENTITY, coarse)
    # 3.9 voxels of smoothing along the finest axis: noise falls to well under a third of its size
    assert shown.fixed.data.std() < 0.3 and torch.equal(shown.fixed.data, shown.moving.data)
    assert on_grid(ImagePair(noise, noise), IDENTITY, grid).fixed is noise


def _images(pair: ImagePair) -> tuple[Image, Image]:
    return pair.fixed, pair.moving
