"""Matched critical points: which are chosen, how they are matched, and the map that follows them."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from bent_scenes import bent, error_mm, turned_far
from PIL import Image as Picture

from hybridreg.cases import ImagePair
from hybridreg.config import load_method
from hybridreg.images import Image, LabelMap
from hybridreg.kernels.compiled import torch_only
from hybridreg.kernels.matching import differences
from hybridreg.methods.hammer import Hammer
from hybridreg.methods.hammer.matching import Side, ball, cube, match
from hybridreg.methods.hammer.points import critical_points, distinctiveness
from hybridreg.phantoms import head_case
from hybridreg.pipeline import run
from hybridreg.report import write_report
from hybridreg.report.figures import FIXED_COLOR, Figures
from hybridreg.transforms import IDENTITY, AffineTransform, rigid
from hybridreg.views import load_views
from hybridreg.warping import jacobian_determinant

QUICK = Hammer(iterations=(6, 6, 6), scaled=False)


@pytest.mark.parametrize("shape", [(23, 17), (9, 7, 11), (1, 6, 7)])
def test_differences_agree_with_torch_and_with_one_written_out(shape):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, *shape, generator=generator) for _ in range(2))
    dimension = len(shape)
    points = torch.stack([torch.randint(0, n, (40,), generator=generator) for n in shape], 1)
    candidates, around = ball(2, dimension), cube(1, dimension)
    found = differences(first, second, points, candidates, around)
    with torch_only():
        expected = differences(first, second, points, candidates, around)
    assert torch.allclose(found, expected, atol=1e-5)
    n, m, total = 7, 3, 0.0
    for k in around:
        here, there = points[n] + k, points[n] + candidates[m] + k
        a, b = (
            image[
                (
                    slice(None),
                    *(int(min(max(i, 0), s - 1)) for i, s in zip(place, shape, strict=True)),
                )
            ]
            for image, place in ((first, here), (second, there))
        )
        total += (a - b).square().sum().item() / len(around)
    assert found[n, m].item() == pytest.approx(total, rel=1e-4)


def test_corners_are_more_distinctive_than_edges_and_both_more_than_plains():
    image = torch.zeros(1, 40, 40)
    image[0, 20:, 20:] = 1
    found = distinctiveness(image, 1)
    assert found[20, 20] > 1.2 * found[30, 20] > 0
    assert found[:10, :10].max() == 0 and found[30:36, 30:36].max() == 0


def test_every_cell_with_structure_has_one_point_and_the_most_distinctive_come_first():
    generator = torch.Generator().manual_seed(3)
    measure = torch.rand(12, 13, 14, generator=generator) + 0.1
    measure[:, :, :4] = 0
    weight = torch.ones(12, 13, 14)
    weight[6:] = 0
    points = critical_points(measure, weight, 4)
    values = measure[tuple(points.T)]
    assert torch.equal(values, values.sort(descending=True).values)
    assert points[:, 0].max() < 6 and points[:, 2].min() >= 4
    cells = {tuple(cell) for cell in (points // 4).tolist()}
    assert len(cells) == len(points) == 2 * 4 * 3
    for cell, point in zip((points // 4).tolist(), points, strict=True):
        block = (measure * weight)[tuple(slice(4 * c, 4 * c + 4) for c in cell)]
        assert measure[tuple(point)] == block.max()
    assert len(critical_points(torch.zeros(8, 9), None, 3)) == 0


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_step_of_a_shift_is_that_shift_from_both_sides(dimension):
    shape = (24, 25, 26)[:dimension]
    generator = torch.Generator().manual_seed(1)
    fixed = torch.rand(2, *shape, generator=generator)
    shift = (2, -1, 1)[:dimension]
    moved = fixed.roll(shift, tuple(range(1, dimension + 1)))
    sides = []
    for here, there, way in ((fixed, moved, 1), (moved, fixed, -1)):
        inside = torch.zeros(shape)
        inside[(slice(5, -5),) * dimension] = 1
        points = critical_points(distinctiveness(here, 1), inside, 3)
        sides.append(Side.of(here, there, points, 3, 1, way))
    for used in (sides, [sides[0], replace(sides[1], points=sides[1].points[:0], costs=sides[1].costs[:0])],
                 [replace(sides[0], points=sides[0].points[:0], costs=sides[0].costs[:0]), sides[1]]):  # fmt: skip
        step, matched = match(tuple(used), shape, (2.0,) * dimension)
        middle = step[(slice(None), *(slice(10, -10),) * dimension)].flatten(1).median(1).values
        assert torch.allclose(middle, torch.tensor(shift).float(), atol=0.3)
        assert all(len(m.kept) == 0 or m.kept.float().mean() > 0.9 for m in matched)


def test_points_whose_surroundings_went_elsewhere_are_outliers():
    """A patch of the moved image shows another shift than everything around it."""
    generator = torch.Generator().manual_seed(1)
    fixed = torch.rand(2, 60, 60, generator=generator)
    moved = fixed.roll(1, 1)
    moved[:, 24:35, 24:35] = fixed.roll(-2, 1)[:, 24:35, 24:35]
    sides = tuple(
        Side.of(here, there, critical_points(distinctiveness(here, 1), None, 3), 6, 1, way)
        for here, there, way in ((fixed, moved, 1), (moved, fixed, -1))
    )
    step, matched = match(sides, (60, 60), (9.0, 9.0))
    of_fixed = matched[0]
    wrong = of_fixed.offsets[:, 0] < -1
    assert wrong.sum() >= 2 and not of_fixed.kept[wrong].any()
    assert of_fixed.kept[~wrong].float().mean() > 0.85
    assert (step[0, 5:-5, 5:-5] > 0.5).all()


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_bend_is_followed_without_folds_and_with_its_inverse_and_matches(dimension):
    case = bent(dimension)
    grid = case.pair.fixed.grid
    start = rigid([2.0] * (2 * dimension - 3), [1.0] * dimension, grid.center)
    result = QUICK.register(case.pair, start)
    before, after = (error_mm(case, t) for t in (start, result.transform))
    assert before.median() > 2 and after.median() < 0.35 * before.median()
    assert jacobian_determinant(result.transform, grid).data.min() > 0
    points = grid.points()
    there = result.transform(points)
    kept = grid.contains(start.inverse()(there))
    apart = (result.inverse(there[kept]) - points[kept]).norm(dim=-1)
    assert apart.mean() < 0.1 * min(grid.spacing)

    found = result.matches
    assert found.of_fixed.any() and (~found.of_fixed).any() and found.kept.any()
    truth = (case.true_transform(found.fixed) - found.moving).norm(dim=1)
    offered = (start(found.fixed) - found.moving).norm(dim=1)
    assert truth[found.kept].median() < min(grid.spacing) < offered.median()


def test_an_initial_transform_of_any_kind_is_part_of_the_result_and_its_matches():
    case, initials = turned_far()
    grid = case.pair.fixed.grid
    for initial in initials:
        result = QUICK.register(case.pair, initial)
        assert error_mm(case, result.transform).median() < 0.6 * error_mm(case, initial).median()
        kept = result.matches.kept
        apart = result.transform(result.matches.fixed[kept]) - result.matches.moving[kept]
        assert apart.norm(dim=1).median() < 0.5 * min(grid.spacing)


def test_torch_and_the_kernels_find_the_same():
    case = bent(2)
    results = [QUICK.register(case.pair)]
    with torch_only():
        results.append(QUICK.register(case.pair))
    points = case.pair.fixed.grid.points()
    a, b = (result.transform(points) for result in results)
    assert (a - points).norm(dim=-1).max() > 2
    assert (a - b).norm(dim=-1).mean() < 0.02


def test_no_critical_point_lies_outside_the_masks():
    case = bent(2)
    grid = case.pair.fixed.grid
    mask = torch.zeros(grid.shape, dtype=torch.int32)
    mask[:, : grid.shape[1] // 2] = 1
    pair = replace(case.pair, fixed_mask=LabelMap(mask, grid))
    found = QUICK.register(pair).matches
    inside = grid.crop((0, 0), (grid.shape[0], grid.shape[1] // 2 + 1))
    assert inside.contains(found.fixed[found.of_fixed]).all()


def test_without_critical_points_nothing_moves():
    """What structure there is lies outside the mask."""
    grid = bent(2).pair.fixed.grid
    images = [torch.zeros(1, *grid.shape) for _ in range(2)]
    for number, image in enumerate(images):
        image[0, 2:4, 2 + number : 6 + number] = 1
        image[0, -4:-2, -8 + number : -4 + number] = 1
    mask = torch.zeros(grid.shape, dtype=torch.int32)
    mask[15:-15, 15:-15] = 1
    pair = ImagePair(*(Image(image, grid) for image in images), fixed_mask=LabelMap(mask, grid))
    result = replace(QUICK, iterations=(6,)).register(pair)
    points = grid.points()
    assert torch.allclose(result.transform(points), points, atol=1e-6)
    assert len(result.matches.kept) == 0


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_report_shows_the_points_of_both_images_and_their_matches(dimension, tmp_path):
    how = {"spacing_mm": 5.0} if dimension == 3 else {"spacing_mm": 2.0, "dimension": 2}
    case = head_case(fixed="t1", moving="t1", deformation_mm=4.0, **how)
    method = Hammer(spacing_mm=4.0, iterations=(3, 3), scaled=True)
    run(case, method).save(tmp_path / "out")
    views = load_views(tmp_path / "out" / "views.npz")
    assert views["aligned"].shape == views["fixed"].shape
    assert len(views["matches_fixed"]) == len(views["matches_kept"]) > 20
    rows = Figures(views).matches()
    assert len(rows) == (1 if dimension == 2 else 3)
    assert [list(panel.images)[0] for panel in rows[0]] == ["fixed", "moving, affine only"]
    page = write_report(tmp_path / "out").read_text()
    assert "Matched critical points" in page


def test_points_are_drawn_where_they_are():
    """Of a made-up picture: one point in the fixed image, matched 6 voxels to the right."""
    views = {
        "fixed": np.zeros((20, 30), np.uint8),
        "aligned": np.zeros((20, 30), np.uint8),
        "spacing_mm": np.ones(2),
        "letters": np.array([("", "")] * 2),
        "matches_fixed": np.array([[10.0, 5.0]]),
        "matches_moving": np.array([[16.0, 5.0]]),
        "matches_of_fixed": np.array([True]),
        "matches_kept": np.array([True]),
    }
    fixed, moving = (
        np.asarray(Picture.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))), float)
        for panel in Figures(views).matches()[0]
        for uri in panel.images.values()
    )
    zoom = fixed.shape[1] / 30
    for picture, (low, high) in ((fixed, (10, 11)), (moving, (10, 17))):
        rows, columns = np.nonzero(picture[..., 2] > FIXED_COLOR[2] / 2)
        assert abs(rows.mean() - (5.5 * zoom - 0.5)) < 1
        assert abs(columns.min() / zoom - low - 0.5) < 0.3
        assert abs(columns.max() / zoom - high + 0.5) < 0.3


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"iterations": ()}, "for each level"),
        ({"cell": 0}, "cell must be more than 0"),
        ({"radius": -1}, "radius must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Hammer(**settings)


def test_the_preset_ends_in_this_method_after_an_affine():
    chain = load_method("hammer")
    assert chain.stages[0].transform == "affine"
    result = chain.register(bent(2).pair)
    assert isinstance(result.transform.parts[0], AffineTransform) and result.matches is not None
    assert error_mm(bent(2), result.transform).median() < error_mm(bent(2), IDENTITY).median() / 2
