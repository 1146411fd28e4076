"""The names that are known early are those that there are."""

from hybridreg.choices import INITIALIZATIONS, TARGET_KINDS
from hybridreg.initialization import initialize
from hybridreg.phantoms import blobs
from hybridreg.targets.kinds import KINDS


def test_the_names_to_choose_from_are_those_that_are_known():
    assert TARGET_KINDS == tuple(KINDS)
    pair = blobs(dimension=2).pair
    assert all(initialize(pair, name) for name in INITIALIZATIONS)
