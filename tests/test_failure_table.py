"""What a user meets where other tools fail, crash or are silently wrong: one test a failure."""

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import oblique_grid
from test_io_dicom import AXES, GAP, save, stack
from typer.testing import CliRunner

import hybridreg
from hybridreg import progress
from hybridreg.cases import Case, ImagePair
from hybridreg.cli.app import app
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.transforms import read_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.elastix import Elastix, method, parameter_maps, process
from hybridreg.phantoms import blobs, head_case, head_grid
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    DisplacementField,
    Transform,
    compose,
)
from hybridreg.warping import warp

QUICK = {"NumberOfResolutions": 2, "MaximumNumberOfIterations": 100}


def quick(*files: str, **overrides) -> Elastix:
    return Elastix(files or ("rigid.txt",), overrides=QUICK | overrides, threads=1)


def two_heads(spacing_mm, **changes) -> Case:
    """One T1 head twice, at rest and turned and shifted a little."""
    grid = head_grid(spacing_mm)
    settings = {"fixed_grid": grid, "moving_grid": head_grid(4.0)} | changes
    return head_case(
        fixed="t1", moving="t1", angles_deg=(3.0, -2.0, 4.0), translation_mm=(3.0, 4.0, -2.0),
        **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def head() -> Case:
    """The fixed head on an oblique grid."""
    return two_heads(4.0, fixed_grid=head_grid(4.0, angles_deg=(20.0, 0.0, 20.0)))


def error_mm(transform: Transform, case: Case, where: torch.Tensor | None = None) -> float:
    """Mean distance from the truth over the head, or where asked."""
    grid = case.pair.fixed.grid
    points = grid.points()[case.pair.fixed.data[0] > 0.3 if where is None else where]
    return (transform(points) - case.true_transform(points)).norm(dim=-1).mean().item()


@dataclass(frozen=True)
class Gives:
    """A method that always finds this transform."""

    transform: Transform

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        return RegistrationResult(self.transform)


def call(*arguments, code: int) -> dict:
    """The JSON answer of the command line, which must end with this exit code."""
    done = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json")])
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.stdout.splitlines()[-1])


# wrong orientation, left and right


def stored_as(image: Image, letters: str) -> Image:
    """The same voxels where they were, with voxel axes that point to the sides of these letters."""
    volume = nibabel.Nifti1Image(image.data[0].numpy().T, image.grid.voxel_to_physical().numpy())
    # nibabel's letters are those of its RAS+ frame; fed with LPS they read with L and P swapped
    wanted = nibabel.orientations.axcodes2ornt(letters, labels=(("R", "L"), ("A", "P"), ("I", "S")))
    given = nibabel.orientations.io_orientation(volume.affine)
    volume = volume.as_reoriented(nibabel.orientations.ornt_transform(given, wanted))
    axes = volume.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    data = torch.from_numpy(np.ascontiguousarray(volume.get_fdata().T.astype(np.float32)))
    return Image(data, Grid(data.shape, spacing, volume.affine[:3, 3], axes / spacing))


@pytest.mark.parametrize(
    ("letters", "says"),
    [
        ("LAS", "left-handed axes"),
        ("PSL", "different axes"),
        ("LIA", "different axes"),
        ("RAS", ""),
    ],
)
def test_orientation_however_it_is_stored_gives_the_same_result_and_a_hint(letters, says):
    upright = two_heads(5.0)
    moving = stored_as(upright.pair.moving, letters)
    outcome = hybridreg.register(upright.pair.fixed, moving, quick())
    assert error_mm(outcome.transform, upright) < 0.5
    assert len(outcome.warnings) == bool(says)
    assert all(says in expected and "in the patient" in expected for expected in outcome.warnings)


def test_orientation_left_and_right_exchanged_in_the_data_of_one_scan_is_found(data, tmp_path):
    """One person's two scans; the second one with its voxels mirrored, its header as it was."""
    fixed, moving = (brain(data, name) for name in (1018, 1038))
    sound = hybridreg.register(fixed, moving, "rigid", threads=1)
    assert sound.verdict.status == "pass", sound.verdict.reasons
    mirrored = replace(moving, data=moving.data.flip(-1))
    spoiled = hybridreg.register(fixed, mirrored, "rigid", threads=1)
    assert spoiled.verdict.status == "fail"
    assert "left and right exchanged" in " ".join(spoiled.verdict.reasons)


def brain(data: Path, name: int, spacing_mm: float = 3.0) -> Image:
    image = read_image(data / "oasis_malf35" / "subjects" / f"{name}_SS.nii.gz")
    return warp(image, IDENTITY, onto=image.grid.with_spacing([spacing_mm] * 3))


# units


def rescaled(image: Image, factor: float) -> Image:
    spacing = tuple(s * factor for s in image.grid.spacing)
    grid = replace(image.grid, spacing=spacing)
    shift = image.grid.center - grid.center
    return replace(
        image, grid=replace(grid, origin=tuple((torch.tensor(grid.origin) + shift).tolist()))
    )


@pytest.mark.parametrize("factor", [1000.0, 0.001, 10.0, 3.5, 1 / 3.5])
def test_units_that_make_the_extents_differ_over_three_times_are_refused(factor, head, tmp_path):
    write_image(tmp_path / "fixed.nii.gz", head.pair.fixed)
    write_image(tmp_path / "moving.nii.gz", rescaled(head.pair.moving, factor))
    answer = call("register", "-f", tmp_path / "fixed.nii.gz", "-m", tmp_path / "moving.nii.gz",
                  "-o", tmp_path / "out", code=2)  # fmt: skip
    assert "mm" in answer["error"] and "correct" in answer["error"]
    assert not (tmp_path / "out").exists()


def test_units_that_make_the_extents_differ_one_and_a_half_times_are_warned_of(head):
    moving = rescaled(head.pair.moving, 1.7)
    outcome = hybridreg.register(head.pair.fixed, moving, quick())
    expected = "a factor of 1.7 from corner to corner"
    assert [expected in warning for warning in outcome.warnings] == [True]
    assert outcome.verdict.status != "pass"
    (reason,) = [reason for reason in outcome.verdict.reasons if expected in reason]
    assert "crop" in reason and "correct the header" in reason
    assert not any("corner to corner" in r for r in hybridreg.register(
        head.pair.fixed, rescaled(head.pair.moving, 1.3), quick()).verdict.reasons)  # fmt: skip


# not numbers


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_are_counted_and_refused(value, head, tmp_path):
    data = head.pair.moving.data.clone()
    data[0, 3, 4:7, 5] = value
    write_image(tmp_path / "moving.nii.gz", replace(head.pair.moving, data=data, dtype="float32"))
    with pytest.raises(
        ValueError, match=r"moving image has 3 voxels that are NaN or infinite: rep"
    ):
        hybridreg.register(head.pair.fixed, tmp_path / "moving.nii.gz")


# masks


def test_a_mask_that_is_empty_or_of_a_few_voxels_is_refused(head):
    grid = head.pair.fixed.grid
    nothing = torch.zeros(grid.shape)
    few = nothing.clone()
    few[10:13, 10:13, 10:13] = 1
    for mask, says in ((nothing, "fixed mask is empty"), (few, "only 27 voxels")):
        with pytest.raises(ValueError, match=says):
            hybridreg.register(*images(head), fixed_mask=LabelMap(mask, grid))


def images(case: Case) -> tuple[Image, Image]:
    return case.pair.fixed, case.pair.moving


def rod(points: torch.Tensor, center: torch.Tensor, radius_mm: float) -> torch.Tensor:
    """Oblique to everything: it fills little of any box around it."""
    way = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64) / 3**0.5
    along = (points - center) @ way
    across = (points - center - along[..., None] * way).norm(dim=-1)
    return (across < radius_mm) & (along.abs() < 60)


def slab(points: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Three voxels thick along the first array axis."""
    inside = torch.zeros(points.shape[:-1], dtype=torch.bool)
    inside[len(inside) // 2 - 1 : len(inside) // 2 + 2] = True
    return inside & ((points - center).norm(dim=-1) < 60)


@pytest.mark.parametrize("shape", ["rod", "ball", "slab"])
@pytest.mark.parametrize("sampler", ["RandomCoordinate", "Random"])
def test_a_mask_of_one_percent_on_an_oblique_grid_registers(shape, sampler, head):
    grid = head.pair.fixed.grid
    points, center = grid.points(), grid.center
    inside = {
        "rod": rod(points, center, 9.0),
        "ball": (points - center).norm(dim=-1) < 25,
        "slab": slab(points, center),
    }[shape]
    assert 0.002 < inside.double().mean() < 0.03
    mask = LabelMap(inside.int(), grid)
    method = quick(ImageSampler=sampler, MaximumNumberOfIterations=200)
    outcome = hybridreg.register(*images(head), method, fixed_mask=mask)
    assert error_mm(IDENTITY, head, inside) > 3
    assert error_mm(outcome.transform, head, inside) < 1.0  # a quarter of a voxel
    assert any("RandomSparseMask" in line for line in outcome.log)


def test_a_moving_mask_much_smaller_than_the_fixed_image_registers(head):
    grid = head.pair.moving.grid
    ball = ((grid.points() - grid.center).norm(dim=-1) < 45).int()
    assert ball.double().mean() < 0.15
    outcome = hybridreg.register(*images(head), quick(), moving_mask=LabelMap(ball, grid))
    assert error_mm(outcome.transform, head) < 1.0 < error_mm(IDENTITY, head)
    assert not any("share only" in reason for reason in outcome.verdict.reasons)


def test_a_mask_on_another_grid_than_its_image_is_resampled_onto_it_and_reported(head, tmp_path):
    grid = head.pair.fixed.grid
    other = replace(head_grid(3.0), shape=(50, 60, 70))
    ball = ((other.points() - grid.center).norm(dim=-1) < 50).int()
    write_image(tmp_path / "mask.nii.gz", LabelMap(ball, other))
    outcome = hybridreg.register(*images(head), quick(), fixed_mask=tmp_path / "mask.nii.gz")
    used = outcome.case.pair.fixed_mask
    there = (grid.points() - grid.center).norm(dim=-1) < 50
    assert used.grid == grid
    inside = other.contains(grid.points())
    assert ((used.data != 0) != (there & inside)).double().mean() < 0.01  # its rim, by a voxel
    assert len(outcome.warnings) == 1
    assert "fixed mask lies on another grid" in outcome.warnings[0]
    assert error_mm(outcome.transform, head) < 1.0


def test_a_mask_in_another_place_than_its_image_is_refused(head):
    grid = replace(head.pair.fixed.grid, origin=(400.0, 0.0, 0.0))
    mask = LabelMap(torch.ones(grid.shape), grid)
    with pytest.raises(ValueError, match="fixed mask lies in another place than the fixed image"):
        hybridreg.register(*images(head), fixed_mask=mask)


@pytest.mark.parametrize(("noise", "warned"), [(1e-8, False), (1e-4, False), (0.5, True)])
def test_header_noise_between_image_and_mask_is_dropped_and_more_is_not(noise, warned, head):
    grid = head.pair.fixed.grid
    ball = ((grid.points() - grid.center).norm(dim=-1) < 60).int()
    off = replace(grid, origin=tuple(o + noise for o in grid.origin))
    outcome = hybridreg.register(*images(head), quick(), fixed_mask=LabelMap(ball, off))
    assert outcome.case.pair.fixed_mask.grid == grid
    assert warned or torch.equal(outcome.case.pair.fixed_mask.data, ball)
    assert bool(outcome.warnings) == warned


# anisotropy and thin volumes


def test_anisotropy_is_smoothed_equally_far_in_mm(monkeypatch):
    case = two_heads((2.0, 2.0, 8.0))
    seen = []

    original = method.run

    def watched(pair, stages, *more, **settings):
        seen.extend(stages)
        return original(pair, stages, *more, **settings)

    monkeypatch.setattr(method, "run", watched)
    outcome = hybridreg.register(*images(case), quick(NumberOfResolutions=3))
    schedule = np.array(seen[0]["FixedImagePyramidSchedule"], dtype=int).reshape(3, 3)
    assert np.array_equal(schedule, [[4, 4, 1], [2, 2, 1], [1, 1, 1]])  # 8, 4 and 2 mm
    assert error_mm(outcome.transform, case) < 1.0  # half an in-plane voxel


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_fewer_than_4_slices_are_refused_before_elastix_sees_them(slices, head, tmp_path):
    few = head.pair.moving.grid.crop((10, 0, 0), (10 + slices, *head.pair.moving.grid.shape[1:]))
    thin = Image(head.pair.moving.data[:, 10 : 10 + slices], few)
    write_image(tmp_path / "thin.nii.gz", thin)
    with pytest.raises(ValueError, match=f"moving image has {slices} voxel.*2D image"):
        hybridreg.register(head.pair.fixed, tmp_path / "thin.nii.gz")


def test_a_constant_image_is_refused(head, tmp_path):
    flat = replace(head.pair.moving, data=torch.full_like(head.pair.moving.data, 7.0))
    write_image(tmp_path / "flat.nii.gz", flat)
    with pytest.raises(ValueError, match="moving image is constant .7 everywhere"):
        hybridreg.register(head.pair.fixed, tmp_path / "flat.nii.gz")


def test_4d_given_as_3d_asks_for_the_frame(tmp_path, head):
    path = tmp_path / "series.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.rand(9, 8, 7, 5).astype("f4"), np.eye(4)), path)
    with pytest.raises(ValueError, match=r"series\.nii\.gz.*5 frames: choose one, frame=0 to"):
        hybridreg.register(head.pair.fixed, path)
    assert read_image(path, frame=3).channels == 1


# number types


def test_int_overflow_is_clamped_where_values_leave_the_type(tmp_path):
    """Cubic interpolation overshoots at edges; labels take the type that holds them all."""
    grid = oblique_grid()
    steps = torch.where(grid.points()[..., 0] > grid.center[0], 255.0, 0.0)
    path = tmp_path / "steps.nii.gz"
    write_image(path, Image(steps, grid, "uint8"))
    blocks = torch.zeros(grid.shape, dtype=torch.int32)
    blocks[4:12, 4:12, 4:12], blocks[12:18] = 70_000, -3
    write_image(tmp_path / "labels.nii.gz", LabelMap(blocks, grid))
    shift = AffineTransform.from_parts(torch.eye(3), [0.5, 0.4, 0.3])
    outcome = hybridreg.register(path, path, Gives(shift), moving_labels=tmp_path / "labels.nii.gz")
    folder = outcome.save(tmp_path / "out", report=False)
    assert nibabel.load(folder / "moved.nii.gz").get_data_dtype() == np.uint8
    assert set(read_labels(folder / "moved_labels.nii.gz").labels()) == {70_000, -3}

    call("apply", "-t", folder / "transform.h5", "-f", path, "-m", path, "--interpolation", "cubic",
         "-o", tmp_path / "cubic.nii.gz", code=0)  # fmt: skip
    stored = read_image(tmp_path / "cubic.nii.gz")
    meant = warp(read_image(path), shift, onto=grid, interpolation="cubic")
    assert meant.data.max() > 260 and meant.data.min() < -5  # wrapped, 260 would be 4
    assert stored.dtype == "uint8"
    assert (stored.data - meant.data.clamp(0, 255)).abs().max() <= 0.51


# fields of view


def placed(image: Image, shift_mm: float) -> Image:
    origin = (image.grid.origin[0] + shift_mm, *image.grid.origin[1:])
    return replace(image, grid=replace(image.grid, origin=origin))


def test_no_overlap_starts_from_the_centers_and_reports_the_overlap(head, tmp_path):
    write_image(tmp_path / "fixed.nii.gz", head.pair.fixed)
    write_image(tmp_path / "moving.nii.gz", placed(head.pair.moving, 900.0))
    answer = call(
        "register", "-f", tmp_path / "fixed.nii.gz", "-m", tmp_path / "moving.nii.gz",
        "-o", tmp_path / "out", "--threads", 1, code=0,
    )  # fmt: skip
    (expected,) = answer["warnings"]
    assert "overlap by only 0 %" in expected and "from their aligned centers" in expected
    overlap = answer["similarity"]["after"]["overlap"]
    assert 0.7 < overlap < 1
    assert answer["verdict"]["status"] == "pass"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Overlap" in page and f"{overlap:.4g}" in page and "0 %" in page
    found = read_transform(tmp_path / "out" / "transform.h5")
    moved_there = AffineTransform.from_parts(torch.eye(3), [900.0, 0.0, 0.0])
    case = replace(head, true_transform=compose(moved_there, head.true_transform))
    assert error_mm(found, case) < 0.5


def test_an_initial_transform_that_leaves_no_overlap_is_refused(head):
    away = AffineTransform.from_parts(torch.eye(3), [900.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="do not overlap in space: .*Start from the aligned cent"):
        hybridreg.register(*images(head), initial=away)


def test_an_fov_mismatch_is_reported_by_its_overlap_and_never_as_an_error_without_advice(head):
    """The moving image shows one corner of the head, and lies where it belongs."""
    moving = head.pair.moving
    shape = [n // 2 for n in moving.grid.shape]
    corner = Image(
        moving.data[:, : shape[0], : shape[1], : shape[2]], moving.grid.crop([0] * 3, shape)
    )
    outcome = hybridreg.register(head.pair.fixed, corner, Gives(head.true_transform))
    overlap = outcome.similarity[1].overlap
    assert 0.06 < overlap < 0.16  # about an eighth, less what the oblique field of view cuts off
    reasons = " ".join(outcome.verdict.reasons)
    assert outcome.verdict.status == "warn"  # it is where it belongs
    assert (
        f"covers only {overlap:.0%} of the fixed one" in reasons
        and "crop the fixed image" in reasons
    )
    # elastix starts from aligned centers, which lie 60 mm apart here, and cannot recover.
    lost = hybridreg.register(head.pair.fixed, corner, "rigid", threads=1)
    assert lost.verdict.status == "fail"
    assert "crop the larger one to what both show" in " ".join(lost.verdict.reasons)


# folding


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_folding_is_counted_in_every_result(dimension, masked, tmp_path):
    """A field that folds in one half of the image; the mask lies in the other one."""
    case = blobs(dimension=dimension)
    grid = case.pair.fixed.grid
    points = grid.points()
    beside = (points - grid.center)[..., 0]
    vectors = torch.zeros(dimension, *grid.shape)
    vectors[0] = torch.where(beside > 0, 6 * torch.sin(beside), torch.zeros(()).double())
    mask = LabelMap((beside < -4).int(), grid) if masked else None
    outcome = hybridreg.register(
        *images(case), Gives(DisplacementField(vectors, grid)), fixed_mask=mask
    )
    folder = outcome.save(tmp_path / "out")
    result = json.loads((folder / "result.json").read_text())
    scores = result["scores"]["after"]
    assert scores["region"] == ("mask" if masked else "foreground")
    found = scores["jacobian"]
    determinant = read_image(folder / "jacobian.nii.gz").data[0]
    if masked:
        assert found["folding_percent"] == 0 and found["minimum"] == pytest.approx(1)
        assert found["voxels"] == int(mask.data.sum())
        return
    assert found["folding_percent"] > 5
    assert found["minimum"] < 0 < found["p99"] <= found["maximum"] <= determinant.max()
    assert result["verdict"]["status"] == "fail"
    assert "folded: use a coarser control grid" in " ".join(result["verdict"]["reasons"])
    assert "are folded" in (folder / "report.html").read_text()


# DICOM


def test_missing_dicom_slices_are_named_and_refused_or_resampled_when_asked(head, tmp_path):
    slices = stack(9)
    folder = save(slices[:4] + slices[5:], tmp_path / "gap")
    with pytest.raises(
        ValueError, match=r"slices 2\.5 mm apart are missing: 1 between IM\d+ and IM"
    ):
        hybridreg.register(head.pair.fixed, folder)
    call("dicom", folder, "-o", tmp_path / "whole.nii.gz", "--resample", code=0)
    assert read_image(tmp_path / "whole.nii.gz").grid.size[2] == 9


def test_gantry_tilt_is_seen_in_the_positions_and_not_in_the_tag(head, tmp_path):
    tilt = GAP * (AXES[2] + np.tan(np.radians(15)) * AXES[1])
    tilted = stack(9, step=tilt, GantryDetectorTilt=0)
    folder = save(tilted, tmp_path / "tilted")
    with pytest.raises(ValueError, match=r"15\.0 degrees off their normal.*resample=True"):
        hybridreg.register(head.pair.fixed, folder)
    call("dicom", folder, "-o", tmp_path / "upright.nii.gz", "--resample", code=0)
    grid = read_image(tmp_path / "upright.nii.gz").grid
    assert np.allclose(np.array(grid.direction).T, AXES, atol=1e-5)
    read_image(
        save(stack(9, GantryDetectorTilt=15), tmp_path / "right")
    )  # the tag alone is nothing


# processes and folders


def test_a_crash_is_survived_by_the_process_retried_once_and_recorded(head, tmp_path):
    warm = hybridreg.register(*images(head), quick())
    first = process.worker(1).pid

    def kill(fraction, doing):
        if process.worker(1).pid == first:
            os.kill(first, signal.SIGKILL)

    with progress.listening(kill):
        outcome = hybridreg.register(*images(head), quick())
    assert process.worker(1).pid != first
    assert torch.equal(outcome.transform.matrix, warm.transform.matrix)
    folder = outcome.save(tmp_path / "out")
    expected = "elastix crashed (ended by SIGKILL) and was started once more"
    assert json.loads((folder / "result.json").read_text())["warnings"] == [expected]
    assert expected in (folder / "report.html").read_text()


def test_the_current_folder_stays_as_it_was(head, tmp_path, monkeypatch):
    work, files = tmp_path / "work", tmp_path / "files"
    work.mkdir()
    files.mkdir()
    monkeypatch.chdir(work)
    write_image(files / "fixed.nii.gz", head.pair.fixed)
    write_image(files / "moving.nii.gz", head.pair.moving)
    lines = parameter_maps.find("bspline.txt").read_text().replace("500)", "20)")
    own = files / "own.txt"
    own.write_text(
        lines + '\n(WriteResultImage "true")\n(WriteTransformParametersEachIteration "true")\n'
    )
    call("register", "-f", files / "fixed.nii.gz", "-m", files / "moving.nii.gz", "-p", own,
         "-o", files / "out", "--threads", 1, code=0)  # fmt: skip
    call("apply", "-t", files / "out" / "transform.h5", "-f", files / "fixed.nii.gz",
         "-m", files / "moving.nii.gz", "-o", files / "moved.nii.gz", code=0)  # fmt: skip
    assert list(work.iterdir()) == []
    assert {path.name for path in files.iterdir()} == {
        "fixed.nii.gz", "moving.nii.gz", "own.txt", "out", "moved.nii.gz"
    }  # fmt: skip


def teardown_module():
    process.close()
