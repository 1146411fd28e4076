"""Targets: known ones are exact, found ones are the method's map, all say what they are worth."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import oblique_grid

from hybridreg.images import Image, LabelMap
from hybridreg.io.images import write_image
from hybridreg.io.tables import CaseRow
from hybridreg.io.target_store import TargetStore
from hybridreg.methods.base import RegistrationResult, TraceEntry
from hybridreg.phantoms import blobs
from hybridreg.phantoms.deformation import smooth_deformation
from hybridreg.preprocessing import coarser
from hybridreg.targets import load_kind
from hybridreg.targets.field import Field
from hybridreg.targets.known import Known, exact_inverse, transform_of
from hybridreg.targets.making import Recipe, make_target
from hybridreg.targets.target import residual_mm, split
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    compose,
    rigid,
)
from hybridreg.warping import jacobian_determinant, warp


def points_in(grid, count: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    fractions = torch.rand(count, grid.dimension, generator=generator, dtype=torch.float64)
    corners = grid.points()
    return corners[(0,) * grid.dimension] + fractions * (
        corners[(-1,) * grid.dimension] - corners[(0,) * grid.dimension]
    )


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_a_known_map_is_smooth_one_to_one_and_moves_nothing_too_far(dimension, seed):
    grid, kind = oblique_grid(dimension), Known()
    truth = kind.draw(grid, seed=seed)
    x = points_in(grid)
    moved = (truth(x) - x).norm(dim=-1)
    assert 1.0 < moved.mean() and moved.max() <= kind.amplitude_mm
    assert (exact_inverse(truth)(truth(x)) - x).norm(dim=-1).max() < 1e-4
    assert (truth(exact_inverse(truth)(x)) - x).norm(dim=-1).max() < 1e-4
    assert jacobian_determinant(truth, grid).data.min() > 0.1
    assert (truth(x) - kind.draw(grid, seed=seed + 1)(x)).norm(dim=-1).mean() > 1.0


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_known_target_is_the_moving_image_through_its_map(dimension):
    pair = blobs(dimension=dimension).pair
    target = Known()(pair, IDENTITY, seed=5)
    grid = pair.moving.grid
    truth = transform_of(target.facts["bends"])
    there, back = target.arrays["displacement"], target.arrays["inverse_displacement"]
    x = grid.points()
    assert torch.allclose(x + there.movedim(0, -1), truth(x), atol=1e-5)  # float32 of some mm
    assert torch.allclose(truth(x + back.movedim(0, -1).double()), x, atol=1e-4)
    low = pair.moving.data.min().item()
    expected = warp(pair.moving, truth, onto=grid, default=low)
    assert torch.allclose(target.pair.fixed.data, expected.data, atol=1e-4)
    assert torch.equal(target.pair.moving.data, pair.moving.data)
    assert torch.equal(target.affine.matrix, torch.eye(dimension + 1).double())
    assert (target.pair.fixed.data - pair.moving.data).abs().max() > 0.1


def test_a_known_map_that_could_fold_is_refused():
    with pytest.raises(ValueError, match="could fold"):
        Known(amplitude_mm=20.0, wavelength_mm=30.0)
    Known(amplitude_mm=20.0, wavelength_mm=30.0, bends=8)
    with pytest.raises(ValueError, match="bends must be more than 0"):
        Known(bends=0)


BEND = smooth_deformation(3.0, center=(-20.0, 40.0, 70.0), wavelength_mm=50.0)
TURN = rigid((8.0, -5.0, 6.0), (4.0, -3.0, 2.0), (-20.0, 40.0, 70.0))


@pytest.mark.parametrize("total", [compose(BEND, TURN), compose(TURN, BEND), TURN, BEND])
def test_a_transform_is_its_affine_after_the_rest(total):
    grid = oblique_grid()
    affine, rest = split(total, grid)
    x = points_in(grid)
    assert torch.allclose(affine(rest(x)), total(x), atol=1e-9)
    if total is BEND:
        assert (affine.matrix - torch.eye(4)).abs().max() > 1e-4  # the nearest one
    else:
        assert torch.equal(affine.matrix, TURN.matrix)
    if total is TURN:
        assert torch.allclose(rest(x), x, atol=1e-9)


def test_the_residual_is_what_samples_lose_between_voxels():
    grid = oblique_grid()
    field = DisplacementField.sampled(BEND, grid)
    lost = residual_mm(BEND, field, grid)
    assert 0 < lost["mean"] < lost["max"] < 0.1
    aside = AffineTransform.from_parts(torch.eye(3), [0, 0, 0.5])
    off = residual_mm(BEND, compose(aside, BEND), grid)
    assert off == pytest.approx({"mean": 0.5, "max": 0.5})
    assert residual_mm(IDENTITY, IDENTITY, oblique_grid(2)) == {"mean": 0.0, "max": 0.0}


class Found:
    """A method that has found a map."""

    def __init__(self, transform):
        self.transform = transform

    def register(self, pair, initial=IDENTITY):
        trace = (TraceEntry("one", 0, 0, {"metric": 2.0}), TraceEntry("two", 0, 1, {"metric": 1.0}))
        return RegistrationResult(self.transform, trace=trace)


def field_target(pair, transform):
    return Field(Found(transform))(pair, IDENTITY, seed=0)


def test_a_field_target_is_the_map_that_the_method_found():
    case = blobs(dimension=3, translation_mm=(3.0, -2.0, 4.0))
    grid = case.pair.fixed.grid
    total = compose(smooth_deformation(2.0, center=grid.center.tolist()), TURN)
    target = field_target(case.pair, total)
    stored = compose(target.affine, DisplacementField(target.arrays["displacement"], grid))
    inner = grid.crop((1, 1, 1), tuple(n - 1 for n in grid.shape)).points()
    assert torch.allclose(stored(inner), total(inner), atol=1e-4)
    assert target.facts["energy"] == {"stage": "two", "metric": 1.0}
    assert target.facts["residual_mm"]["max"] < 0.1 and target.facts["folding_percent"] == 0.0


def test_the_verdict_of_a_field_target_is_that_of_its_map():
    case = blobs(dimension=3, translation_mm=(3.0, -2.0, 4.0))
    good = field_target(case.pair, case.true_transform).facts
    assert good["verdict"]["status"] == "pass", good["verdict"]
    away = AffineTransform.from_parts(torch.eye(3), [60.0, 0.0, 0.0])
    bad = field_target(case.pair, away).facts
    assert bad["verdict"]["status"] == "fail" and bad["verdict"]["reasons"]
    assert good["similarity"]["after"]["correlation"] > bad["similarity"]["before"]["correlation"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fields", {}, "there is no kind 'fields' of targets; known are momentum, .*field, known"),
        ("known", {"method": "rigid"}, "have no method; they have amplitude_mm, wavelength_mm"),
        ("field", {"bends": 3}, "have no bends; they have method"),
        ("field", {"method": "nothing"}, "nothing"),
    ],
)
def test_unknown_kinds_and_options_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        load_kind(name, **options)
    assert load_kind("known", bends=None) == Known()


@pytest.fixture
def row(tmp_path) -> CaseRow:
    pair = blobs(dimension=3).pair
    write_image(tmp_path / "fixed.nii.gz", pair.fixed)
    write_image(tmp_path / "moving.nii.gz", pair.moving)
    return CaseRow("a", tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz")


def test_a_case_depends_on_its_name_and_the_seed_alone(row, tmp_path):
    recipe = Recipe("known", Known(), seed=4)
    store = TargetStore.begin(tmp_path / "t.zarr", "known", recipe.settings)
    for name in ("a", "b"):
        made = make_target(store.path, recipe, name, replace(row, name=name))
        assert made == {"verdict": "pass", "residual_mm": 0.0}
    a, b = (store.read(name) for name in ("a", "b"))
    assert a.attributes["seed"] == recipe.seed_of("a") != b.attributes["seed"]
    assert a.images["moving"] == b.images["moving"] != a.images["fixed"] != b.images["fixed"]
    assert a.images["fixed_on_grid"] == a.images["fixed"]
    assert a.images["moving_on_grid"] == a.images["moving"]
    assert set(a.attributes["inputs"]) == {"moving"} and "torch" in a.attributes["versions"]
    assert replace(recipe, seed=5).seed_of("a") != recipe.seed_of("a")
    assert str(tmp_path) not in str(a.attributes)


def test_coarser_images_keep_their_place_and_their_brightness(row, tmp_path):
    recipe = Recipe("known", Known(amplitude_mm=4.0), spacing_mm=3.0)
    store = TargetStore.begin(tmp_path / "t.zarr", "known", recipe.settings)
    make_target(store.path, recipe, "a", row)
    case = store.read("a")
    assert case.grid.spacing == (3.0, 3.0, 3.0)
    original = blobs(dimension=3).pair.moving
    found = store.image(case.images["moving"])
    assert torch.allclose(found.grid.center, original.grid.center, atol=1e-3)
    whole = [i.data.sum().item() * math.prod(i.grid.spacing) for i in (found, original)]
    assert whole[0] == pytest.approx(whole[1], rel=0.02)  # the coarse grid reaches a little further
    assert coarser(original, 0.5) is original


@pytest.mark.parametrize("bad", ["nan", "constant"])
def test_an_image_that_shows_nothing_sound_is_refused_in_words(bad, row, tmp_path):
    grid = oblique_grid()
    data = torch.full(grid.shape, float("nan") if bad == "nan" else 3.0)
    write_image(tmp_path / "bad.nii", Image(data, grid))
    recipe = Recipe("known", Known())
    store = TargetStore.begin(tmp_path / "t.zarr", "known", recipe.settings)
    with pytest.raises(ValueError, match="image .*(NaN|constant)"):
        make_target(store.path, recipe, "a", replace(row, moving=tmp_path / "bad.nii"))
    assert store.finished() == []


def test_images_that_do_not_go_together_are_refused_in_words(row, tmp_path):
    write_image(tmp_path / "flat.nii", blobs(dimension=2).pair.fixed)
    small = blobs(dimension=3).pair.fixed
    mask = LabelMap(torch.ones(small.grid.shape), replace(small.grid, origin=(900.0, 0.0, 0.0)))
    write_image(tmp_path / "mask.nii", mask)
    recipe = Recipe("field", load_kind("field", method="rigid"))
    store = TargetStore.begin(tmp_path / "t.zarr", "field", recipe.settings)
    for changes, words in (
        ({"fixed": tmp_path / "flat.nii"}, "the fixed image is 2D and the moving image 3D"),
        ({"fixed_mask": tmp_path / "mask.nii"}, "the fixed mask lies in another place"),
    ):
        with pytest.raises(ValueError, match=words):
            make_target(store.path, recipe, "a", replace(row, **changes))
    assert store.finished() == []


def test_affine_parts_at_both_ends_are_not_taken_for_one():
    grid, total = oblique_grid(), CompositeTransform((TURN, BEND, TURN))
    affine, rest = split(total, grid)
    x = points_in(grid)
    assert torch.allclose(affine(rest(x)), total(x), atol=1e-9)
