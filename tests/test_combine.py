"""A chain runs its stages in turn, each from the last one's total."""

from dataclasses import dataclass

import pytest
import torch

from hybridreg import progress
from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationError, RegistrationResult, TraceEntry
from hybridreg.methods.combine import Chain
from hybridreg.phantoms import blobs
from hybridreg.transforms import IDENTITY, Transform, compose, rigid


@dataclass(frozen=True)
class Turn:
    """Adds one turn about a point to whatever it is given."""

    angle_deg: float
    knows_inverse: bool = False

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        progress.report(0.5, f"turning by {self.angle_deg:g}")
        total = compose(rigid([self.angle_deg], [3.0, 0.0], [5.0, 7.0]), initial)
        inverse = total.inverse() if self.knows_inverse else None
        trace = (TraceEntry(f"turn {self.angle_deg:g}", 0, 0, {"metric": 1.0}),)
        return RegistrationResult(total, inverse, trace=trace)


class Failing:
    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        raise RegistrationError("it failed", "its log")


PAIR = blobs(dimension=2).pair
POINTS = torch.tensor([[1.0, 2.0], [30.0, -4.0]], dtype=torch.float64)


def test_each_stage_starts_from_the_total_of_the_last():
    initial = rigid([15.0], [20.0, 0.0], [0.0, 0.0])
    result = Chain((Turn(10.0), Turn(-40.0))).register(PAIR, initial)
    step = [rigid([angle], [3.0, 0.0], [5.0, 7.0]) for angle in (10.0, -40.0)]
    expected = step[1](step[0](initial(POINTS)))
    assert torch.allclose(result.transform(POINTS), expected)
    other_order = Chain((Turn(-40.0), Turn(10.0))).register(PAIR, initial)
    assert not torch.allclose(other_order.transform(POINTS), expected)


def test_a_chain_in_a_chain_is_the_longer_chain():
    nested = Chain((Turn(10.0), Chain((Turn(20.0), Turn(30.0))))).register(PAIR)
    flat = Chain((Turn(10.0), Turn(20.0), Turn(30.0))).register(PAIR)
    assert torch.equal(nested.transform(POINTS), flat.transform(POINTS))
    assert nested.trace == flat.trace


def test_traces_follow_each_other_under_the_names_of_their_stages():
    trace = Chain((Turn(10.0), Turn(-40.0))).register(PAIR).trace
    assert [entry.stage for entry in trace] == ["turn 10", "turn -40"]


@pytest.mark.parametrize("last_knows", [True, False])
def test_the_inverse_is_known_where_the_last_stage_knows_the_total_one(last_knows):
    chain = Chain((Turn(10.0, not last_knows), Turn(20.0, last_knows)))
    result = chain.register(PAIR)
    if last_knows:
        assert torch.allclose(result.inverse(result.transform(POINTS)), POINTS)
    else:
        assert result.inverse is None


def test_progress_gives_each_stage_its_fraction():
    reports = []
    with progress.listening(lambda fraction, doing: reports.append((fraction, doing))):
        Chain((Turn(1.0), Turn(2.0))).register(PAIR)
        Chain((Turn(3.0),)).register(PAIR)
    assert reports == [
        (0.25, "stage 1 of 2: turning by 1"),
        (0.75, "stage 2 of 2: turning by 2"),
        (0.5, "turning by 3"),
    ]


def test_a_stage_that_fails_fails_the_chain_with_its_own_words():
    with pytest.raises(RegistrationError, match="it failed") as error:
        Chain((Turn(1.0), Failing())).register(PAIR)
    assert error.value.log == "its log"


def test_a_chain_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one stage"):
        Chain(())
