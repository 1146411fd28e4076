"""Pyramids: exact reconstruction, agreement with filters written out, sensible steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hybridreg.pyramids import (
    collapse,
    expand,
    gaussian_pyramid,
    laplacian_pyramid,
    published_steps,
    reduce,
    steps_by_spacing,
)

FILTER = np.array([1, 4, 6, 4, 1]) / 16


@st.composite
def images_and_steps(draw):
    shape = draw(st.lists(st.integers(1, 19), min_size=2, max_size=3))
    axes = list(range(-len(shape), 0))
    steps = draw(
        st.lists(st.lists(st.sampled_from(axes), unique=True, min_size=1).map(tuple), max_size=5)
    )
    seed = draw(st.integers(0, 1 << 16))
    image = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))
    return image, tuple(steps)


@settings(deadline=None, max_examples=150)
@given(images_and_steps())
def test_an_image_of_any_shape_comes_back_from_its_laplacian_pyramid(given):
    image, steps = given
    levels = laplacian_pyramid(image, steps)
    assert len(levels) == len(steps) + 1
    # What is lost is one rounding of float32 a level, of values up to about 1.
    assert torch.allclose(collapse(levels, steps), image, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(images_and_steps())
def test_the_low_pass_of_both_pyramids_is_the_same_and_an_image_is_not_changed(given):
    image, steps = given
    before = image.clone()
    low = laplacian_pyramid(image, steps)[-1]
    assert torch.equal(low, gaussian_pyramid(image, steps)[-1])
    collapse(laplacian_pyramid(image, steps), steps).zero_()
    assert torch.equal(image, before)


@pytest.mark.parametrize("shape", [(8, 12), (7, 9), (1, 5), (2, 2), (1, 1), (5, 6, 7), (1, 4, 3)])
def test_reduce_is_the_separable_filter_with_a_symmetric_border(shape):
    image = np.random.default_rng(0).random(shape)
    wanted = image
    for axis in range(image.ndim):
        wanted = ndimage.correlate1d(wanted, FILTER, axis, mode="reflect")  # scipy's symmetric
    wanted = wanted[tuple(slice(None, None, 2) for _ in shape)]
    found = reduce(torch.from_numpy(image)[None], tuple(range(-len(shape), 0)))[0]
    np.testing.assert_allclose(found, wanted, atol=1e-15)


@pytest.mark.parametrize("shape", [(8, 12), (7, 9), (1, 5), (2, 2), (1, 1), (5, 6, 7), (1, 4, 3)])
def test_expand_pads_inserts_zeros_filters_and_crops_as_published(shape):
    coarse = np.random.default_rng(1).random([(n + 1) // 2 for n in shape])
    padded = np.pad(coarse, 1, mode="edge")
    wide = np.zeros([2 * n for n in padded.shape])
    wide[tuple(slice(None, None, 2) for _ in shape)] = 2 ** len(shape) * padded
    for axis in range(coarse.ndim):
        wide = ndimage.correlate1d(wide, FILTER, axis, mode="constant")
    wanted = wide[tuple(slice(2, 2 + n) for n in shape)]
    axes = tuple(range(-len(shape), 0))
    found = expand(torch.from_numpy(coarse)[None], axes, shape=shape)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-15)


def test_a_constant_image_has_no_detail_and_keeps_its_value():
    image = torch.full((1, 11, 14, 9), 0.7)
    steps = ((-3, -2, -1), (-1,), (-2, -1))
    *details, low = laplacian_pyramid(image, steps)
    assert all(detail.abs().max() < 1e-6 for detail in details)
    assert torch.allclose(low, torch.tensor(0.7))


def test_only_the_axes_of_a_step_are_halved():
    levels = gaussian_pyramid(torch.rand(3, 20, 17, 9), ((-2, -1), (-3, -2)))
    assert [tuple(level.shape) for level in levels] == [
        (3, 20, 17, 9),
        (3, 20, 9, 5),
        (3, 10, 5, 5),
    ]


@pytest.mark.parametrize(
    "shape, levels", [((256, 256), 8), ((181, 217), 7), ((16, 300), 4), ((1, 9), 1), ((3, 3), 1)]
)
def test_published_levels_are_the_logarithm_of_the_shorter_side(shape, levels):
    assert published_steps(shape) == ((-2, -1),) * (levels - 1)


def test_steps_make_voxels_rounder_and_leave_eight_along_each_axis():
    thick_slices = steps_by_spacing((20, 256, 256), (1, 1, 5))
    assert thick_slices[:3] == ((-2, -1), (-2, -1), (-3, -2, -1))
    assert thick_slices[3:] == ((-2, -1), (-2, -1))  # ten slices are not halved again
    assert steps_by_spacing((181, 217, 181), (1, 1, 1)) == ((-3, -2, -1),) * 4
    assert steps_by_spacing((14, 64, 64), (1, 1, 1))[0] == (-2, -1)
    assert steps_by_spacing((9, 4, 2), (1, 1, 1)) == ()


@given(
    st.tuples(*[st.integers(1, 300)] * 3),
    st.tuples(*[st.floats(0.1, 10)] * 3),
)
def test_steps_never_leave_fewer_than_eight_voxels_nor_stop_before(shape, spacing):
    counts = list(shape)
    for axes in steps_by_spacing(shape, spacing):
        for axis in axes:
            counts[axis] = (counts[axis] + 1) // 2
            assert counts[axis] >= 8
    assert all(count < 15 for count in counts)


def test_a_head_at_one_millimeter_is_put_together_again():
    image = torch.rand(1, 181, 217, 181)
    steps = steps_by_spacing(image.shape[1:], (1, 1, 1))
    back = collapse(laplacian_pyramid(image, steps), steps)
    assert torch.allclose(back, image, rtol=0, atol=1e-6)
