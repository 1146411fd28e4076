"""Guiding points and landmarks from files correspond by name, whatever the order of their rows."""

import pytest
import torch

import hybridreg
from hybridreg import pipeline
from hybridreg.images import LandmarkSet
from hybridreg.io.images import write_image
from hybridreg.io.landmarks import write_landmarks
from hybridreg.io.tables import CaseRow
from hybridreg.phantoms import blobs
from hybridreg.targets import load_kind
from hybridreg.targets.making import Recipe, _pair

CASE = blobs(dimension=3, translation_mm=(3.0, -2.0, 4.0))
FIXED, MOVING = CASE.fixed_landmarks, CASE.moving_landmarks
COUNT = len(FIXED.points)
NAMES = tuple(f"point {i}" for i in range(COUNT))
ORDER = torch.arange(COUNT).roll(2).tolist()
NAMED = (".csv", ".fcsv", ".mrk.json")


def shuffled(names=NAMES) -> LandmarkSet:
    return LandmarkSet(MOVING.points[ORDER], tuple(names[i] for i in ORDER))


@pytest.fixture
def row(tmp_path) -> CaseRow:
    for side in ("fixed", "moving"):
        write_image(tmp_path / f"{side}.nii", getattr(CASE.pair, side))
    return CaseRow("a", tmp_path / "fixed.nii", tmp_path / "moving.nii")


def files(row, fixed: LandmarkSet, moving: LandmarkSet, endings) -> dict:
    """The points written beside the images, as the guiding points of the case."""
    given = {}
    for side, points, ending in zip(("fixed", "moving"), (fixed, moving), endings, strict=True):
        given[f"{side}_points"] = row.fixed.with_name(f"{side}_points{ending}")
        write_landmarks(given[f"{side}_points"], points)
    return given


@pytest.mark.parametrize("moving_ending", NAMED)
@pytest.mark.parametrize("fixed_ending", NAMED)
def test_files_in_another_order_are_matched_by_name(fixed_ending, moving_ending, row):
    fixed = LandmarkSet(FIXED.points, NAMES)
    given = files(row, fixed, shuffled(), (fixed_ending, moving_ending))
    more = {name.replace("points", "landmarks"): path for name, path in given.items()}
    case = pipeline.read_case(row.fixed, row.moving, **given, **more)
    assert torch.equal(case.pair.moving_points.points, MOVING.points)
    assert torch.equal(case.moving_landmarks.points, MOVING.points)


@pytest.mark.parametrize("named", NAMED)
def test_elastix_points_have_no_names_and_correspond_row_by_row(named, row):
    given = files(row, LandmarkSet(FIXED.points, NAMES), MOVING, (named, ".txt"))
    case = pipeline.read_case(row.fixed, row.moving, **given)
    assert torch.equal(case.pair.moving_points.points, MOVING.points)
    numbers = tuple(str(i + 1) for i in ORDER)  # row or number? neither is sure
    given = files(row, LandmarkSet(FIXED.points, numbers), MOVING, (named, ".txt"))
    with pytest.raises(ValueError, match="one side is only numbered"):
        pipeline.read_case(row.fixed, row.moving, **given)


def test_register_and_targets_see_the_points_in_the_same_order(row, monkeypatch):
    given = files(row, LandmarkSet(FIXED.points, NAMES), shuffled(), (".csv", ".csv"))
    seen = []
    monkeypatch.setattr(pipeline, "run", lambda case, *a, **k: seen.append(case.pair))
    hybridreg.register(row.fixed, row.moving, **given)
    values = {"fixed_points": LandmarkSet(FIXED.points, NAMES), "moving_points": shuffled()}
    hybridreg.register(row.fixed, row.moving, **values)
    row = CaseRow("a", row.fixed, row.moving, **given)
    seen.append(_pair(row, Recipe("field", load_kind("field", method="rigid"), spacing_mm=4.0)))
    for pair in seen:
        assert torch.equal(pair.moving_points.points, MOVING.points)
        error = CASE.true_transform(pair.fixed_points.points) - pair.moving_points.points
        assert error.norm(dim=1).max() < 1e-9
