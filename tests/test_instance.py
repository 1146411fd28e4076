"""The method instance: what it recovers, without folds, on all dimensions, measures and grids."""

from dataclasses import replace

import pytest
import torch
from bent_scenes import bent, error_mm, masked_apart, thick, turned_far, with_noise

from hybridreg import pipeline, progress
from hybridreg.cases import ImagePair
from hybridreg.composed_steps.folds import unfolded
from hybridreg.composed_steps.run import map_and_inverse
from hybridreg.config import build, load_method
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io.transforms import read_transform
from hybridreg.kernels.compiled import torch_only
from hybridreg.kernels.jacobians import determinants
from hybridreg.methods.base import RegistrationError
from hybridreg.methods.combine import Chain
from hybridreg.methods.instance import Instance
from hybridreg.phantoms import blobs
from hybridreg.registry import MEASURES
from hybridreg.similarity import LNCC, SSD
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    compose,
    rigid,
)
from hybridreg.warping import jacobian_determinant, warp

QUICK = Instance(similarity=SSD(), iterations=(40, 40, 30), scaled=False)


def unlike(pair: ImagePair, transform) -> float:
    moved = warp(pair.moving, transform, onto=pair.fixed.grid)
    return (moved.data - pair.fixed.data).square().mean().item()


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("similarity", ["ssd", "ncc", "lncc", "mi"])
def test_a_bend_is_followed_with_every_measure(dimension, similarity):
    case = bent(dimension)
    result = replace(QUICK, similarity=MEASURES[similarity]()).register(case.pair)
    before, after = (error_mm(case, t) for t in (IDENTITY, result.transform))
    assert before.median() > 2.5
    if similarity in ("ssd", "ncc"):
        assert after.median() < 0.5
        assert unlike(case.pair, result.transform) < unlike(case.pair, IDENTITY) / 10
    else:  # blobs on nothing have few bins, and windows without contrast between them
        assert after.median() < 0.6 * before.median()


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_result_has_no_folds_and_its_inverse_is_one(dimension):
    case = bent(dimension)
    grid = case.pair.fixed.grid
    start = rigid([3.0] * (2 * dimension - 3), [1.0] * dimension, grid.center)
    strong = replace(QUICK, smoothness=0.3, step=3.0, tolerance=0.0)
    result = strong.register(case.pair, start)
    determinant = jacobian_determinant(result.transform, grid).data
    assert 0 < determinant.min() < 0.5
    points = grid.points()
    there = result.transform(points)
    points, there = (p[grid.contains(start.inverse()(there))] for p in (points, there))
    left = (result.inverse(there) - points).norm(dim=-1)
    assert len(left) > 0.8 * len(grid.points().flatten()) / dimension
    assert left.mean() < 0.1 * min(grid.spacing)


def test_folds_are_smoothed_away_and_nothing_else_changes():
    generator = torch.Generator().manual_seed(0)
    bend = torch.zeros(3, 20, 21, 22)
    bend[:, 8:12, 8:12, 8:12] = 3 * torch.randn(3, 4, 4, 4, generator=generator)
    bend[0, :, :, 0] = 0.1
    found, count = unfolded(bend, lambda u: determinants(u, (1.0, 1.0, 1.0)))
    assert count > 50
    assert determinants(found, (1.0, 1.0, 1.0)).min() > 0
    assert torch.equal(found[:, :, :, 0], bend[:, :, :, 0])


def test_what_no_smoothing_unfolds_is_made_smaller():
    """A field that turns everything inside out stays so however much it is smoothed."""
    grid = Grid((12, 13, 14))
    bend = -1.5 * (grid.points() - grid.center).movedim(-1, 0).float()
    found, count = unfolded(bend, lambda u: determinants(u, (1.0, 1.0, 1.0)))
    assert count > 1000
    assert determinants(found, (1.0, 1.0, 1.0)).min() > 0


class Waves:
    """x + a sin(k x), which counts the points it is evaluated at."""

    def __init__(self, size: float, length: float):
        self.size, self.length, self.points = size, length, 0

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        self.points += points.shape[:-1].numel()
        return points + self.size * torch.sin(points * (2 * torch.pi / self.length))

    def inverse(self):
        raise NotImplementedError


def test_folds_after_an_initial_deformation_are_removed_without_evaluating_it_again_and_again():
    pair, initial = bent(3).pair, Waves(2.0, 40.0)
    grid = pair.fixed.grid
    bend = torch.zeros(3, *grid.shape)
    bend[:, 8:12, 8:12, 8:12] = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    bend *= 2 * max(grid.spacing)
    settings = Instance(
        similarity=SSD(), iterations=(1,), spacing_mm=min(grid.spacing), scaled=False
    )

    def improve(level, coarser, displacement, most, listen):
        box = tuple(slice(0, n) for n in displacement.shape)
        return bend[box].contiguous()

    along, _ = map_and_inverse(settings, pair, initial, improve, lambda *_: None)
    assert determinants(bend, grid.spacing).min() < 0
    total = jacobian_determinant(compose(Waves(2.0, 40.0), along), grid)
    assert total.data.min() > 0
    assert along.vectors.abs().max() > 0.5
    assert initial.points < 3.5 * grid.points()[..., 0].numel()


@pytest.mark.parametrize("dimension", [2, 3])
def test_torch_and_the_kernels_take_the_same_steps(dimension):
    case = bent(dimension)
    method = replace(QUICK, similarity=LNCC(2), iterations=(15, 10))
    results = [method.register(case.pair)]
    with torch_only():
        results.append(method.register(case.pair))
    points = case.pair.fixed.grid.points()
    for kind in ("transform", "inverse"):
        a, b = (getattr(result, kind)(points) for result in results)
        assert (a - points).norm(dim=-1).max() > 2
        assert (a - b).norm(dim=-1).mean() < 0.02
    values = [[entry.terms["dissimilarity"] for entry in r.trace] for r in results]
    assert values[0] == pytest.approx(values[1], abs=1e-4)


@pytest.mark.parametrize("parts", [1, 2])
def test_an_initial_transform_of_any_kind_is_part_of_the_result(parts):
    case, initials = turned_far()
    initial = initials[parts - 1]
    result = QUICK.register(case.pair, initial)
    assert error_mm(case, result.transform).median() < 0.6 * error_mm(case, initial).median()
    points = case.fixed_landmarks.points
    back = result.inverse(result.transform(points))
    assert (back - points).norm(dim=-1).median() < 0.1 * max(case.pair.fixed.grid.spacing)


def test_several_channels_guide_together():
    case = bent(3)
    result = QUICK.register(with_noise(case.pair))
    assert error_mm(case, result.transform).median() < error_mm(case, IDENTITY).median() / 2


def test_what_the_masks_leave_out_does_not_pull():
    """A bright bar that is only in the fixed image, within its masked part."""
    case = bent(2)
    fixed = case.pair.fixed
    data, mask = fixed.data.clone(), torch.ones(fixed.grid.shape, dtype=torch.int32)
    data[:, :, 20:26] = 3.0
    mask[:, 18:28] = 0
    pair = replace(case.pair, fixed=Image(data, fixed.grid))
    blind, masked = (
        QUICK.register(p) for p in (pair, replace(pair, fixed_mask=LabelMap(mask, fixed.grid)))
    )
    seen = mask[None] > 0
    moved = [warp(pair.moving, r.transform, onto=fixed.grid).data for r in (blind, masked)]
    errors = [((m - fixed.data)[seen]).square().mean() for m in moved]
    assert errors[1] < 0.7 * errors[0]


def test_masks_that_leave_nothing_are_refused():
    with pytest.raises(RegistrationError, match="inside both masks"):
        QUICK.register(masked_apart(bent(2).pair))


def test_thick_slices_are_smoothed_in_mm():
    case = bent(3)
    pair = thick(case.pair)
    result = QUICK.register(pair)
    assert min(pair.fixed.grid.shape) > 5
    assert error_mm(case, result.transform).median() < 0.7 * error_mm(case, IDENTITY).median()


def test_more_smoothness_gives_a_smoother_map():
    case = bent(3)
    grid = case.pair.fixed.grid
    spreads = [
        jacobian_determinant(replace(QUICK, smoothness=s, tolerance=0.0).register(case.pair).transform, grid)
        .data.log().std()
        for s in (0.5, 1.0, 2.5)
    ]  # fmt: skip
    assert spreads[0] > spreads[1] > spreads[2] > 0


def test_it_stops_by_itself_and_reports_its_progress():
    case = blobs(dimension=2, translation_mm=(1.0, 1.0))
    reports = []
    with progress.listening(lambda fraction, doing: reports.append((fraction, doing))):
        trace = replace(QUICK, iterations=(500, 500)).register(case.pair).trace
    assert len(trace) < 500
    by_level = [[e.terms["dissimilarity"] for e in trace if e.level == k] for k in (0, 1)]
    assert all(values[-1] < values[0] for values in by_level)
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions) and reports[-1][1] == "level 2 of 2"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"iterations": ()}, "for each level"),
        ({"step": 0.0}, "step must be more than 0"),
        ({"map_sigma": -1.0}, "map_sigma must not be negative"),
        ({"momentum": 1.0}, "from 0 to below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Instance(**settings)


@pytest.mark.parametrize("name, dimension", [("deformable", 3), ("deformable-2d", 2)])
def test_the_presets_end_in_this_method(name, dimension):
    method = load_method(name).stages[-1]
    case = bent(dimension)
    center = case.pair.moving.grid.center
    nearly = compose(rigid([5.0] * (2 * dimension - 3), [1.0] * dimension, center))
    assert isinstance(method, Instance) and isinstance(nearly, AffineTransform)
    result = method.register(case.pair, nearly)
    assert error_mm(case, result.transform).median() < error_mm(case, nearly).median() / 2


@pytest.mark.parametrize("similarity", ["ssd", "ncc"])
def test_images_that_agree_already_do_not_get_worse(similarity):
    """On grids that differ, large voxels show different things even then."""
    pair = blobs(dimension=3).pair
    method = build({"name": "instance", "similarity": similarity})
    assert unlike(pair, method.register(pair).transform) <= unlike(pair, IDENTITY)


def test_a_result_that_starts_from_a_deformation_is_written_with_its_inverse(tmp_path):
    case = bent(2)
    twice = Chain((QUICK, QUICK))
    outcome = pipeline.run(case, twice)
    outcome.save(tmp_path / "out")
    inverse = read_transform(tmp_path / "out" / "inverse.h5")
    points = case.fixed_landmarks.points
    back = inverse(outcome.transform(points))
    assert (back - points).norm(dim=-1).median() < 0.1 * max(case.pair.fixed.grid.spacing)
