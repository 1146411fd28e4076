"""What every registration method promises, run on all of them."""

import pytest
import torch

from hybridreg.config import load_method, methods
from hybridreg.evaluation import target_registration_error
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.phantoms import blobs
from hybridreg.transforms import compose, rigid

ELASTIX = {
    "name": "elastix",
    "parameter_files": ["rigid.txt"],
    "overrides": {  # small smooth phantoms of one contrast
        "Metric": "AdvancedMeanSquares",
        "NumberOfResolutions": 2,
        "MaximumNumberOfIterations": 100,
    },
}
LDDMM = {
    "name": "lddmm",
    "kernel": {"a": 16.0, "b": 0.0, "c": 0.1, "power": 2.0},  # a shift of all costs little
    "similarity": "ssd",
    "sigma": 0.005,
    "image_mm": [4.0, 2.0, 1.0],
    "momentum_mm": [8.0, 4.0, 2.0],
    "iterations": [40, 40, 20],
}
UNDER_TEST = {
    "elastix": ELASTIX,
    "lddmm": LDDMM,
    "chain": {"name": "chain", "stages": [ELASTIX, ELASTIX]},
}


def test_every_method_in_the_table_is_under_test():
    assert set(UNDER_TEST) == set(methods())


@pytest.fixture(params=sorted(UNDER_TEST))
def method(request) -> RegistrationMethod:
    return load_method(UNDER_TEST[request.param])


def error_mm(case, transform) -> torch.Tensor:
    return target_registration_error(transform, case.fixed_landmarks, case.moving_landmarks)


@pytest.mark.parametrize("dimension", [2, 3])
def test_every_method_recovers_a_known_shift_on_an_oblique_grid(method, dimension):
    shift = (3.0, -2.0, 4.0)[:dimension]
    case = blobs(dimension=dimension, translation_mm=shift)
    before = error_mm(case, rigid([0.0] * (2 * dimension - 3), [0.0] * dimension, [0.0] * dimension))
    result = method.register(case.pair)
    assert isinstance(result, RegistrationResult)
    assert before.median() > 3
    assert error_mm(case, result.transform).median() < min(case.pair.fixed.grid.spacing) / 2


@pytest.mark.parametrize("dimension", [2, 3])
def test_every_method_returns_the_total_of_an_initial_transform(method, dimension):
    """15 degrees and 20 mm commute with nothing, so a swapped order cannot pass."""
    angles, shift = [15.0] * (2 * dimension - 3), [20.0, 0.0, 0.0][:dimension]
    case = blobs(dimension=dimension, angles_deg=angles, translation_mm=shift)
    center = case.pair.fixed.grid.center
    nudge = rigid([1.0] * (2 * dimension - 3), [1.0] * dimension, center)
    initial = compose(case.true_transform, nudge)  # nearly right, and far from the identity
    start = error_mm(case, initial).median()
    result = method.register(case.pair, initial)
    assert error_mm(case, result.transform).median() < min(start / 2, 0.5)


def test_methods_are_configurations_that_cannot_change(method):
    with pytest.raises(AttributeError):
        method.anything = 3
    assert load_method(UNDER_TEST[type(method).__name__.lower()]) == method


def test_every_method_refuses_what_cannot_be_registered(method):
    case = blobs(dimension=3, translation_mm=(1.0, 1.0, 1.0))
    fixed = case.pair.fixed
    nan = type(fixed)(torch.full_like(fixed.data, torch.nan), fixed.grid)
    with pytest.raises(ValueError, match="NaN"):
        method.register(type(case.pair)(nan, case.pair.moving))


def test_the_trace_says_how_the_optimization_went(method):
    case = blobs(dimension=2, translation_mm=(1.0, 1.0))
    trace = method.register(case.pair).trace
    assert len(trace) > 10
    assert all(entry.terms and entry.iteration >= 0 for entry in trace)
