"""Momenta as targets: what is stored makes the map again, and says how near it comes."""

import pytest
import torch
from test_targets import Found

from hybridreg.geodesics import GeodesicTransform, Kernel
from hybridreg.io.target_store import TargetStore
from hybridreg.methods.combine import Chain
from hybridreg.methods.lddmm import Lddmm
from hybridreg.momentum import shot
from hybridreg.phantoms import blobs
from hybridreg.phantoms.deformation import smooth_deformation
from hybridreg.similarity import SSD
from hybridreg.targets.making import Recipe, _images
from hybridreg.targets.momentum import Momentum, MomentumFromField, _parts, shooting_stage
from hybridreg.transforms import IDENTITY, DisplacementField, compose, rigid

QUICK = Lddmm(similarity=SSD(), image_mm=(2.0,), momentum_mm=(3.0,), iterations=(25,), sigma=0.01)
CASE = blobs(dimension=2, translation_mm=(2.0, -1.5))
CENTER = CASE.pair.fixed.grid.center
TURN = rigid([6.0], [1.0, -2.0], CENTER)


def shot_again(target) -> torch.Tensor:
    """phi^-1 - x where the fixed image shows something, from the stored momentum alone."""
    kernel, grid = Kernel(**target.facts["kernel"]), target.grid
    again = shot(
        target.arrays["momentum"],
        kernel,
        grid,
        onto=CASE.pair.fixed.grid,
        **target.facts["shooting"],
    )
    x = shown_voxels()
    return again(x) - x


def shown_voxels() -> torch.Tensor:
    """Where the fixed image shows something: in the margin around that, fields fade."""
    fixed = CASE.pair.fixed
    return fixed.grid.points()[fixed.data[0] > 0.1 * fixed.data.max()]


def at_voxels(vectors: torch.Tensor, grid) -> torch.Tensor:
    x = shown_voxels()
    return DisplacementField(vectors, grid)(x) - x


def test_the_momentum_makes_the_displacements_again():
    target = Momentum(QUICK)(CASE.pair, TURN, seed=0)
    assert torch.equal(target.affine.matrix, TURN.matrix)
    stored = at_voxels(target.arrays["displacement"], target.grid)
    assert stored.norm(dim=-1).max() > 0.5  # something was found
    assert torch.allclose(shot_again(target), stored, atol=1e-3)
    after = target.facts["similarity"]["after"]["correlation"]
    assert after > target.facts["similarity"]["before"]["correlation"]
    assert target.facts["energy"]["stage"] == "lddmm" and target.facts["verdict"]["status"]


def test_it_can_begin_with_what_another_method_found():
    """Which is near the truth already, so that few iterations end nearer than without."""
    truth = CASE.true_transform
    started = Momentum(QUICK, start=Found(truth))(CASE.pair, IDENTITY, seed=0)
    x = CENTER[None]
    whole = compose(started.affine, DisplacementField(started.arrays["displacement"], started.grid))
    assert (whole(x) - truth(x)).norm() < 0.5 < (truth(x) - x).norm()


def test_a_momentum_from_a_field_says_how_near_it_comes():
    bend = smooth_deformation(2.0, center=CENTER.tolist(), wavelength_mm=60.0, radius_mm=60.0)
    target = MomentumFromField(Found(compose(TURN, bend)), QUICK)(CASE.pair, IDENTITY, seed=0)
    missed = target.facts["residual_mm"]
    assert 0 < missed["median"] < 0.2 and missed["median"] <= missed["p95"] <= missed["max"]
    whole = compose(target.affine, DisplacementField(target.arrays["displacement"], target.grid))
    x = CENTER[None]
    assert (whole(x) - compose(TURN, bend)(x)).norm() < 0.3
    stored = at_voxels(target.arrays["displacement"], target.grid)
    assert torch.allclose(shot_again(target), stored, atol=1e-3)


def test_a_momentum_is_stored_and_read_on_its_own_grid(tmp_path):
    kind = Momentum(QUICK)
    target = kind(CASE.pair, TURN, seed=0)
    store = TargetStore.begin(tmp_path / "t.zarr", "momentum", Recipe("momentum", kind).settings)
    images = _images(target)
    assert images["fixed_on_grid"].grid == images["moving_on_grid"].grid == target.grid
    store.write("a", grid=target.grid, affine=target.affine, images=images,
                arrays=target.arrays, attributes=target.facts)  # fmt: skip
    assert torch.equal(store.array("a", "momentum"), target.arrays["momentum"])
    assert store.read("a").attributes["kernel"]["a"] == QUICK.kernel.a


def test_methods_that_find_no_momentum_are_refused():
    with pytest.raises(ValueError, match="stages that end in it, not by Found"):
        Momentum(Found(IDENTITY))
    assert shooting_stage(Chain((Found(TURN), QUICK))) is QUICK
    with pytest.raises(ValueError, match="one affine part before it, found AffineTransform"):
        _parts(TURN)
    field = DisplacementField(torch.zeros(2, 4, 4), CASE.pair.fixed.grid.crop((0, 0), (4, 4)))
    zero = GeodesicTransform(torch.zeros(2, 4, 4), QUICK.kernel, field.grid, field, field)
    assert _parts(compose(TURN, zero))[1] is zero
    with pytest.raises(ValueError, match="found DisplacementField, GeodesicTransform"):
        _parts(compose(field, zero))
