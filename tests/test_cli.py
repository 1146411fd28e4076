"""The command line, as a person or a script calls it."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hybridreg.cli.app import app
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.io.elastix_files import read_parameter_map, write_parameter_map
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.landmarks import read_landmarks, write_landmarks
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.parameter_folder import parameter_folder
from hybridreg.phantoms import blobs
from hybridreg.transforms import AffineTransform
from hybridreg.warping import warp


def call(*arguments, code: int = 0) -> dict:
    """The JSON answer of a subcommand that must end with this exit code."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    assert "Traceback" not in done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def case():
    return blobs(dimension=3, translation_mm=(3.0, -2.0, 4.0))


@pytest.fixture(scope="module")
def files(case, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_image(folder / "fixed.nii.gz", case.pair.fixed)
    write_image(folder / "moving.mha", case.pair.moving)
    for side, grid in (("fixed", case.pair.fixed.grid), ("moving", case.pair.moving.grid)):
        labels = LabelMap(getattr(case.pair, side).data[0] > 0.5, grid)
        write_image(folder / f"{side}_labels.nii.gz", labels)
        write_landmarks(folder / f"{side}.csv", getattr(case, f"{side}_landmarks"))
    return folder


@pytest.fixture(scope="module")
def registered(files) -> tuple[Path, dict]:
    out = files / "out"
    answer = call(
        "register", "-f", files / "fixed.nii.gz", "-m", files / "moving.mha", "-o", out,
        "--method", "rigid", "--fixed-landmarks", files / "fixed.csv",
        "--moving-landmarks", files / "moving.csv", "--fixed-labels", files / "fixed_labels.nii.gz",
        "--moving-labels", files / "moving_labels.nii.gz", "--json",
    )  # fmt: skip
    return out, answer


def test_register_writes_the_whole_folder_and_says_so_in_json(registered, case):
    out, answer = registered
    names = {path.name for path in out.iterdir()}
    assert names == {
        "moved.nii.gz", "moved_labels.nii.gz", "transform.h5", "inverse.h5", "jacobian.nii.gz",
        "result.json", "views.npz", "log.txt", "report.html",
    }  # fmt: skip
    assert answer["exit_code"] == 0 and answer["folder"] == str(out)
    stored = json.loads((out / "result.json").read_text())
    assert stored["scores"] == answer["scores"] and stored["trace"]
    assert stored["preset"] == "rigid" and "preset rigid" in (out / "report.html").read_text()
    error = answer["scores"]["after"]["landmarks"]["mean_mm"]
    assert error < 0.5 < answer["scores"]["before"]["landmarks"]["mean_mm"]
    transform = read_transform(out / "transform.h5")
    expected = warp(case.pair.moving, transform, onto=case.pair.fixed.grid,
                    default=case.pair.moving.data.min().item())  # fmt: skip
    assert torch.allclose(read_image(out / "moved.nii.gz").data, expected.data, atol=1e-4)


def test_no_name_or_path_of_an_input_reaches_the_results(registered, files):
    out, _ = registered
    for name in ("result.json", "report.html", "log.txt"):
        text = (out / name).read_text()
        assert str(files) not in text and "moving.mha" not in text


def own_file(path: Path, **changes: str) -> Path:
    parameters = read_parameter_map(parameter_folder() / "rigid.txt")
    changed = {name: (value,) for name, value in changes.items()}
    write_parameter_map(path, {**parameters, **changed})
    return path


def test_the_moved_image_is_resampled_as_asked_and_the_result_says_how(files, case, tmp_path):
    quick = own_file(tmp_path / "quick.txt", MaximumNumberOfIterations="5")
    out = tmp_path / "out"
    found = call("register", "-f", files / "fixed.nii.gz", "-m", files / "moving.mha", "-p", quick,
                 "-o", out, "--interpolation", "cubic", "--no-report", "--json")  # fmt: skip
    assert found["interpolation"] == "cubic"
    through = read_transform(out / "transform.h5")
    how = {"onto": case.pair.fixed.grid, "default": case.pair.moving.data.min().item()}
    linear, cubic = (
        warp(case.pair.moving, through, **how, interpolation=i) for i in ("linear", "cubic")
    )
    moved = read_image(out / "moved.nii.gz").data
    assert torch.allclose(moved, cubic.data, atol=1e-4)
    assert not torch.allclose(moved, linear.data, atol=1e-2)


def test_own_elastix_files_run_as_stages_and_typing_errors_are_found_before(files, tmp_path):
    pair = ("register", "-f", files / "fixed.nii.gz", "-m", files / "moving.mha", "--json")
    first = own_file(tmp_path / "a.txt", MaximumNumberOfIterations="30")
    second = own_file(tmp_path / "b.txt", Transform="AffineTransform", NumberOfResolutions="1")
    found = call(*pair, "-p", first, "-p", second, "-o", tmp_path / "out")
    assert found["method"]["schedule"] == "elastix"  # own files mean what they mean to elastix
    assert found["preset"] is None
    trace = json.loads((tmp_path / "out" / "result.json").read_text())["trace"]
    assert [stage for stage, *_ in trace] == ["rigid"] * 120 + ["affine"] * 250
    wrong = own_file(tmp_path / "c.txt", MaximumNumberOfIteration="30")
    error = call(*pair, "-p", wrong, "-o", tmp_path / "none", code=2)["error"]
    assert "c.txt" in error and "'MaximumNumberOfIterations'" in error
    assert not (tmp_path / "none").exists()


def test_names_are_kept_when_asked(files, tmp_path):
    call(
        "register", "-f", files / "fixed.nii.gz", "-m", files / "moving.mha", "-o", tmp_path / "o",
        "--keep-identifiers", "--no-report", "--json",
    )  # fmt: skip
    assert "moving.mha" in (tmp_path / "o" / "result.json").read_text()
    assert not (tmp_path / "o" / "report.html").exists()


def test_apply_resamples_images_and_labels_and_maps_points_both_ways(registered, files, tmp_path):
    out, _ = registered
    t, fixed = out / "transform.h5", files / "fixed.nii.gz"
    call("apply", "-t", t, "-f", fixed, "-m", files / "moving.mha", "-o", tmp_path / "a.nii.gz",
         "--json")  # fmt: skip
    moved = read_image(out / "moved.nii.gz")
    assert torch.allclose(read_image(tmp_path / "a.nii.gz").data, moved.data, atol=1e-4)

    call("apply", "-t", t, "-f", fixed, "-m", files / "moving_labels.nii.gz", "--labels",
         "-o", tmp_path / "l.nii.gz", "--json")  # fmt: skip
    labels = read_labels(tmp_path / "l.nii.gz")
    assert torch.equal(labels.data, read_labels(out / "moved_labels.nii.gz").data)

    call("apply", "-t", t, "--points", files / "fixed.csv", "-o", tmp_path / "p.csv", "--json")
    there = read_landmarks(tmp_path / "p.csv").points
    expected = read_transform(t)(read_landmarks(files / "fixed.csv").points)
    assert torch.allclose(there, expected, atol=1e-6)
    call("apply", "-t", t, "--points", tmp_path / "p.csv", "--inverse", "-o", tmp_path / "b.csv",
         "--json")  # fmt: skip
    back = read_landmarks(tmp_path / "b.csv").points
    assert torch.allclose(back, read_landmarks(files / "fixed.csv").points, atol=1e-3)

    call("apply", "-t", t, "--inverse", "-f", files / "moving.mha", "-m", fixed,
         "-o", tmp_path / "i.nii.gz", "--interpolation", "cubic", "--json")  # fmt: skip
    inverse = read_transform(t).inverse()
    source, grid = read_image(fixed), read_image(files / "moving.mha").grid
    expected = warp(source, inverse, onto=grid, interpolation="cubic")
    assert torch.allclose(read_image(tmp_path / "i.nii.gz").data, expected.data, atol=1e-4)


def test_apply_shows_air_where_a_ct_does_not_reach_unless_another_value_is_given(files, tmp_path):
    grid = Grid((6, 7, 8), (2.0, 2.0, 2.0))
    ct = Image(torch.linspace(-1000, 1500, 336).reshape(grid.shape), grid, "int16")
    write_image(tmp_path / "ct.nii.gz", ct)
    labels = LabelMap(torch.arange(7, 343).reshape(grid.shape), grid)
    write_image(tmp_path / "labels.nii.gz", labels)
    write_transform(tmp_path / "t.tfm", AffineTransform.from_parts(torch.eye(3), [6.0, 0, 0]))
    for name, more, outside in (
        ("ct", (), -1000),
        ("ct", ("--interpolation", "cubic"), -1000),
        ("ct", ("--default-value", "25"), 25),
        ("labels", ("--labels",), 0),
        ("labels", ("--labels", "--default-value", "3"), 3),
    ):
        call("apply", "-t", tmp_path / "t.tfm", "-f", tmp_path / "ct.nii.gz", "-m",
             tmp_path / f"{name}.nii.gz", "-o", tmp_path / "o.nii.gz", "--overwrite", *more,
             "--json")  # fmt: skip
        found = read_image(tmp_path / "o.nii.gz").data[0]
        source = ct.data[0] if name == "ct" else labels.data.float()
        assert (found[..., 5:] == outside).all()  # 6 mm of 2 mm voxels
        assert torch.allclose(found[..., :5], source[..., 3:].round(), atol=1)


def test_several_transforms_compose_with_the_last_acting_first(files, tmp_path):
    a = AffineTransform.from_parts(torch.diag(torch.tensor([2.0, 1, 1])), [0.0, 0, 0])
    b = AffineTransform.from_parts(torch.eye(3), [5.0, 0, 0])
    write_transform(tmp_path / "a.tfm", a)
    write_transform(tmp_path / "b.tfm", b)
    write_landmarks(tmp_path / "p.csv", LandmarkSet(torch.tensor([[1.0, 2, 3]])))
    call("apply", "-t", tmp_path / "a.tfm", "-t", tmp_path / "b.tfm", "--points",
         tmp_path / "p.csv", "-o", tmp_path / "q.csv", "--json")  # fmt: skip
    assert read_landmarks(tmp_path / "q.csv").points.tolist() == [[12.0, 2.0, 3.0]]


def test_apply_places_voxel_indices_by_the_image_that_they_lie_in(files, case, tmp_path):
    shift = AffineTransform.from_parts(torch.eye(3), [5.0, 0, -2])
    write_transform(tmp_path / "t.tfm", shift)
    (tmp_path / "p.txt").write_text("index\n2\n0 0 0\n3 5 7\n")
    ask = ("apply", "-t", tmp_path / "t.tfm", "--points", tmp_path / "p.txt", "--json")
    assert "(`hybridreg apply -f`)" in call(*ask, "-o", tmp_path / "q.csv", code=2)["error"]
    call(*ask, "-f", files / "fixed.nii.gz", "-o", tmp_path / "q.csv")
    grid = read_image(files / "fixed.nii.gz").grid
    expected = shift(grid.points()[(0, 7), (0, 5), (0, 3)])
    assert torch.allclose(read_landmarks(tmp_path / "q.csv").points, expected, atol=1e-9)


def test_apply_writes_points_as_the_ending_says_and_refuses_other_endings(files, tmp_path):
    write_transform(tmp_path / "t.tfm", AffineTransform.from_parts(torch.eye(3), [5.0, 0, 0]))
    ask = ("apply", "-t", tmp_path / "t.tfm", "--points", files / "fixed.csv", "--json")
    call(*ask, "-o", tmp_path / "q.mrk.json")
    moved = json.loads((tmp_path / "q.mrk.json").read_text())["markups"][0]["controlPoints"]
    before = read_landmarks(files / "fixed.csv").points
    found = torch.tensor([point["position"] for point in moved], dtype=torch.float64)
    assert torch.allclose(found, before + torch.tensor([5.0, 0, 0]), atol=1e-9)
    assert "points are written as" in call(*ask, "-o", tmp_path / "q.nii.gz", code=2)["error"]


def test_evaluate_finds_the_scores_that_register_found(registered, files):
    out, answer = registered
    inputs = (
        "-f", files / "fixed.nii.gz", "-m", files / "moving.mha",
        "--fixed-landmarks", files / "fixed.csv", "--moving-landmarks", files / "moving.csv",
        "--fixed-labels", files / "fixed_labels.nii.gz",
        "--moving-labels", files / "moving_labels.nii.gz", "--json",
    )  # fmt: skip
    for what in (out, out / "transform.h5"):
        found = call("evaluate", what, *inputs)
        for kind in ("landmarks", "dice"):
            assert found["after"][kind] == pytest.approx(answer["scores"]["after"][kind])


def test_exchanged_images_are_reported_by_their_hashes(registered, files, tmp_path):
    out, _ = registered
    fixed, moving = files / "fixed.nii.gz", files / "moving.mha"
    for what in (out, out / "transform.h5"):
        error = call("evaluate", what, "-f", moving, "-m", fixed, "--json", code=2)["error"]
        assert "fixed image given is the moving image of this registration" in error
    (tmp_path / "t.csv").write_text(f"name,fixed,moving\n{out.name},{moving},{fixed}\n")
    table = call("evaluate", tmp_path / "t.csv", "--results", out.parent, "--json", code=1)
    assert "exchanged" in table["failures"][out.name]
    apply = ("apply", "-t", out / "transform.h5", "-o", tmp_path / "a.nii", "--json")
    error = call(*apply, "-f", moving, "-m", fixed, code=2)["error"]
    assert "is the fixed image of this registration" in error and "give --inverse" in error
    error = call(*apply, "-f", fixed, "-m", moving, "--inverse", code=2)["error"]
    assert "is the moving image of this registration" in error and "leave out --inverse" in error
    assert not (tmp_path / "a.nii").exists()
    write_image(tmp_path / "copy.nii", read_image(moving))  # another file says nothing
    call("evaluate", out, "-f", fixed, "-m", tmp_path / "copy.nii", "--json")


def test_evaluate_reads_a_table_and_says_which_cases_failed(registered, files):
    table = files / "cases.csv"
    table.write_text(
        "name,fixed,moving,fixed_landmarks,moving_landmarks\n"
        "out,fixed.nii.gz,moving.mha,fixed.csv,moving.csv\n"
        "gone,fixed.nii.gz,moving.mha,fixed.csv,moving.csv\n"
    )
    found = call("evaluate", table, "--results", files, "--json", code=4)
    assert set(found["cases"]) == {"out"} and set(found["failures"]) == {"gone"}


def test_info_describes_images_transforms_methods_and_results(registered, files):
    out, _ = registered
    grid = read_image(files / "fixed.nii.gz").grid
    assert call("info", files / "fixed.nii.gz", "--json")["size"] == list(grid.size)
    assert call("info", out / "transform.h5", "--json")["parts"][0]["kind"] == "rigid"
    assert call("info", out, "--json")["method"]["name"] == "clipped"
    call("info", files / "none.nii.gz", "--json", code=2)


def test_report_is_built_again_from_the_folder(registered):
    out, _ = registered
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    call("report", out, "--json")
    assert (out / "report.html").read_bytes() == before
    call("report", out.parent, "--json", code=2)


def test_dicom_lists_and_converts_series(data, tmp_path):
    folder = data / "mr_multiseq_pgbm003_dicom"
    listed = call("dicom", folder, "--list", "--json")["series"]
    assert len(listed) == 4 and not any(one["problem"] for one in listed)
    assert call("info", folder, "--json")["series"] == listed
    call("dicom", folder, "-o", tmp_path / "a.nii.gz", "--json", code=2)  # which of the four?
    call("dicom", folder, "-o", tmp_path / "a.nii.gz", "--series", listed[0]["id"], "--json")
    assert read_image(tmp_path / "a.nii.gz").grid.size == (280, 320, 22)
    assert read_image(tmp_path / "a.nii.gz").grid.spacing[2] == pytest.approx(6.5, abs=1e-3)

    tilted = data / "dicom_ct_head_ge_tilt"
    assert (
        "--resample" in call("dicom", tilted, "-o", tmp_path / "b.mha", "--json", code=2)["error"]
    )
    call("dicom", tilted, "-o", tmp_path / "b.mha", "--resample", "--json")
    assert -1100 < read_image(tmp_path / "b.mha").data.min() < -1000


def test_a_dicom_folder_is_taken_wherever_an_image_is(data, tmp_path):
    folder = data / "ibsi2_orientation_dicom"
    call("apply", "-t", shifted(tmp_path), "-f", folder, "-m", folder, "-o", tmp_path / "a.nii.gz",
         "--json")  # fmt: skip
    assert read_image(tmp_path / "a.nii.gz").grid.matches(read_image(folder).grid)


def shifted(folder: Path) -> Path:
    write_transform(folder / "t.tfm", AffineTransform.from_parts(torch.eye(3), [5.0, 0, 0]))
    return folder / "t.tfm"


def test_methods_lists_presets_and_methods():
    found = call("methods", "--json")
    assert {"rigid", "affine", "bspline"} <= set(found["presets"])
    assert {"elastix", "chain"} <= set(found["methods"])


def sound(folder: Path, name: str) -> Path:
    path = folder / name
    write_image(path, blobs(dimension=3, translation_mm=(1.0, 1.0, 1.0)).pair.fixed)
    return path


def spoiled(folder: Path, change) -> Path:
    path = folder / "spoiled.nii.gz"
    write_image(path, change(blobs(dimension=3, translation_mm=(1.0, 1.0, 1.0)).pair.fixed))
    return path


def rescaled(image: Image, factor: float) -> Image:
    spacing = [s * factor for s in image.grid.spacing]
    return replace(image, grid=replace(image.grid, spacing=tuple(spacing)))


def one_slice(image: Image) -> Image:
    return Image(image.data[:, :1], image.grid.crop((0, 0, 0), (1, *image.grid.shape[1:])))


def four_dimensional(folder: Path) -> Path:
    path = folder / "4d.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.rand(9, 8, 7, 5).astype("f4"), np.eye(4)), path)
    return path


def truncated(folder: Path) -> Path:
    path = sound(folder, "cut.nii.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def truncated_inside(folder: Path) -> Path:
    whole = gzip.decompress(sound(folder, "whole.nii.gz").read_bytes())
    path = folder / "short.nii.gz"
    path.write_bytes(gzip.compress(whole[: len(whole) // 2]))
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.nii.gz"
    path.write_bytes(b"")
    return path


BAD_INPUTS = {
    "missing": (lambda f: f / "nothing.nii.gz", "no such file"),
    "empty": (empty, "empty"),
    "truncated gzip": (truncated, "ends too early"),
    "truncated data": (truncated_inside, "ends too early"),
    "nan": (
        lambda f: spoiled(f, lambda i: replace(i, data=i.data * torch.nan, dtype="float32")),
        "NaN",
    ),
    "constant": (lambda f: spoiled(f, lambda i: replace(i, data=i.data * 0 + 7)), "constant"),
    "one slice": (lambda f: spoiled(f, one_slice), "2D image"),
    "4D": (four_dimensional, "frame"),
    "micrometers": (lambda f: spoiled(f, lambda i: rescaled(i, 1000.0)), "mm"),
    "meters": (lambda f: spoiled(f, lambda i: rescaled(i, 0.001)), "mm"),
    "folder": (lambda f: f, "folder"),
}


@pytest.mark.parametrize("side", ["fixed", "moving"])
@pytest.mark.parametrize("what", BAD_INPUTS)
def test_bad_input_is_refused_in_words_and_leaves_nothing_behind(what, side, tmp_path, monkeypatch):
    def no_work(*_):
        raise AssertionError("the work was started")

    monkeypatch.setattr("hybridreg.methods.elastix.Elastix.register", no_work)
    make, says = BAD_INPUTS[what]
    good = sound(tmp_path, "good.nii.gz")
    paths = {"fixed": good, "moving": good, side: make(tmp_path)}
    before = set(tmp_path.iterdir())
    answer = call("register", "-f", paths["fixed"], "-m", paths["moving"],
                  "-o", tmp_path / "out", "--json", code=2)  # fmt: skip
    assert re.search(says, answer["error"]), answer["error"]
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--method", "rigit"), "did you mean"),
        (("--method", "rigid", "-p", "a.txt"), "not both"),
        (("-p", "nothing.txt"), "nothing.txt"),
        (("--device", "abacus"), "--device"),
        (("--initial", "nothing.tfm"), "nothing.tfm"),
        (("--fixed-mask", "nothing.nii.gz"), "nothing.nii.gz"),
    ],
)
def test_wrong_usage_is_answered_with_the_right_one(arguments, says, tmp_path):
    good = sound(tmp_path, "good.nii.gz")
    answer = call("register", "-f", good, "-m", good, "-o", tmp_path / "out", *arguments, "--json",
                  code=2)  # fmt: skip
    assert says in answer["error"]
    assert not (tmp_path / "out").exists()


def test_one_image_of_a_time_series_is_registered_when_it_is_named(files, tmp_path):
    """As frame 2 of 4 stands the fixed image itself, so its shift to the moving one is found."""
    image = nibabel.load(files / "fixed.nii.gz")
    still = np.zeros((*image.shape, 4), "f4")
    still[..., 2] = image.get_fdata()
    nibabel.save(nibabel.Nifti1Image(still, image.affine), tmp_path / "series.nii.gz")
    out = tmp_path / "out"
    answer = call(
        "register", "-f", tmp_path / "series.nii.gz", "--fixed-frame", 2, "-m",
        files / "moving.mha", "-o", out, "--method", "rigid", "--no-report", "--json",
    )  # fmt: skip
    assert answer["inputs"]["fixed"]["frame"] == 2 and "frame" not in answer["inputs"]["moving"]
    assert answer["transform"]["translation_mm"] == pytest.approx([3.0, -2.0, 4.0], abs=0.3)
    call("apply", "-t", out / "transform.h5", "-f", tmp_path / "series.nii.gz", "--fixed-frame", 0,
         "-m", files / "moving.mha", "-o", tmp_path / "moved.nii.gz", "--default-value",
         read_image(files / "moving.mha").data.min().item(), "--json")  # fmt: skip
    moved, again = (read_image(f / "moved.nii.gz").data for f in (out, tmp_path))
    assert torch.allclose(moved, again, atol=1e-4)
    answer = call("register", "-f", tmp_path / "series.nii.gz", "--fixed-frame", 4, "-m",
                  files / "moving.mha", "-o", tmp_path / "none", "--json", code=2)  # fmt: skip
    assert "no frame 4: it holds 4" in answer["error"]


@pytest.mark.parametrize(("option", "default"), [("--method", "rigid"), ("--threads", "all")])
def test_help_tells_what_is_done_where_nothing_is_asked(option, default):
    done = CliRunner().invoke(app, ["register", "--help"], env={"COLUMNS": "300"})
    (line,) = [line for line in done.output.splitlines() if f"{option} " in line]
    assert re.search(rf"default: \(?{default}\b", line)


def test_an_output_that_exists_is_refused_before_the_images_are_read(registered, files, tmp_path):
    out, _ = registered
    answer = call("register", "-f", tmp_path / "none", "-m", tmp_path / "none", "-o", out, "--json",
                  code=2)  # fmt: skip
    assert "--overwrite" in answer["error"]


def test_a_method_that_fails_gives_exit_code_1_and_no_folder(files, tmp_path, monkeypatch):
    from hybridreg.methods.base import RegistrationError

    def fails(*_):
        raise RegistrationError("too many samples outside; give a mask")

    monkeypatch.setattr("hybridreg.methods.elastix.Elastix.register", fails)
    answer = call("register", "-f", files / "fixed.nii.gz", "-m", files / "moving.mha",
                  "-o", tmp_path / "out", "--json", code=1)  # fmt: skip
    assert "too many samples" in answer["error"] and not (tmp_path / "out").exists()


def test_two_dimensional_pictures_go_all_the_way(tmp_path):
    case = blobs(dimension=2, translation_mm=(3.0, -2.0))
    for side in ("fixed", "moving"):
        data = getattr(case.pair, side).data[0]
        data = (data - data.min()) / (data.max() - data.min()) * 255
        picture = Image(data, Grid(data.shape), dtype="uint8")
        write_image(tmp_path / f"{side}.png", picture)
    answer = call("register", "-f", tmp_path / "fixed.png", "-m", tmp_path / "moving.png",
                  "-o", tmp_path / "out", "--method", "affine", "--json")  # fmt: skip
    similarity = answer["similarity"]
    assert similarity["after"]["correlation"] > similarity["before"]["correlation"] + 0.05
