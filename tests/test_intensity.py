"""Intensities brought to [0, 1]."""

from dataclasses import replace

import pytest
import torch
from conftest import oblique_grid

from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.intensity import to_unit
from hybridreg.io.images import read_image
from hybridreg.phantoms import head, head_grid


def line(*values: float, dtype: str = "float32") -> Image:
    """A small image of these values, one after the other."""
    data = torch.tensor(values, dtype=torch.float32).repeat(20)
    return Image(data.reshape(1, 20, -1), Grid((20, len(values))), dtype)


@pytest.mark.parametrize(
    ("how", "low", "high"),
    [
        ("brain", 0, 80),
        ("bone", -500, 1500),
        ("wide", -1000, 1500),
        ("80,40", 0, 80),
        (" 400 , -40.5", -240.5, 159.5),
        ("-100..300", -100, 300),
        ("-1e3..-.5", -1000, -0.5),
    ],
)
def test_a_window_is_linear_between_its_ends_and_cut_beyond(how, low, high):
    width = high - low
    image, scaling = to_unit(
        line(low - 3 * width, low, low + 0.25 * width, high, high + width), how
    )
    assert (scaling.low, scaling.high, scaling.chosen) == (low, high, "given")
    torch.testing.assert_close(image.data[0, 0], torch.tensor([0, 0, 0.25, 1, 1.0]))
    assert image.dtype == "float32"


def test_padding_of_a_ct_is_air_in_a_window_that_reaches_below_it():
    image, _ = to_unit(line(-2048, -1000, 0, 1000), "4000,0")
    torch.testing.assert_close(image.data[0, 0], torch.tensor([0.25, 0.25, 0.5, 0.75]))


def test_own_ends_take_low_values_as_they_are():
    image, scaling = to_unit(line(-2048, -1000, 0, 2048), "-2048..2048")
    assert scaling.kind == "range"
    torch.testing.assert_close(image.data[0, 0], torch.tensor([0, 1048 / 4096, 0.5, 1]))


def test_ct_is_known_by_its_air_and_shown_in_the_bone_window():
    grid = head_grid(4.0, angles_deg=(6.0, -4.0, 9.0))
    ct, scaling = to_unit(head(grid, "ct"))
    assert (scaling.kind, scaling.name, scaling.chosen) == ("CT window", "bone", "auto")
    assert str(scaling) == "bone CT window: -500 to 1500 HU became 0 to 1"
    assert ct.data.min() == 0 and 0.5 < ct.data.max() <= 1


def test_mr_is_scaled_by_percentiles_of_the_head_however_much_air_is_around_it():
    grid = head_grid(4.0, angles_deg=(6.0, -4.0, 9.0))
    mr = head(grid, "t1")
    _, scaling = to_unit(mr)
    assert (scaling.kind, scaling.chosen) == ("percentiles", "auto")
    wide = grid.crop([-20] * 3, [n + 20 for n in grid.shape])
    data = torch.zeros(1, *wide.shape)
    data[:, 20:-20, 20:-20, 20:-20] = mr.data
    _, padded = to_unit(Image(data, wide))
    span = scaling.high - scaling.low
    # The foreground is found on a grid that differs by part of a voxel: its rim varies a little.
    assert padded.low == pytest.approx(scaling.low, abs=0.02 * span)
    assert padded.high == pytest.approx(scaling.high, abs=0.02 * span)


def test_a_spike_in_mr_does_not_darken_the_rest():
    mr = head(head_grid(4.0), "t1")
    spiked = mr.data.clone()
    spiked[0, 20, 20, 20] = 1e4 * mr.data.max()
    clean, _ = to_unit(mr)
    found, _ = to_unit(replace(mr, data=spiked))
    keep = spiked == mr.data
    assert (found.data - clean.data)[keep].abs().max() < 0.01


def test_scale_and_offset_of_mr_do_not_matter():
    mr = head(head_grid(4.0), "t2")
    once, _ = to_unit(mr)
    again, _ = to_unit(replace(mr, data=mr.data * 37.5 + 200))
    torch.testing.assert_close(once.data, again.data, atol=1e-4, rtol=0)


def test_eight_bits_are_divided_by_255_even_where_they_are_dark():
    image, scaling = to_unit(line(0, 51, 102, 102, dtype="uint8"))
    assert (scaling.kind, scaling.chosen) == ("8 bit", "auto")
    torch.testing.assert_close(image.data[0, 0], torch.tensor([0, 0.2, 0.4, 0.4]))


def test_the_input_is_left_as_it_is():
    source = line(-2048, -1000, 40, 3000)
    before = source.data.clone()
    to_unit(source, "brain")
    assert torch.equal(source.data, before)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("soft", "no way to scale intensities"),
        ("80;40", "no way to scale intensities"),
        ("1..2..3", "no way to scale intensities"),
        ("0,40", "make it wider"),
        ("300..-100", "make it wider"),
        ("0..1e999", "make it wider"),
        ("8bit", "not scaled to 8 bits"),
    ],
)
def test_a_way_that_means_nothing_is_refused_in_words(how, words):
    with pytest.raises(ValueError, match=words):
        to_unit(line(-1000, 0, 500), how)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted(value):
    with pytest.raises(ValueError, match="20 voxels that are NaN or infinite"):
        to_unit(line(0, 1, value))


def test_an_image_without_contrast_asks_for_a_window():
    grid = oblique_grid()
    flat = Image(torch.full((1, *grid.shape), 7.0), grid)
    with pytest.raises(ValueError, match="constant"):
        to_unit(flat)
    found, _ = to_unit(flat, "0..14")
    assert (found.data == 0.5).all()


def test_a_real_ct_with_padding_is_recognized(data):
    image, scaling = to_unit(read_image(data / "lung_ct_elastix" / "3DCT_lung_baseline.mha"))
    assert scaling.name == "bone"
    assert image.data.min() == 0 and image.data.max() > 0.6
