"""What every registration method promises (``hybridreg.testing``), run on all of them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hybridreg.config import load_method, methods
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.registry import PEERS
from hybridreg.testing import check_method, checks_of
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
DEMONS = {"name": "demons", "iterations": [60, 60, 40]}
HAMMER = {"name": "hammer", "iterations": [8, 8, 8]}
LINEAR = {"name": "linear", "transform": "rigid"}
UNDER_TEST = {
    "elastix": ELASTIX,
    "lddmm": LDDMM,
    "instance": INSTANCE,
    "demons": DEMONS,
    "hammer": HAMMER,
    "linear": LINEAR,
    "projection": {"name": "projection", "optimizer": "l-bfgs", "pixels": [4.0, 2.0]},
    "pehl": {"name": "pehl"},
    "chain": {"name": "chain", "stages": [ELASTIX, ELASTIX]},
    "symmetric": {"name": "symmetric", "stages": [LINEAR, INSTANCE]},
    "masked": {"name": "masked", "margin_mm": 20.0, "method": ELASTIX},
    "clipped": {"name": "clipped", "method": ELASTIX},
    "on-features": {"name": "on-features", "descriptor": "gradient", "method": ELASTIX},
    "unfolded": {"name": "unfolded", "method": ELASTIX},
    "scaled": {"name": "scaled", "rule": "0..2", "method": ELASTIX},
}
# What these find depends on the images that their weights were trained on: see their own tests,
# which run the promises that do not.
TRAINED = {"dirnet": "test_dirnet.py", "quicksilver": "test_quicksilver.py"}


# What finds nothing itself, and other packages' methods, which promise less (tests/test_peers.py).
EXEMPT = {"identity", "given", *PEERS}


def test_every_method_in_the_table_is_under_test():
    assert set(UNDER_TEST) | set(TRAINED) | EXEMPT == set(methods())
    assert all((Path(__file__).parent / file).is_file() for file in TRAINED.values())


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, id=f"{name}-{check.__name__}")
        for name in sorted(UNDER_TEST)
        for check in checks_of(load_method(UNDER_TEST[name]))
    ],
)
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
