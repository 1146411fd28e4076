"""Registration in both directions: the mean of two maps, and that exchanging the images inverts it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from hybridreg.cases import exchanged
from hybridreg.config import describe_method, load_method
from hybridreg.images import LabelMap
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.instance import Instance
from hybridreg.methods.linear.method import Linear
from hybridreg.methods.symmetric import Symmetric
from hybridreg.phantoms import blobs
from hybridreg.similarity import SSD
from hybridreg.transforms import IDENTITY, AffineTransform, DisplacementField, Transform, rigid
from hybridreg.warping import jacobian_determinant


@dataclass(frozen=True, eq=False)
class Says:
    """Finds one transform of a pair and another one of the exchanged pair,
    whose fixed grid is other.
    """

    there: Transform
    back: Transform
    fixed: object

    def register(self, pair, initial=IDENTITY):
        return RegistrationResult(self.there if pair.fixed is self.fixed else self.back)


def _shift(*mm: float) -> AffineTransform:
    return AffineTransform.from_parts(torch.eye(len(mm)), mm)


def _bump(pair, mm: float) -> DisplacementField:
    """A smooth displacement of up to so many mm in the middle of the fixed image, obliquely."""
    grid = pair.fixed.grid
    away = grid.points() - grid.center
    size = mm * torch.exp(-(away.norm(dim=-1) ** 2) / (2 * (0.15 * min(grid.extent)) ** 2))
    direction = torch.arange(1.0, grid.dimension + 1)
    return DisplacementField((size[..., None] * direction / direction.norm()).movedim(-1, 0), grid)


def _inner(pair):
    return pair.fixed.grid.crop(
        [4] * pair.dimension, [n - 4 for n in pair.fixed.grid.shape]
    ).points()


def test_the_mean_of_two_shifts_is_their_mean():
    pair = blobs(dimension=3).pair
    says = Says(_shift(4.0, 0.0, 2.0), _shift(-2.0, -2.0, 0.0), pair.fixed)
    found = Symmetric((says,)).register(pair)
    torch.testing.assert_close(found.transform.matrix, _shift(3.0, 1.0, 1.0).matrix)
    torch.testing.assert_close(found.inverse.matrix, _shift(-3.0, -1.0, -1.0).matrix)


def test_the_mean_of_two_turns_about_one_axis_is_half_the_angle():
    pair = blobs(dimension=2).pair
    one, other, mean = (rigid([a], [0, 0], [3.0, 5.0]) for a in (40.0, 10.0, 25.0))
    found = Symmetric((Says(one, other.inverse(), pair.fixed),)).register(pair)
    torch.testing.assert_close(found.transform.matrix, mean.matrix)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_mean_with_the_identity_done_twice_is_the_other_map(dimension):
    pair = blobs(dimension=dimension).pair
    whole = _bump(pair, 4.0)
    found = Symmetric((Says(IDENTITY, whole.inverse(), pair.fixed),)).register(pair)
    points = _inner(pair)
    twice = found.transform(found.transform(points))
    assert (whole(points) - points).norm(dim=-1).max() > 3.5
    assert (twice - whole(points)).norm(dim=-1).max() < 0.05 * min(pair.fixed.grid.spacing)


def test_the_mean_of_a_map_and_itself_keeps_the_affine_apart():
    pair = blobs(dimension=3).pair
    turn = rigid([5.0, -3.0, 4.0], [2.0, 1.0, -2.0], pair.fixed.grid.center)
    bent = RegistrationResult(_bump(pair, 3.0)).after(turn).transform
    found = Symmetric((Says(bent, bent.inverse(), pair.fixed),)).register(pair, turn)
    points = _inner(pair)
    torch.testing.assert_close(found.transform.parts[0].matrix, turn.matrix)
    assert (found.transform(points) - bent(points)).norm(dim=-1).max() < 0.02


def _both_ways(method, pair) -> tuple[float, float]:
    """How far there and back leads from the start, where there is something:
    mean and maximum in voxels.
    """
    there, back = method.register(pair), method.register(exchanged(pair))
    points = pair.fixed.grid.points()[pair.fixed.data[0] > 0.1]
    apart = (back.transform(there.transform(points)) - points).norm(dim=-1)
    voxel = min(pair.fixed.grid.spacing)
    return (apart.mean() / voxel).item(), (apart.max() / voxel).item()


@pytest.mark.parametrize("dimension", [2, 3])
def test_exchanging_the_images_inverts_the_map(dimension):
    stages = (
        Linear("rigid"),
        Instance(similarity=SSD(), iterations=(30, 30, 20)),
        Instance(similarity=SSD(), iterations=(10,), smoothness=2.0),
    )
    case = blobs(dimension=dimension, deformation_mm=4.0, angles_deg=[8.0] * (2 * dimension - 3))
    tables = [describe_method(stage) for stage in stages]
    alone = _both_ways(load_method({"name": "chain", "stages": tables}), case.pair)
    mean, largest = _both_ways(Symmetric(stages), case.pair)
    assert mean < 0.15 and mean < alone[0] / 5
    assert largest < alone[1] / 2


def test_both_directions_are_traced_and_masks_are_exchanged():
    case = blobs(dimension=2, translation_mm=(1.0, 1.0))
    mask = LabelMap(torch.ones(case.pair.fixed.grid.shape, dtype=torch.int32), case.pair.fixed.grid)
    pair = replace(case.pair, fixed_mask=mask)
    assert exchanged(pair).moving_mask is mask and exchanged(pair).fixed_mask is None
    found = Symmetric((Instance(similarity=SSD(), iterations=(5,)),)).register(pair)
    assert {entry.stage for entry in found.trace} == {"instance", "instance, exchanged"}


def test_a_mean_that_would_fold_does_not():
    pair = blobs(dimension=2).pair
    steep = _bump(pair, 40.0)
    assert jacobian_determinant(steep, pair.fixed.grid).data.min() < 0
    found = Symmetric((Says(steep, IDENTITY, pair.fixed),)).register(pair)
    assert jacobian_determinant(found.transform, pair.fixed.grid).data.min() > 0


def test_no_stage_is_refused():
    with pytest.raises(ValueError, match="at least one stage"):
        Symmetric(())
