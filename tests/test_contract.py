"""What every registration method promises (``hybridreg.testing``), run on all of them."""

from dataclasses import dataclass

import pytest
import torch

from hybridreg.config import load_method, methods
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.registry import PEERS
from hybridreg.testing import METHOD_CHECKS, check_method
from hybridreg.transforms import IDENTITY, AffineTransform, compose

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
INSTANCE = {
    "name": "instance",
    "similarity": "ssd",
    "iterations": [60, 60, 40],
}
UNDER_TEST = {
    "elastix": ELASTIX,
    "lddmm": LDDMM,
    "instance": INSTANCE,
    "linear": {"name": "linear", "transform": "rigid"},
    "chain": {"name": "chain", "stages": [ELASTIX, ELASTIX]},
    "masked": {"name": "masked", "margin_mm": 20.0, "method": ELASTIX},
    "clipped": {"name": "clipped", "method": ELASTIX},
    "on-features": {"name": "on-features", "descriptor": "gradient", "method": ELASTIX},
    "unfolded": {"name": "unfolded", "method": ELASTIX},
    "scaled": {"name": "scaled", "rule": "0..2", "method": ELASTIX},
}


# What finds nothing itself, and other packages' methods, which promise less (tests/test_peers.py).
EXEMPT = {"identity", "given", *PEERS}


def test_every_method_in_the_table_is_under_test():
    assert set(UNDER_TEST) | EXEMPT == set(methods())


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", sorted(UNDER_TEST))
def test_every_method_keeps_the_contract(name, check):
    check(load_method(UNDER_TEST[name]))


@dataclass(frozen=True)
class Lazy:
    """A method that finds nothing, and may forget its initial transform."""

    keeps: bool = False

    def register(self, pair, initial=IDENTITY):
        return RegistrationResult(initial if self.keeps else IDENTITY)


@dataclass(frozen=True)
class WrongOrder:
    """A method that is right but for the order in which it composes."""

    method: RegistrationMethod

    def register(self, pair, initial=IDENTITY):
        found = self.method.register(pair, initial).transform
        return RegistrationResult(compose(initial.inverse(), found, initial))


@dataclass(frozen=True)
class WrongInverse:
    method: RegistrationMethod

    def register(self, pair, initial=IDENTITY):
        result = self.method.register(pair, initial)
        shift = AffineTransform.from_parts(torch.eye(pair.dimension), [1.0] * pair.dimension)
        return RegistrationResult(result.transform, compose(result.transform.inverse(), shift))


RIGID = load_method(ELASTIX)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Lazy(), "registered a pair that is unsound"),
        (WrongOrder(RIGID), "from an initial transform"),
        (WrongInverse(RIGID), "inverse leads back"),
    ],
)
def test_a_method_that_breaks_a_promise_is_named(method, says):
    with pytest.raises(AssertionError, match=says):
        check_method(method)
