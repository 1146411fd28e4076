"""Radiographs through the pipeline: files, checks, assessment, report and command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hybridreg
from hybridreg.assessment import assess
from hybridreg.case_log import CaseLog
from hybridreg.checks import check_pair
from hybridreg.cli.app import app
from hybridreg.config import load_method
from hybridreg.exposure import saturated
from hybridreg.geometry import Grid
from hybridreg.images import Image, LandmarkSet
from hybridreg.io.images import write_image
from hybridreg.io.radiographs import write_radiograph
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.methods.base import RegistrationResult, TraceEntry
from hybridreg.methods.combine import Chain
from hybridreg.methods.projection import Projection
from hybridreg.phantoms.implant import implant_arm, implant_case, implant_corners
from hybridreg.poses import pose, projection_error, stepped
from hybridreg.projection_assessment import Agreement, Move, judged
from hybridreg.projection_pair import ProjectionPair
from hybridreg.quality import Intent
from hybridreg.radiographs import Detector
from hybridreg.transforms import AffineTransform, rigid
from hybridreg.views import load_views, make_views

TRUE = pose((4.0, -3.0, 8.0, 12.0, -2.0, 1.0))
START = AffineTransform(TRUE.matrix @ rigid((3.0, -2.0, 4.0), (1.0, 3.0, -1.5), (0, 0, 0)).matrix)
QUICK = {"name": "projection", "optimizer": "l-bfgs", "pixels": [2.0, 1.0], "iterations": 12}


@pytest.fixture(scope="module")
def case():
    return implant_case(TRUE, implant_arm(80, 3.0), implant_arm(80, 3.0, 80.0), ct_mm=2.5)


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    made = tmp_path_factory.mktemp("radiographs")
    for name, radiograph in zip(("front", "side"), case.pair.fixed, strict=True):
        write_radiograph(made / f"{name}.nii.gz", radiograph)
    write_image(made / "ct.nii.gz", case.pair.moving)
    write_transform(made / "start.tfm", START)
    write_transform(made / "true.tfm", TRUE)
    lines = [
        f'name = "{QUICK["name"]}"',
        'optimizer = "l-bfgs"',
        "pixels = [2.0, 1.0]",
        "iterations = 12",
    ]
    (made / "quick.toml").write_text("\n".join(lines))
    return made


def register(folder, *more, out="out"):
    given = ("-f", folder / "front.nii.gz", "-m", folder / "ct.nii.gz", "-o", folder / out, *more)
    return CliRunner().invoke(app, ["register", *map(str, given), "--json"])


def test_a_radiograph_and_a_ct_are_registered_from_their_files(folder, case):
    how = ("--method", folder / "quick.toml", "--initial", folder / "start.tfm")
    result = register(folder, *how, "--truth", folder / "true.tfm")
    assert result.exit_code == 0, result.output
    found = read_transform(folder / "out" / "transform.h5")
    view = case.pair.fixed[0].detector
    answer = json.loads(result.stdout)
    before, after = (answer["scores"][side]["projected"] for side in ("before", "after"))
    assert after["mean_mm"] < 1.5 < before["mean_mm"]
    ((low, high),) = [(a, b) for a, b in [(implant_corners().amin(0), implant_corners().amax(0))]]
    error = projection_error(found, TRUE, torch.stack([low, high]), view).mean().item()
    assert error == pytest.approx(after["mean_mm"], abs=1.0)
    assert answer["pose"]["after"].keys() == {
        "rx_deg",
        "ry_deg",
        "rz_deg",
        "tx_mm",
        "ty_mm",
        "tz_mm",
    }
    assert answer["similarity"]["after"]["gradient_correlation"] > 0.95
    assert answer["verdict"]["status"] == "pass"
    assert answer["scores"]["after"]["truth"]["rotation_deg"] < 2
    page = (folder / "out" / "report.html").read_text()
    assert "Error on the detector" in page and 'id="edges"' in page and 'id="jacobian"' not in page
    assert "Rx (°)" in page
    views = load_views(folder / "out" / "views.npz")
    assert views["fixed"].shape == views["before"].shape == views["moved"].shape == (80, 80)
    assert not (folder / "out" / "jacobian.nii.gz").exists()


def test_two_views_and_landmarks_measure_the_error_in_space(case):
    corners = implant_corners()
    carm = TRUE.inverse()(corners)
    outcome = hybridreg.register(
        case.pair.fixed[0],
        case.pair.moving,
        QUICK,
        second=case.pair.fixed[1],
        initial=START,
        fixed_landmarks=carm,
        moving_landmarks=LandmarkSet(corners),
    )
    start, found = outcome.scores
    assert len(outcome.case.pair.fixed) == 2
    assert start.landmarks.mean_mm == pytest.approx(
        (START(carm) - corners).norm(dim=-1).mean().item()
    )
    expected = [
        projection_error(outcome.transform, TRUE, corners, r.detector) for r in case.pair.fixed
    ]
    assert found.projected.mean_mm == pytest.approx(torch.cat(expected).mean().item(), rel=1e-6)
    assert found.landmarks.mean_mm < start.landmarks.mean_mm / 3
    assert outcome.inverse.max_residual_mm == 0


def test_the_report_shows_two_views_side_by_side(case):
    views = make_views(case.pair, TRUE, initial=START)
    for name in ("fixed", "before", "moved"):
        assert views[name].shape == (80, 160)
    for half in (slice(0, 80), slice(80, 160)):
        shown, after, before = (views[n][:, half] for n in ("fixed", "moved", "before"))
        same, other = (np.corrcoef(shown.ravel(), i.ravel())[0, 1] for i in (after, before))
        assert same > 0.99 > other
    # Of other pixels and sizes: in those of the coarser one.
    fine = implant_case(TRUE, implant_arm(120, 1.5, 80.0), ct_mm=2.5).pair.fixed[0]
    mixed = ProjectionPair((case.pair.fixed[0], fine), case.pair.moving)
    assert make_views(mixed, TRUE)["moved"].shape == (80, 140)


def test_without_an_initial_pose_the_ct_stands_in_the_middle_and_that_is_said(case):
    (front, _), ct = case.pair.fixed, case.pair.moving
    outcome = hybridreg.register(front, ct, {**QUICK, "iterations": 1})
    assert any("no initial pose" in text for text in outcome.warnings)
    center = outcome.initial(torch.zeros(1, 3).double())[0]
    torch.testing.assert_close(center, ct.grid.center)


def test_inputs_that_radiographs_do_not_take_are_refused(case, folder):
    (front, _), ct = case.pair.fixed, case.pair.moving
    with pytest.raises(ValueError, match="fixed_labels cannot be used with radiographs"):
        hybridreg.register(front, ct, QUICK, initial=START, fixed_labels=ct)
    with pytest.raises(ValueError, match="geometry is for methods of radiographs"):
        hybridreg.register(ct, ct, "rigid", geometry="arm.toml")
    with pytest.raises(ValueError, match="a radiograph is a file|the radiograph is a file"):
        hybridreg.register(ct, ct, QUICK)
    with pytest.raises(ValueError, match="cannot be fused"):
        hybridreg.register(front, ct, QUICK, initial=START, fuse="mean")
    with pytest.raises(ValueError, match="is it a volume|no ct.toml beside it"):
        hybridreg.register(folder / "ct.nii.gz", folder / "ct.nii.gz", QUICK)
    write_image(folder / "flat.nii.gz", Image(torch.rand(80, 80), Grid((80, 80))))
    result = register(folder, "--method", "projection", "-f", folder / "flat.nii.gz", out="bad")
    assert result.exit_code != 0 and "no flat.toml beside it" in result.output
    with pytest.raises(ValueError, match="HU"):
        hybridreg.register(front, Image(ct.data + 1000, ct.grid), QUICK, initial=START)
    with pytest.raises(ValueError, match="different types of pairs"):
        Chain((Projection(), load_method("rigid")))


def test_a_ct_that_is_not_between_source_and_detector_is_refused(case):
    (front, _), ct = case.pair.fixed, case.pair.moving
    pair = ProjectionPair(front, ct)
    check_pair(pair, START)

    def moved(along: float):
        """A pose with the middle of the CT so many mm from the isocenter to the source (+y)."""
        shift = ct.grid.center - torch.tensor([0.0, along, 0.0])
        return pose([0.0] * 6, shift.tolist())

    with pytest.raises(ValueError, match="the X-ray source lies inside the CT"):
        check_pair(pair, moved(700.0))
    with pytest.raises(ValueError, match="behind the X-ray source"):
        check_pair(pair, moved(900.0))
    with pytest.raises(ValueError, match="beyond the detector"):
        check_pair(pair, moved(-400.0))
    slice_ = Image(ct.data[:, :1], ct.grid.crop((0, 0, 0), (1, *ct.grid.shape[1:])))
    with pytest.raises(ValueError, match="1 voxel"):
        check_pair(ProjectionPair(front, slice_))


@pytest.mark.parametrize(
    ("before", "after", "outside", "status", "word"),
    [
        (0.5, 0.9, 0.0, "pass", None),
        (0.4, 0.4, 0.0, "warn", "correlate by 0.40"),
        (0.1, 0.2, 0.0, "fail", "correlate by 0.20"),
        (0.95, 0.8, 0.0, "fail", "less than at the start"),
        (0.5, 0.9, 12.0, "warn", "12.0 degrees beyond"),
        (0.5, None, 0.0, "fail", "beside the radiograph"),
    ],
)
def test_the_verdict_looks_at_edges_and_at_the_range_of_the_training(
    before, after, outside, status, word
):
    trace = [TraceEntry("pehl", 0, 0, {"outside_deg": outside})]
    found = judged((Agreement(1.0, before), Agreement(1.0, after)), trace)
    assert found.status == status
    assert word is None or any(word in reason for reason in found.reasons)
    assert judged((Agreement(1.0, 0.5), Agreement(0.5, 0.9)), ()).status == "warn"


def test_presets_of_radiographs_load():
    for name in ("projection", "pehl-implant", "projection-hybrid"):
        assert load_method(name).accepts is ProjectionPair


def test_a_detector_knows_how_far_a_point_is_on_the_way():
    view = Detector.of_c_arm((4, 4), (1, 1), source_to_detector=1000, source_to_isocenter=700)
    points = torch.tensor([view.source, (0.0, 0.0, 0.0), tuple(view.grid.center.tolist())])
    torch.testing.assert_close(view.depth(points), torch.tensor([0.0, 0.7, 1.0]).double())


def test_a_pose_beside_a_better_one_is_doubted(case):
    start = hybridreg.register(
        case.pair.fixed[0],
        case.pair.moving,
        {**QUICK, "iterations": 1, "pixels": [8.0]},
        initial=START,
    )
    assert start.verdict.status != "pass"
    assert any("beside (correlation" in reason for reason in start.verdict.reasons)
    for better, status in ((0.9, "pass"), (0.92, "warn"), (0.99, "fail")):
        fit = Agreement(1.0, 0.5), Agreement(1.0, 0.9)
        assert judged(fit, (), beside=(better, "2 mm")).status == status


@pytest.mark.parametrize(("tilt", "status"), [(0.0, "pass"), (3.5, "warn")])
def test_a_pose_from_which_the_gradient_leads_away_is_doubted(tilt, status):
    case = implant_case(TRUE, implant_arm(240, 1.0), ct_mm=2.0)
    turned = stepped(TRUE.matrix, torch.tensor([tilt, 0, 0, 0, 0, 0]).double(), torch.eye(3))
    off = AffineTransform(turned)
    error = (
        projection_error(off, TRUE, implant_corners(), case.pair.fixed[0].detector).mean().item()
    )
    how = {"initial": off, "intent": Intent(), "interpolation": "linear", "log": CaseLog()}
    result = RegistrationResult(off, off.inverse())
    verdict = assess(case.pair, case, result, **how).verdict
    assert verdict.status == status, (error, verdict)
    if tilt:
        (reason,) = verdict.reasons
        found = float(reason.split("lead ")[1].split(" mm")[0])
        assert found == pytest.approx(error, rel=0.2)


def test_moves_count_relative_to_the_size_of_the_object():
    fit = Agreement(1.0, 0.5), Agreement(1.0, 0.9)
    assert judged(fit, (), moves=Move(1.0, 200.0)).status == "pass"
    assert judged(fit, (), moves=Move(1.0, 100.0)).status == "warn"


def test_scatter_flattens_the_projection_of_metal(case):
    (front, _), ct = case.pair.fixed, case.pair.moving
    flat = replace(front, data=saturated(front.data, 0.2))
    errors = []
    for scatter in ((0.0,), (0.2,), (0.0, 0.2)):
        method = Projection(optimizer="l-bfgs", pixels=(2.0, 1.0), iterations=15, scatter=scatter)
        found = method.register(ProjectionPair(flat, ct), START).transform
        errors.append(projection_error(found, TRUE, implant_corners(), front.detector).mean())
    assert errors[1] < errors[0] / 2
    assert errors[2] == errors[1]
    with pytest.raises(ValueError, match="scatter is 0 or more"):
        Projection(scatter=(-1.0,))
