"""The methods of other packages: right where they are installed, and named where they are not."""

import json
import os
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import oblique_grid

from hybridreg.config import describe_method, load_method
from hybridreg.evaluation import target_registration_error
from hybridreg.geometry import apply_matrix
from hybridreg.methods.base import RegistrationError
from hybridreg.methods.given import Given, Identity
from hybridreg.methods.peers import peer, process
from hybridreg.methods.peers.peer import field_in_voxels
from hybridreg.phantoms import blobs
from hybridreg.registry import METHODS, PEERS
from hybridreg.transforms import IDENTITY, rigid

PACKAGES = {"greedy": "picsl_greedy", "ants-syn": "antspyx", "convex-adam": "convexAdam"}
ALLOWED_MM = 1.0  # of shifts of 5 mm, on voxels of 1.6 to 2.4 mm


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_says_what_it_needs(name):
    method = load_method({"name": name, "python": "/nowhere/python"})
    assert "not installed for /nowhere/python: pip install" in method.missing()
    assert load_method(describe_method(method)) == method


@pytest.mark.parametrize("name", ["voxelmorph", "unigradicon", "impact"])
def test_networks_need_the_users_weights(name, monkeypatch, tmp_path):
    monkeypatch.setattr(peer, "installed", lambda *_: "1.0")
    assert "it needs weights: name their file" in load_method(name).missing()
    weights = tmp_path / "weights.pt"
    assert "there are no weights" in load_method({"name": name, "weights": str(weights)}).missing()
    weights.write_bytes(b"")
    assert load_method({"name": name, "weights": str(weights)}).missing() == ""


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("name", PACKAGES)
def test_installed_peers_find_a_shift_from_an_initial_transform(name, dimension):
    method = load_method({"name": name, "affine": ""})
    if not process.installed(PACKAGES[name]):
        pytest.skip(method.missing())
    if dimension not in getattr(method, "dimensions", (2, 3)):
        pytest.skip("for volumes only")
    case = blobs(dimension=dimension, translation_mm=(3.0, -2.0, 4.0)[:dimension])
    turned = rigid([4.0] * (2 * dimension - 3), [1.0] * dimension, case.pair.fixed.grid.center)
    for initial in (IDENTITY, turned):
        found = method.register(case.pair, initial).transform
        error = target_registration_error(found, case.fixed_landmarks, case.moving_landmarks)
        assert error.median() < ALLOWED_MM


@pytest.mark.slow
def test_impact_finds_a_shift_by_the_features_of_a_network(tmp_path):
    class Network(torch.nn.Module):
        def forward(self, volume: torch.Tensor) -> list[torch.Tensor]:
            return [torch.cat([volume, torch.nn.functional.avg_pool3d(volume, 3, 1, 1)], 1)]

    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    python = os.environ.get("IMPACT_PYTHON", "")
    table = {"name": "impact", "affine": "", "voxel_mm": 2.0, "python": python}
    method = load_method({**table, "weights": str(tmp_path / "network.pt")})
    if method.missing():
        pytest.skip(method.missing())
    case = blobs(dimension=3, translation_mm=(3.0, -2.0, 4.0))
    turned = rigid([4.0] * 3, [1.0] * 3, case.pair.fixed.grid.center)
    found = method.register(case.pair, turned).transform
    error = target_registration_error(found, case.fixed_landmarks, case.moving_landmarks)
    assert error.median() < ALLOWED_MM


def test_fireants_refuses_images_that_are_too_short_for_it():
    with pytest.raises(RegistrationError, match="no image shorter than 32 voxels.*24 x 26 x 20"):
        load_method("fireants").register(blobs(dimension=3).pair)


def test_a_script_that_crashes_is_an_error_of_the_registration(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_SCRIPTS", tmp_path)
    (tmp_path / "bad.py").write_text("import os; print('about to', flush=True); os.abort()")
    with pytest.raises(RegistrationError, match=r"bad crashed \(SIGABRT\): about to"):
        process.run_script("bad", tmp_path, {})
    (tmp_path / "wrong.py").write_text("raise ValueError('no such metric')")
    with pytest.raises(RegistrationError, match="code 1: ValueError: no such metric"):
        process.run_script("wrong", tmp_path, {})


def test_a_script_gets_its_job_and_its_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_SCRIPTS", tmp_path)
    (tmp_path / "good.py").write_text(
        "import json, os, sys\n"
        "job = json.load(open(sys.argv[1] + '/job.json'))\n"
        "json.dump([job, os.environ['OMP_NUM_THREADS']], open(sys.argv[1] + '/answer.json', 'w'))\n"
    )
    assert process.run_script("good", tmp_path, {"a": 1}, threads=3) == [{"a": 1}, "3"]


def test_a_field_in_voxels_becomes_one_in_mm_on_an_oblique_grid(tmp_path):
    grid = oblique_grid(left_handed=True)
    steps = np.random.default_rng(0).normal(0, 2, (*grid.shape, 3)).astype(np.float32)  # (z, y, x)
    np.save(tmp_path / "field.npy", steps)
    field = field_in_voxels(tmp_path / "field.npy", grid)
    voxel = torch.tensor([5.0, 7.0, 3.0], dtype=torch.float64)  # (x, y, z)
    step = torch.from_numpy(steps[3, 7, 5][::-1].astype(np.float64))
    there, end = (apply_matrix(grid.voxel_to_physical(), p[None]) for p in (voxel, voxel + step))
    assert (field(there) - end).abs().max() < 1e-4
    np.save(tmp_path / "field.npy", steps[1:])
    with pytest.raises(RegistrationError, match="gave a field of"):
        field_in_voxels(tmp_path / "field.npy", grid)


def test_identity_and_given_transforms_find_nothing_of_their_own(tmp_path):
    pair = blobs(dimension=2).pair
    initial = rigid([5.0], [1.0, 2.0], pair.fixed.grid.center)
    points = pair.fixed.grid.points()[::50]
    assert torch.equal(Identity().register(pair, initial).transform(points), initial(points))
    from hybridreg.io.transforms import write_transform

    write_transform(tmp_path / "t.tfm", initial)
    found = Given(str(tmp_path / "t.tfm")).register(pair).transform
    assert torch.allclose(found(points), initial(points))
    assert METHODS.name_of(Identity) == "identity"
    assert [field.name for field in fields(Given)] == ["path"]
    assert json.dumps(describe_method(Given("a.tfm"))) == '{"name": "given", "path": "a.tfm"}'
