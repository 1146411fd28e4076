"""Values refuse what does not fit together."""

import pytest
import torch
from conftest import oblique_grid

from hybridreg.images import Image, LabelMap, LandmarkSet


def test_one_channel_may_be_given_without_its_axis():
    grid = oblique_grid()
    assert Image(torch.zeros(grid.shape), grid).data.shape == (1, *grid.shape)
    assert Image(torch.zeros(3, *grid.shape), grid).channels == 3


def test_data_that_does_not_fit_its_grid_is_refused():
    grid = oblique_grid()
    with pytest.raises(ValueError, match="does not fit its grid"):
        Image(torch.zeros(grid.shape[::-1]), grid)
    with pytest.raises(ValueError, match="does not fit its grid"):
        LabelMap(torch.zeros(grid.shape[::-1]), grid)


def test_fractions_are_no_labels():
    grid = oblique_grid()
    with pytest.raises(ValueError, match="whole numbers"):
        LabelMap(torch.full(grid.shape, 0.5), grid)
    data = torch.zeros(grid.shape)
    data[3, 4, 5] = 1002
    assert LabelMap(data, grid).labels() == [1002]


@pytest.mark.parametrize(
    ("points", "names", "says"),
    [
        (torch.zeros(4), (), "shape"),
        (torch.zeros(4, 4), (), "shape"),
        (torch.full((2, 3), torch.nan), (), "finite"),
        (torch.zeros(2, 3), ("a",), "names"),
    ],
)
def test_landmarks_that_make_no_sense_are_refused(points, names, says):
    with pytest.raises(ValueError, match=says):
        LandmarkSet(points, names)
