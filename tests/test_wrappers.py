"""Steps around a method: on descriptors, scaled, and freed of folds."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from hybridreg.cases import ImagePair
from hybridreg.config import describe_method, load_method
from hybridreg.descriptors.gradient import Gradient
from hybridreg.descriptors.intensity import Intensity
from hybridreg.descriptors.mind import Mind
from hybridreg.evaluation import target_registration_error
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.intensity import to_unit
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.combine import Chain, Clipped, Masked, OnFeatures, Scaled, Unfolded
from hybridreg.phantoms import blobs
from hybridreg.preprocessing import foreground
from hybridreg.transforms import (
    IDENTITY,
    BSplineTransform,
    Transform,
    compose,
    parts_of,
    rigid,
)
from hybridreg.unfolding import unfolded
from hybridreg.warping import warp

CASE = blobs(dimension=2, translation_mm=(2.0, 3.0))
PAIR = CASE.pair
INITIAL = rigid([15.0], [20.0, 0.0], [-40.0, 25.0])


@dataclass(frozen=True)
class Watcher:
    """Gives a transform, and notes what it was given."""

    gives: Transform = IDENTITY
    inverse: Transform | None = None
    seen: list = field(default_factory=list)

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        self.seen.append((pair, initial))
        return RegistrationResult(compose(self.gives, initial), self.inverse)


def test_the_moving_image_is_described_after_the_initial_transform():
    found = rigid([5.0], [1.0, 2.0], [0.0, 0.0])
    inner = Watcher(found, found.inverse())
    result = OnFeatures(Mind(), inner).register(PAIR, INITIAL)
    pair, initial = inner.seen[0]
    moved = warp(PAIR.moving, INITIAL, onto=PAIR.fixed.grid)
    assert torch.equal(pair.fixed.data, Mind()(PAIR.fixed).data)
    assert torch.equal(pair.moving.data, Mind()(moved).data) and initial == IDENTITY
    points = PAIR.fixed.grid.points()
    assert torch.allclose(result.transform(points), INITIAL(found(points)))
    assert torch.allclose(result.inverse(result.transform(points)), points)


def test_what_the_moving_image_does_not_show_is_masked_and_given_masks_are_kept():
    inner = Watcher()
    OnFeatures(Gradient(), inner).register(PAIR, INITIAL)
    pair, _ = inner.seen[0]
    shown = PAIR.moving.grid.contains(INITIAL(PAIR.fixed.grid.points()))
    assert not shown.all() and torch.equal(pair.moving_mask.data != 0, shown)
    mask = LabelMap(torch.ones(PAIR.fixed.grid.shape).int(), PAIR.fixed.grid)
    OnFeatures(Gradient(), inner).register(replace(PAIR, fixed_mask=mask))
    assert inner.seen[1][0].fixed_mask is mask


@pytest.mark.parametrize("wrapper", [Masked, Clipped, Scaled])
def test_what_reads_intensities_is_refused_inside_at_any_depth(wrapper):
    for inner in (wrapper(Watcher()), Chain((Watcher(), Unfolded(wrapper(Watcher()))))):
        says = rf"put it around, as {wrapper.__name__}\(OnFeatures\(...\)\)"
        with pytest.raises(ValueError, match=says):
            OnFeatures(Mind(), inner)


def test_a_method_that_finds_the_foreground_itself_is_refused_inside():
    inner = {"name": "linear", "foreground_mm": 2.0}
    table = {"name": "on-features", "descriptor": "mind", "method": inner}
    with pytest.raises(ValueError, match="foreground_mm of Linear finds the foreground"):
        load_method(table)
    assert load_method({**table, "method": "linear"}).method.foreground_mm is None


def test_a_mask_around_comes_from_intensities_and_reaches_the_method_inside():
    inner = Watcher()
    Masked(OnFeatures(Mind(), inner), margin_mm=2.0).register(PAIR)
    pair, _ = inner.seen[0]
    expected = foreground(PAIR.fixed, margin_mm=2.0).data
    assert torch.equal(pair.fixed_mask.data, expected) and pair.fixed.channels == 4


def test_a_refusal_to_describe_says_which_image_it_is_about():
    bright = replace(PAIR, moving=Image(300 * PAIR.moving.data, PAIR.moving.grid))
    for method in (OnFeatures(Intensity("8bit"), Watcher()), Scaled(Watcher(), "8bit")):
        with pytest.raises(ValueError, match="the moving image: its values go from"):
            method.register(bright)


RIGID = {
    "name": "elastix",
    "parameter_files": ["rigid.txt"],
    "overrides": {
        "Metric": "AdvancedMeanSquares",
        "NumberOfResolutions": 2,
        "MaximumNumberOfIterations": 100,
    },
}
LDDMM = {
    "name": "lddmm",
    "kernel": {"a": 16.0, "b": 0.0, "c": 0.1, "power": 2.0},
    "similarity": "ssd",
    "sigma": 0.01,
    "image_mm": [4.0, 2.0],
    "momentum_mm": [8.0, 4.0],
    "iterations": [40, 40],
}


@pytest.mark.parametrize(
    ("descriptor", "inner", "contrast"),
    [
        ("mind", RIGID, lambda values: (1.2 - values).abs()),  # neither rising nor falling
        ("gradient", LDDMM, lambda values: 500 * values**2 + 40),
    ],
    ids=["mind with elastix", "gradient with lddmm"],
)
def test_two_contrasts_are_aligned_by_comparing_descriptors(descriptor, inner, contrast):
    moving = Image(contrast(PAIR.moving.data), PAIR.moving.grid)
    method = load_method({"name": "on-features", "descriptor": descriptor, "method": inner})
    found = method.register(replace(PAIR, moving=moving)).transform
    errors = target_registration_error(found, CASE.fixed_landmarks, CASE.moving_landmarks)
    assert errors.median() < min(PAIR.fixed.grid.spacing)


def test_a_table_names_the_descriptor_or_gives_its_fields():
    table = {"name": "on-features", "descriptor": "mind", "method": RIGID}
    assert load_method(table).descriptor == Mind()
    table["descriptor"] = {"name": "mind", "radius": 3}
    method = load_method(table)
    assert method.descriptor == Mind(radius=3)
    assert load_method(describe_method(method)) == method
    with pytest.raises(ValueError, match="there is no descriptor 'mint'; did you mean 'mind'"):
        load_method({**table, "descriptor": "mint"})


def test_scaled_images_lie_between_0_and_1_and_the_start_is_handed_on():
    inner = Watcher()
    Scaled(inner, "0.1..0.8").register(PAIR, INITIAL)
    pair, initial = inner.seen[0]
    assert initial is INITIAL
    for side in ("fixed", "moving"):
        expected = to_unit(getattr(PAIR, side), "0.1..0.8")[0]
        assert torch.equal(getattr(pair, side).data, expected.data)


def folded() -> BSplineTransform:
    grid = Grid((8, 9), (10.0, 10.0), (-60.0, -10.0))
    coefficients = 8 * torch.randn(2, 8, 9, generator=torch.Generator().manual_seed(3))
    return BSplineTransform(coefficients.double(), grid)


def test_splines_that_were_found_are_unfolded_and_those_of_the_start_kept():
    found, start = folded(), folded()
    method = Unfolded(Watcher(found, inverse=IDENTITY))
    result = method.register(PAIR, compose(start, INITIAL))
    first, *given = parts_of(result.transform)
    assert torch.equal(first.coefficients, unfolded(found).coefficients)
    assert not torch.equal(first.coefficients, found.coefficients)
    assert given[0] is start and result.inverse is None


def test_a_result_without_splines_is_handed_on_as_it_is():
    turn = rigid([5.0], [1.0, 2.0], [0.0, 0.0])
    result = Unfolded(Watcher(turn, turn.inverse())).register(PAIR, folded())
    assert result.inverse.matrix.equal(turn.inverse().matrix)
