"""Fusion at the end of a registration: the folder, the result and the page."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hybridreg.cli.app import app
from hybridreg.fusion import fuse
from hybridreg.fusion_files import BASELINES
from hybridreg.fusion_scores import SCORES
from hybridreg.images import LabelMap
from hybridreg.intensity import to_unit
from hybridreg.io.images import read_image, write_image
from hybridreg.io.transforms import read_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.phantoms import head_case
from hybridreg.pipeline import run
from hybridreg.registry import DEFAULT_RULE
from hybridreg.views import load_views


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A registered and fused 2D head: its case, its folder and the answer of the command."""
    folder = tmp_path_factory.mktemp("registered")
    case = head_case(dimension=2, angles_deg=(10.0,), translation_mm=(12.0, -30.0))
    for side in ("fixed", "moving"):
        write_image(folder / f"{side}.nii.gz", getattr(case.pair, side))
    arguments = ["-f", folder / "fixed.nii.gz", "-m", folder / "moving.nii.gz"]
    arguments += ["-o", folder / "out", "--fuse", "--threads", 1, "--json"]
    done = CliRunner().invoke(app, ["register", *map(str, arguments)])
    assert done.exit_code == 0, (done.output, done.exception)
    return case, folder / "out", json.loads(done.stdout.splitlines()[-1])


def test_a_registration_ends_fused_where_both_images_reach(registered):
    case, out, _ = registered
    moved, grid = read_image(out / "moved.nii.gz"), case.pair.fixed.grid
    reached = case.pair.moving.grid.contains(read_transform(out / "transform.h5")(grid.points()))
    assert 0.5 < reached.double().mean() < 0.95
    expected = fuse(
        *(to_unit(image)[0] for image in (case.pair.fixed, moved)),
        rule=DEFAULT_RULE,
        moved_valid=LabelMap(reached.int(), grid),
    )
    fused = read_image(out / "fused.nii.gz")
    assert fused.grid.matches(grid, 1e-4)
    # moved.nii.gz and the transform went through files; a voxel at the border may fall to either
    # side.
    difference = (fused.data - expected.image.data).abs()
    assert difference.mean() < 1e-4 and (difference > 0.01).double().mean() < 1e-3


def test_the_result_and_the_page_tell_of_the_fusion(registered):
    _, out, said = registered
    fusion = json.loads((out / "result.json").read_text())["fusion"]
    assert said["fusion"] == fusion
    assert list(fusion["scores"]) == list(dict.fromkeys([DEFAULT_RULE, *BASELINES]))
    assert fusion["better"]["NABF"] == "lower" and set(fusion["better"]) == set(SCORES)
    page = (out / "report.html").read_text()
    section = page.split('<section id="fusion">')[1].split("</section>")[0]
    assert section.count("<img ") == 6  # fixed, moved, both of them again as a blend, fused, weight
    assert 'type="range" data-blend' in section and "neither Hounsfield units" in section
    assert f">{DEFAULT_RULE}</th>" in section and "QABF" in section


def test_the_page_shows_the_fused_image(registered):
    _, out, _ = registered
    views = load_views(out / "views.npz")
    fused = read_image(out / "fused.nii.gz").data[0]
    # The display is a crop of the head, turned upright.
    assert views["fused"].dtype == np.uint8
    assert views["fused"].max() == pytest.approx(255 * fused.max().item(), abs=1)
    ratio = views["fused"].astype(float).sum() / (255 * fused.sum().item())
    assert ratio == pytest.approx(1, abs=0.05)


def quick(case, **settings):
    """An outcome without the work: the true transform instead of a registration."""

    @dataclass(frozen=True)
    class Given:
        def register(self, pair, initial):
            return RegistrationResult(case.true_transform)

    return run(case, Given(), **settings)


@pytest.fixture
def unnamed(monkeypatch):
    monkeypatch.setattr("hybridreg.pipeline.describe_method", lambda method: {"name": "given"})


def test_nothing_is_fused_unless_asked(unnamed, tmp_path):
    outcome = quick(head_case(dimension=2, spacing_mm=3.0))
    assert outcome.fused is None and outcome.summary()["fusion"] is None
    outcome.save(tmp_path / "out")
    assert not (tmp_path / "out" / "fused.nii.gz").exists()
    assert 'id="fusion"' not in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_fused_is_refused_before_the_registration(unnamed):
    case = head_case(dimension=2, spacing_mm=3.0)
    with pytest.raises(ValueError, match="no fusion rule 'wavelet'"):
        quick(case, fuse="wavelet")
    twice = {
        side: replace(image, data=image.data.repeat(2, 1, 1))
        for side, image in (("fixed", case.pair.fixed), ("moving", case.pair.moving))
    }
    with pytest.raises(ValueError, match="2 channels: register without fusion"):
        quick(replace(case, pair=replace(case.pair, **twice)), fuse="mean")


def test_a_registration_is_kept_when_its_result_cannot_be_fused(unnamed, monkeypatch):
    def fail(*_, **__):
        raise ValueError("there is nothing of both")

    monkeypatch.setattr("hybridreg.pipeline.fuse_images", fail)
    outcome = quick(head_case(dimension=2, spacing_mm=3.0), fuse="mean")
    assert outcome.fused is None
    assert any("could not be fused: there is nothing of both" in w for w in outcome.warnings)


def test_what_cubic_interpolation_adds_beyond_the_source_is_not_fused(unnamed):
    """An image of 8 bits stays one, though a spline through its edges goes beyond."""
    case = head_case(dimension=2, spacing_mm=3.0)
    moving = case.pair.moving
    data = torch.where(moving.data > moving.data.mean(), 255.0, 0.0)
    moving = replace(moving, data=data, dtype="uint8")
    case = replace(case, pair=replace(case.pair, moving=moving))
    outcome = quick(case, fuse="moved", interpolation="cubic")
    assert outcome.moved.data.max() > 256 and outcome.moved.data.min() < -1
    assert "8 bit" in outcome.fused.summary()["moved_scaling"]["text"]
    expected = (outcome.moved.data / 255).clamp(0, 1)
    there = outcome.fused.fused.weight.data == 0
    assert there.double().mean() > 0.5
    assert torch.allclose(outcome.fused.image.data[there], expected[there], atol=1e-5)


def test_an_unknown_rule_ends_register_at_once(tmp_path):
    case = head_case(dimension=2, spacing_mm=3.0)
    files = {side: tmp_path / f"{side}.nii.gz" for side in ("fixed", "moving")}
    for side, path in files.items():
        write_image(path, getattr(case.pair, side))
    arguments = ["-f", files["fixed"], "-m", files["moving"], "-o", tmp_path / "out"]
    arguments += ["--fusion-rule", "wavelet", "--json"]
    done = CliRunner().invoke(app, ["register", *map(str, arguments)])
    assert done.exit_code == 2 and "no fusion rule 'wavelet'" in done.stdout
    assert not (tmp_path / "out").exists()
