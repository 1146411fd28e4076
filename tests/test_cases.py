"""Pairs that no registration can do anything sound with are refused in words, before any work."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import oblique_grid
from test_transforms import bspline_pair, turned
from test_warping import pair_of_grids

from hybridreg.cases import Case, ImagePair, warp_pair
from hybridreg.checks import check_pair, hints, overlap_of_fields
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.methods.base import RegistrationResult
from hybridreg.phantoms import blobs
from hybridreg.pipeline import run
from hybridreg.records import Record
from hybridreg.transforms import IDENTITY, compose, rigid
from hybridreg.warping import warp


def image(grid: Grid = oblique_grid(), channels: int = 1) -> Image:
    return Image(torch.rand(channels, *grid.shape), grid)


def moved(grid: Grid, **changes) -> Grid:
    return replace(grid, **changes)


GRID = oblique_grid()
SOUND = ImagePair(image(), image())


def changed(**fields) -> ImagePair:
    return replace(SOUND, **fields)


def with_value(value: float) -> Image:
    data = torch.rand(GRID.shape)
    data[3, 4, 5] = value
    return Image(data, GRID)


def points(count: int, dimension: int = 3) -> LandmarkSet:
    return LandmarkSet(torch.rand(count, dimension))


def named(*names: str) -> LandmarkSet:
    """Points whose x is the place of their name in the alphabet."""
    x = torch.tensor([[ord(name[0].lower()) - ord("a"), 5.0, -7.0] for name in names])
    return LandmarkSet(x, names)


def paired(fixed: LandmarkSet, moving: LandmarkSet) -> tuple[LandmarkSet, LandmarkSet]:
    """The moving points and landmarks as a pair and a case hold them."""
    pair = changed(fixed_points=fixed, moving_points=moving)
    case = Case(SOUND, fixed_landmarks=fixed, moving_landmarks=moving)
    return pair.moving_points, case.moving_landmarks


def test_points_and_landmarks_of_the_same_names_correspond_by_name():
    for found in paired(named("a", "b", "c", "d"), named("C", "a", "d", "b")):
        assert found.points[:, 0].tolist() == [0, 1, 2, 3] and found.names == ("a", "b", "C", "d")


@pytest.mark.parametrize("other", [("x", "z", "y"), ("a", "b", "c"), ("1", "2", "3")])
def test_points_without_a_common_name_correspond_row_by_row(other):
    moving = named(*other)
    for fixed in (named("a", "b", "c"), LandmarkSet(torch.rand(3, 3), ("p", "q", "r"))):
        assert all(found is moving for found in paired(fixed, moving))


@pytest.mark.parametrize(
    ("fixed", "moving", "says"),
    [
        ("abc", "abcd", "3 fixed points but 4 .*only moving: d"),
        ("abc", "bcd", r"\(only fixed: a; only moving: d\): give each point in both files"),
        ("aab", "aba", "several are the same"),
        ("312", "123", "one side is only numbered"),
        ("123", "213", "one side is only numbered"),
    ],
)
def test_points_whose_correspondence_is_ambiguous_are_refused(fixed, moving, says):
    with pytest.raises(ValueError, match=says):
        changed(fixed_points=named(*fixed), moving_points=named(*moving))
    with pytest.raises(ValueError, match=says.replace("points", "landmarks")):
        Case(SOUND, fixed_landmarks=named(*fixed), moving_landmarks=named(*moving))


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (changed(moving=image(oblique_grid(2))), "moving image 2D"),
        (changed(moving=image(channels=2)), "2; describe both"),
        (changed(fixed=with_value(torch.nan)), "fixed image has 1 voxels that are NaN"),
        (changed(moving=with_value(torch.inf)), "moving image has 1 voxels that are NaN or inf"),
        (changed(moving=Image(torch.full(GRID.shape, 7.0), GRID)), "moving image is constant"),
        (changed(fixed=image(Grid((1, 30, 30)))), "2D image"),
        (changed(fixed=image(Grid((30, 3, 30)))), "at least 4"),
        (changed(fixed_mask=LabelMap(torch.zeros(GRID.shape), GRID)), "fixed mask is empty"),
        (changed(moving_mask=LabelMap(torch.ones(9, 9, 9), Grid((9, 9, 9)))), "resample the mask"),
        (changed(fixed_points=points(3)), "both fixed and moving points"),
        (changed(fixed_points=points(3, 2), moving_points=points(3, 2)), "2D, the images 3D"),
        (changed(moving=image(moved(GRID, spacing=(1100, 900, 2300)))), "not in mm"),
        (changed(moving=image(moved(GRID, spacing=(11, 9, 23)))), "another unit"),
        (changed(moving=image(moved(GRID, spacing=(0.0011, 0.0009, 0.0023)))), "not in mm"),
        (changed(moving=image(moved(GRID, origin=(500, 0, 0)))), "do not overlap"),
    ],
)
def test_hopeless_pairs_are_refused_with_the_reason(pair, says):
    check_pair(SOUND, IDENTITY)
    with pytest.raises(ValueError, match=says):
        check_pair(pair, IDENTITY)


def test_a_tiny_mask_is_refused_with_its_count():
    data = torch.zeros(GRID.shape)
    data[4:6, 4:6, 4:6] = 1
    with pytest.raises(ValueError, match="only 8 voxels"):
        check_pair(changed(moving_mask=LabelMap(data, GRID)), IDENTITY)


def test_an_initial_transform_that_brings_them_together_is_enough():
    far = moved(GRID, origin=(500, 0, 0))
    pair = changed(moving=image(far))
    shift = turned(3, GRID)
    center = compose(type(shift).from_parts(torch.eye(3), far.center - GRID.center), shift)
    check_pair(pair, center)
    check_pair(pair)  # without a start, nothing is said of overlap


@pytest.mark.parametrize(("factor", "count"), [(1.45, 0), (1.55, 1), (2.9, 1)])
def test_fields_of_view_of_different_size_are_a_hint(factor, count):
    larger = moved(GRID, spacing=tuple(factor * s for s in GRID.spacing))
    pair = changed(moving=image(larger))
    check_pair(pair, IDENTITY)
    found = list(hints(pair))
    assert len(found) == count
    assert all(f"a factor of {factor:.3g}" in hint for hint in found)


def test_a_field_of_view_more_than_three_times_as_large_needs_a_start():
    far_larger = moved(GRID, spacing=tuple(3.1 * s for s in GRID.spacing))
    pair = changed(moving=image(far_larger))
    with pytest.raises(ValueError, match=r"a factor of 3\.1"):
        check_pair(pair, IDENTITY)
    check_pair(pair, turned(3, GRID))


def with_axes(letters: str) -> Image:
    """A grid whose voxel axes point to the patient's sides of these letters."""
    ways = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    direction = np.zeros((3, 3))
    for axis, letter in enumerate(letters):
        row, sign = ways[letter]
        direction[row, axis] = sign
    return image(moved(GRID, direction=direction))


@pytest.mark.parametrize(
    ("fixed", "moving", "says"),
    [
        ("LAS", "LAS", None),  # both left-handed, as half of all NIfTI brains are
        ("LPS", "RAS", None),  # the way along an axis alone tells nothing
        ("LAS", "LPS", "left-handed axes, the other.*LAS and LPS"),
        ("RAS", "LAS", "left-handed axes, the other"),
        ("LPS", "PSL", "different axes.*LPS and PSL"),
        ("LAS", "LIA", "different axes"),
    ],
)
def test_axes_that_a_wrong_header_would_give_are_a_hint(fixed, moving, says):
    pair = ImagePair(with_axes(fixed), with_axes(moving))
    found = list(hints(pair))
    assert len(found) == (says is not None)
    assert says is None or re.search(says, found[0])


@pytest.mark.parametrize(("degrees", "count"), [(40.0, 0), (50.0, 1)])
@pytest.mark.parametrize("dimension", [2, 3])
def test_axes_more_than_45_degrees_apart_are_a_hint(degrees, count, dimension):
    grid = oblique_grid(dimension)
    angles = [degrees] if dimension == 2 else [0.0, 0.0, degrees]
    turn = rigid(angles, [0.0] * dimension, grid.center).linear.numpy()
    other = moved(grid, direction=turn @ np.array(grid.direction))
    assert len(list(hints(ImagePair(image(grid), image(other))))) == count


def test_the_overlap_of_fields_of_view_is_that_of_the_smaller_one():
    inner = GRID.crop((4, 4, 4), [n - 4 for n in GRID.shape])
    outer = GRID.crop((-9, -9, -9), [n + 9 for n in GRID.shape])
    assert overlap_of_fields(inner, outer, IDENTITY) == 1
    assert overlap_of_fields(outer, inner, IDENTITY) == pytest.approx(1, abs=0.15)  # few samples
    half = GRID.crop((0, 0, GRID.shape[2] // 2), (*GRID.shape[:2], 3 * GRID.shape[2] // 2))
    assert overlap_of_fields(GRID, half, IDENTITY) == pytest.approx(0.5, abs=0.04)


def test_a_warped_pair_holds_everything_of_the_moving_side_on_the_fixed_grid():
    _, other = pair_of_grids(3)
    initial = compose(bspline_pair(GRID, size_mm=0.5)[0], turned(3, GRID))
    mask = LabelMap(torch.ones(other.shape), other)
    guides = LandmarkSet(initial(GRID.points()[8:12, 8:12, 8:12].reshape(-1, 3)))
    pair = ImagePair(image(), image(other, 2), moving_mask=mask, moving_points=guides)
    found = warp_pair(pair, initial)
    air = pair.moving.data.amin((1, 2, 3))  # of each channel
    expected = warp(pair.moving, initial, onto=GRID, default=air)
    assert torch.equal(found.moving.data, expected.data) and found.moving.grid == GRID
    assert found.moving_mask.grid == GRID and 0 < found.moving_mask.data.float().mean() < 1
    back = GRID.points()[8:12, 8:12, 8:12].reshape(-1, 3)
    assert torch.allclose(found.moving_points.points, back, atol=1e-3)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (
            {"fixed_labels": LabelMap(torch.ones(GRID.shape), GRID)},
            "together with moving labels",
        ),
        ({"moving_landmarks": points(3)}, "together with fixed landmarks"),
        ({"fixed_landmarks": points(3), "moving_landmarks": points(4)}, "3 fixed landmarks but 4"),
    ],
)
def test_what_evaluates_a_case_comes_in_pairs(known, says):
    with pytest.raises(ValueError, match=says):
        Case(SOUND, **known)


def test_moving_labels_alone_are_an_atlas_to_be_warped():
    assert Case(SOUND, moving_labels=LabelMap(torch.ones(GRID.shape), GRID)).fixed_labels is None


@dataclass(frozen=True)
class Points:
    """Another type of pair: two clouds of points."""

    fixed: torch.Tensor
    moving: torch.Tensor


@check_pair.register
def _(pair: Points, initial=None):
    if len(pair.fixed) != len(pair.moving):
        raise ValueError("the clouds differ in size")


@dataclass(frozen=True)
class Shift:
    accepts = Points

    def register(self, pair, initial=IDENTITY):
        return RegistrationResult(initial)


def test_another_type_of_pair_brings_its_own_check_and_its_methods_name_it():
    with pytest.raises(ValueError, match="the clouds differ"):
        check_pair(Points(torch.zeros(3, 3), torch.zeros(2, 3)))
    assert list(hints(Points(torch.zeros(3, 3), torch.zeros(3, 3)))) == []
    with pytest.raises(
        ValueError, match="Shift takes pairs of the type Points, and this is of the type ImagePair"
    ):
        run(Case(ImagePair(image(), image())), Shift())
    with pytest.raises(ValueError, match="'str' is no|str is no type of pair"):
        check_pair("two files")


def test_what_a_comparison_does_not_need_is_left_out():
    case = blobs(dimension=2)
    outcome = run(case, Stays(), without=("inverse", "verdict"))
    assert outcome.inverse is None and outcome.verdict is None
    assert outcome.scores[1].inverse_consistency is None and outcome.scores[1].dice is not None
    assert not {"invert", "verdict"} & outcome.times_s.keys()
    record = Record.of(outcome.summary(), "a")
    assert record.verdict == "" and record.scores["dice"] > 0
    with pytest.raises(ValueError, match="'scores'. cannot be left out; inverse, verdict can"):
        run(case, Stays(), without=("scores",))


def test_a_result_without_inverse_verdict_and_pictures_is_written_and_shown(tmp_path):
    outcome = run(blobs(dimension=2), Stays(), without=("inverse", "verdict"))
    folder = outcome.save(tmp_path / "out", pictures=False)
    names = {path.name for path in folder.iterdir()}
    assert not {"inverse.h5", "views.npz"} & names and "report.html" in names


@dataclass(frozen=True)
class Stays:
    def register(self, pair, initial=IDENTITY):
        return RegistrationResult(initial)
