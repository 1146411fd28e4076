"""What an outcome keeps and states of its transform."""

import numpy as np
import pytest
from conftest import oblique_grid

from hybridreg import outcome as outcomes
from hybridreg import pipeline
from hybridreg.methods.base import RegistrationResult
from hybridreg.phantoms import blobs
from hybridreg.transforms import DisplacementField, rigid


class Known:
    """A method that has the answer."""

    def __init__(self, transform):
        self.transform = transform

    def register(self, pair, initial=None):
        return RegistrationResult(self.transform)


@pytest.mark.parametrize("dimension", [2, 3])
def test_an_affine_has_statistics_of_its_displacement_without_that_of_every_voxel(
    dimension, monkeypatch
):
    case = blobs(dimension=dimension)
    grid = case.pair.fixed.grid
    angles, shift = [8.0] * (2 * dimension - 3), [3.0, -2.0, 4.0][:dimension]
    transform = rigid(angles, shift, grid.center)
    outcome = pipeline.run(case, Known(transform))
    assert outcome.displacement is None
    lengths = DisplacementField.sampled(transform, grid).vectors.norm(dim=0).numpy()
    stated = outcome.summary()["transform"]["displacement_mm"]
    assert stated["mean"] == pytest.approx(lengths.mean(), rel=1e-4)
    assert stated["p95"] == pytest.approx(np.percentile(lengths, 95), rel=1e-2)
    assert stated["max"] == pytest.approx(lengths.max(), rel=1e-4)
    monkeypatch.setattr(outcomes, "_POINTS", lengths.size / 5)
    few = outcome.summary()["transform"]["displacement_mm"]
    assert few["mean"] == pytest.approx(stated["mean"], rel=0.1) and few != stated
    assert few["max"] == pytest.approx(stated["max"], rel=1e-6)


@pytest.mark.parametrize("left_handed", [False, True])
def test_an_affine_is_decomposed_as_it_is(left_handed):
    case = blobs(dimension=3)
    center = oblique_grid(left_handed=left_handed).center
    transform = rigid([5.0, -7.0, 9.0], [1.0, 2.0, 3.0], center)
    found = pipeline.run(case, Known(transform)).affine
    assert found.rotation_deg == pytest.approx((5.0, -7.0, 9.0), abs=1e-9)
    assert found.scales == pytest.approx((1.0, 1.0, 1.0), abs=1e-9)
