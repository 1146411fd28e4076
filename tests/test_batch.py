"""Many cases by one command: a folder each, a table over all, and nothing done twice."""

import csv
import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from test_cli import call, own_file

from hybridreg.batch import Order, register_table
from hybridreg.cli.cases import bytes_of
from hybridreg.cluster import Ended
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, write_image
from hybridreg.io.landmarks import write_landmarks
from hybridreg.io.tables import CaseRow, pairs_of_folder, read_case_table, without_files
from hybridreg.io.target_store import TargetStore
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.phantoms import blobs
from hybridreg.transforms import AffineTransform


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    """Three shifted pairs, one with landmarks, and one whose moving image is constant."""
    folder = tmp_path_factory.mktemp("cases")
    lines = ["name,subject,fixed,moving,fixed_landmarks,moving_landmarks,age"]
    for number, shift in enumerate([(3.0, -2.0), (1.0, 4.0), (-2.0, 2.0)]):
        case = blobs(dimension=2, translation_mm=shift)
        for side in ("fixed", "moving"):
            write_image(folder / f"{side}{number}.nii", getattr(case.pair, side))
            write_landmarks(folder / f"{side}{number}.csv", getattr(case, f"{side}_landmarks"))
        points = f"fixed{number}.csv,moving{number}.csv" if number == 0 else ","
        images = f"fixed{number}.nii,moving{number}.nii"
        lines.append(f"case {number},S{number},{images},{points},6{number}")
    grid = case.pair.moving.grid
    write_image(folder / "constant.nii", Image(torch.ones(grid.shape), grid))
    lines.insert(2, "empty,S9,fixed0.nii,constant.nii,,,")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """An elastix file that takes little time."""
    path = tmp_path_factory.mktemp("method") / "quick.txt"
    return own_file(path, MaximumNumberOfIterations="60", NumberOfResolutions="2")


@pytest.fixture
def in_turn(monkeypatch):
    """Runs the cases here, one after another: what starts for a cluster is tested elsewhere."""

    def run(function, cases, *, place, limits, callback):
        ends = []
        for name, case in cases.items():
            try:
                ends.append(Ended(name, function(name, case), seconds=0.1))
            except ValueError as error:
                ends.append(Ended(name, reason=str(error)))
            callback(ends[-1])
        return ends

    monkeypatch.setattr("hybridreg.batch.run", run)
    monkeypatch.setattr("hybridreg.targets.making.run", run)


@pytest.fixture(scope="module")
def registered(cases, quick) -> tuple[Path, dict]:
    out = cases / "out"
    answer = call("register", cases / "cases.csv", "-p", quick, "-o", out, "--workers", 1,
                  "--no-report", "--json", code=4)  # fmt: skip
    return out, answer


def test_every_case_has_its_folder_and_the_table_tells_of_all(registered, cases):
    out, answer = registered
    assert (answer["cases"], answer["done"], answer["skipped"]) == (4, 3, 0)
    assert "constant" in answer["failures"]["empty"] and not (out / "empty").exists()
    rows = list(csv.DictReader((out / "records.csv").open()))
    assert [row["name"] for row in rows] == ["case 0", "empty", "case 1", "case 2"]
    assert [row["status"] for row in rows] == ["done", "failed", "done", "done"]
    assert rows[1]["reason"] == answer["failures"]["empty"] and rows[1]["subject"] == "S9"
    assert [row["age"] for row in rows] == ["60", "", "61", "62"]
    assert answer["records"][0]["age"] == "60"
    assert float(rows[0]["tre_mean_mm"]) < 0.5 and rows[2]["tre_mean_mm"] == ""
    assert json.loads((out / "records.json").read_text())["records"] == answer["records"]
    for name in ("case 0", "case 1", "case 2"):
        result = json.loads((out / name / "result.json").read_text())
        assert result["method"]["schedule"] == "elastix"


def test_finished_cases_are_not_done_again(registered, cases, quick, in_turn):
    out, _ = registered
    before = {p: p.stat().st_mtime_ns for p in out.glob("case*/*")}
    again = call("register", cases / "cases.csv", "-p", quick, "-o", out, "--workers", 1,
                 "--no-report", "--json", code=4)  # fmt: skip
    assert (again["done"], again["skipped"], list(again["failures"])) == (0, 3, ["empty"])
    assert {p: p.stat().st_mtime_ns for p in out.glob("case*/*")} == before


def replace_content(path: Path, content: bytes):
    """Another content of the same length, at the same time."""
    before = path.stat()
    assert len(content) == before.st_size and content != path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def own(cases, quick, in_turn, tmp_path):
    """A folder with two cases, one with all inputs there are, and what registers them."""
    for file in (*cases.glob("*.nii"), *cases.glob("*0.csv"), quick):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for side in ("fixed", "moving"):
        grid = read_image(tmp_path / f"{side}0.nii").grid
        write_image(tmp_path / f"{side}_all.nii", LabelMap(torch.ones(grid.shape), grid))
    write_transform(tmp_path / "t.tfm", AffineTransform.from_parts(torch.eye(2), [0.5, 0.0]))
    one = {"name": "one", "fixed": "fixed0.nii", "moving": "moving0.nii", "initial": "t.tfm"}
    for name in ("points", "landmarks"):
        one |= {f"{side}_{name}": f"{side}0.csv" for side in ("fixed", "moving")}
    for name in ("labels", "mask"):
        one |= {f"{side}_{name}": f"{side}_all.nii" for side in ("fixed", "moving")}
    two = {"name": "two", "fixed": "fixed1.nii", "moving": "moving1.nii"}
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(one))
        table.writeheader()
        table.writerows([one, two])

    def register(code: int = 0) -> dict:
        return call(
            "register", tmp_path / "cases.csv", "-p", tmp_path / quick.name, "-o", tmp_path / "out",
            "--workers", 1, "--no-report", "--json", code=code,
        )  # fmt: skip

    return tmp_path, register


def test_a_case_whose_image_was_replaced_is_registered_again_and_that_is_said(own, caplog):
    folder, register = own
    register()
    again = register()
    assert (again["done"], again["skipped"], again["changed"]) == (0, 2, [])
    kept = {p: p.stat().st_mtime_ns for p in folder.glob("out/one/*")}
    replace_content(folder / "fixed1.nii", (folder / "fixed2.nii").read_bytes())
    again = register()
    assert (again["done"], again["skipped"], again["changed"]) == (1, 1, ["two"])
    assert "1 finished case(s) have changed (two: fixed)" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in folder.glob("out/one/*")} == kept
    truth = blobs(dimension=2, translation_mm=(-2.0, 2.0)).true_transform
    center = read_image(folder / "fixed1.nii").grid.center
    found = read_transform(folder / "out" / "two" / "transform.h5")
    assert torch.allclose(found(center), truth(center), atol=0.3)
    assert register()["changed"] == []


def test_an_old_result_is_not_taken_for_one_of_the_new_inputs_that_failed(own):
    folder, register = own
    register()
    replace_content(folder / "moving1.nii", (folder / "constant.nii").read_bytes())
    for _ in range(2):
        answer = register(code=4)
        assert answer["changed"] == ["two"] and "constant" in answer["failures"]["two"]
        assert [record["status"] for record in answer["records"]] == ["done", "failed"]
    assert (folder / "out" / "two" / "result.json").is_file()


def test_every_input_of_a_case_is_compared_and_so_are_missing_and_new_ones(own, monkeypatch):
    folder, register = own
    answer = register()
    assert answer["done"] == 2
    (row, two), order = read_case_table(folder / "cases.csv"), Order("rigid")
    seen = []
    monkeypatch.setattr("hybridreg.batch._begin", lambda *_: None)
    monkeypatch.setattr("hybridreg.batch.run", lambda _, todo, **__: seen.append(set(todo)))
    for column in (f.name for f in fields(row) if isinstance(getattr(row, f.name), Path)):
        other = folder / f"other_{column}"
        other.write_bytes(getattr(row, column).read_bytes() + b" ")
        batch = register_table([replace(row, **{column: other}), two], folder / "out", order)
        assert batch.changed == ("one",) and batch.skipped == ("two",) and seen[-1] == {"one"}
        assert batch.records[0].status == "missing"
    assert register_table([row, two], folder / "out", order).changed == ()
    for changed in (replace(row, initial=None), replace(row, fixed_mask=None)):
        assert register_table([changed], folder / "out", order).changed == ("one",)
    more = replace(two, fixed_mask=row.fixed_mask)
    assert register_table([row, more], folder / "out", order).changed == ("two",)


def test_a_parameter_file_that_changed_is_another_method(own):
    folder, register = own
    register()
    text = (folder / "quick.txt").read_bytes()
    replace_content(folder / "quick.txt", text.replace(b"60", b"61"))
    assert "started with other settings (files: " in register(code=2)["error"]


@pytest.mark.parametrize("column", ["status", "dice", "reason"])
def test_a_column_that_the_records_have_already_is_refused(column, cases, quick, tmp_path):
    text = (cases / "cases.csv").read_text().replace("age", column, 1)
    (cases / "other.csv").write_text(text)
    out = tmp_path / "out"
    answer = call("register", cases / "other.csv", "-p", quick, "-o", out, "--json", code=2)
    assert f"the records have columns {column} already" in answer["error"] and not out.exists()


def test_a_folder_that_was_started_otherwise_is_refused(registered, cases, tmp_path):
    out, _ = registered
    table = ("register", cases / "cases.csv", "--json")
    assert "started with other settings (method: " in call(*table, "-o", out, code=2)["error"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "not written by hybridreg" in call(*table, "-o", tmp_path / "other", code=2)["error"]
    assert "this is a file" in call(*table, "-o", tmp_path / "other" / "file", code=2)["error"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fixed-mask", "m.nii", "-f", "a.nii"], "--fixed, --fixed-mask cannot be given with"),
        (["--pairs-of", "."], "either a table of cases (CSV) or a folder"),
        (["--workers", "2", "--scheduler", "tcp://a:1"], "exclude each other: give one"),
        (["--slurm", "none.toml"], "there is no Slurm file none.toml"),
        (["--case-memory", "much"], "given as 500MB or 4GB; found 'much'"),
        (["--case-time", "long"], "a time is given as"),
        (["--method", "nothing"], "nothing"),
    ],
)
def test_mistakes_are_said_before_any_work(options, words, cases, tmp_path):
    error = call("register", cases / "cases.csv", "-o", tmp_path / "o", "--json", *options, code=2)
    assert words in error["error"] and not (tmp_path / "o").exists()


def test_neither_images_nor_a_table_is_wrong_usage(tmp_path):
    error = call("register", "-o", tmp_path / "o", "--json", code=2)["error"]
    assert error == "give two images with -f and -m, or a table of cases (CSV)"


def test_an_unreachable_scheduler_is_said(cases, tmp_path, monkeypatch):
    monkeypatch.setattr("hybridreg.cluster.places._ANSWER_S", 0.5)
    error = call("register", cases / "cases.csv", "-o", tmp_path / "o", "--json",
                 "--scheduler", "tcp://127.0.0.1:9", code=1)["error"]  # fmt: skip
    assert error.startswith("no Dask scheduler answers at tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("text", "count"), [("500MB", 5e8), ("4GB", 4e9), ("1.5 tb", 1.5e12), ("3GiB", 3 * 2**30)]
)
def test_amounts_of_memory_are_read(text, count):
    assert bytes_of(text) == count


def test_all_ordered_pairs_of_a_folder(tmp_path):
    for name in ("b.nii.gz", "a.mha", "c.nii"):
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "notes.txt").touch()
    rows = pairs_of_folder(tmp_path)
    assert [row.name for row in rows] == ["a-b", "a-c", "b-a", "b-c", "c-a", "c-b"]
    assert rows[0].fixed == tmp_path / "a.mha" and rows[0].moving == tmp_path / "b.nii.gz"
    (tmp_path / "a.nii").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"a.mha and a.nii have one name"):
        pairs_of_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least two images, found 0"):
        pairs_of_folder(tmp_path / "empty")
    with pytest.raises(ValueError, match="no such folder"):
        pairs_of_folder(tmp_path / "none")


def test_targets_of_all_pairs_of_a_folder(cases, in_turn, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("fixed0.nii", "moving0.nii"):
        (tmp_path / "images" / name).write_bytes((cases / name).read_bytes())
    make = ("targets", "--pairs-of", tmp_path / "images", "-o", tmp_path / "t.zarr", "--kind",
            "known", "--amplitude", 3, "--workers", 1, "--json")  # fmt: skip
    answer = call(*make)
    assert answer["verdicts"] == {"pass": 2, "warn": 0, "fail": 0} and answer["done"] == 2
    store = TargetStore.open(tmp_path / "t.zarr")
    assert store.finished() == ["fixed0-moving0", "moving0-fixed0"]
    assert store.settings["amplitude_mm"] == 3.0
    log = [json.loads(line) for line in (tmp_path / "t.zarr.log.jsonl").read_text().splitlines()]
    assert sorted(line["case"] for line in log) == store.finished() and log[0]["seconds"] > 0
    again = call(*make)
    assert (again["done"], again["skipped"]) == (0, 2)
    assert "seed: 0 then, 1 now" in call(*make, "--seed", 1, code=2)["error"]
    assert "there is no kind" in call(*make, "--kind", "what", code=2)["error"]
    assert "have no method" in call(*make, "--method", "rigid", code=2)["error"]


def test_targets_of_replaced_images_are_made_again_and_the_store_is_as_if_new(
    cases, in_turn, tmp_path, caplog
):
    def make(name: str) -> dict:
        return call("targets", tmp_path / "table.csv", "-o", tmp_path / name, "--kind", "known",
                    "--amplitude", 3, "--workers", 1, "--json")  # fmt: skip

    def content(name: str) -> dict[str, bytes]:
        store = tmp_path / name
        return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}

    for name in ("fixed0.nii", "moving0.nii", "moving1.nii"):
        (tmp_path / name).write_bytes((cases / name).read_bytes())
    rows = "one,fixed0.nii,moving0.nii\ntwo,fixed0.nii,moving1.nii\n"
    (tmp_path / "table.csv").write_text(f"name,fixed,moving\n{rows}")
    assert make("t.zarr")["changed"] == []
    raw = (tmp_path / "moving1.nii").read_bytes()
    replace_content(tmp_path / "moving1.nii", raw[:-4000] + raw[-2000:] + raw[-4000:-2000])
    again = make("t.zarr")
    assert (again["done"], again["skipped"], again["changed"]) == (1, 1, ["two"])
    assert "(two: moving)" in caplog.text
    make("new.zarr")
    assert content("t.zarr") == content("new.zarr")
    assert make("t.zarr")["changed"] == []


@pytest.fixture
def unreadable(cases, tmp_path) -> Path:
    """A table of one case whose moving file, named after a person, is no image."""
    (tmp_path / "DOE^JANE.nii").write_bytes(b"no image" * 100)
    table = tmp_path / "table.csv"
    table.write_text(f"name,fixed,moving\none,{cases / 'fixed0.nii'},DOE^JANE.nii\n")
    return table


@pytest.mark.parametrize("kept", [False, True])
def test_names_of_files_reach_the_records_only_when_asked(kept, unreadable, in_turn, tmp_path):
    out, more = tmp_path / "out", ["--keep-identifiers"] * kept
    call("register", unreadable, "-o", out, "--workers", 1, "--json", *more, code=1)
    reason = json.loads((out / "records.json").read_text())["records"][0]["reason"]
    assert ("DOE^JANE" in reason) == kept and "not a NIfTI file" in reason
    assert kept or (reason.startswith("moving: ") and str(tmp_path) not in reason)


def test_names_of_files_do_not_reach_the_log_of_targets(unreadable, in_turn, tmp_path):
    store = tmp_path / "t.zarr"
    call("targets", unreadable, "-o", store, "--kind", "known", "--workers", 1, "--json", code=1)
    line = json.loads((tmp_path / "t.zarr.log.jsonl").read_text())
    assert line["reason"].startswith("moving: this is not a NIfTI file")
    assert "DOE" not in json.dumps(line)


def test_what_lies_in_a_folder_of_a_case_goes_by_the_name_of_its_column():
    row = CaseRow("one", Path("/a/scan"), Path("/a/scan.nii"))
    text = "/a/scan/IM1.dcm: damaged; '/a/scan.nii' too, but not /a/other"
    assert without_files(text, row) == "fixed: damaged; 'moving' too, but not /a/other"


def test_field_targets_of_a_table_tell_which_cases_failed(cases, quick, in_turn, tmp_path):
    (tmp_path / "m.toml").write_text(
        f'name = "elastix"\nparameter_files = ["{quick}"]\nschedule = "elastix"\n'
    )
    answer = call("targets", cases / "cases.csv", "-o", tmp_path / "t.zarr", "--kind", "field",
                  "--method", tmp_path / "m.toml", "--workers", 1, "--json", code=4)  # fmt: skip
    assert list(answer["failures"]) == ["empty"] and answer["done"] == 3
    store = TargetStore.open(tmp_path / "t.zarr")
    assert store.finished() == ["case 0", "case 1", "case 2"]
    case = store.read("case 0")
    truth, center = blobs(dimension=2, translation_mm=(3.0, -2.0)).true_transform, case.grid.center
    assert torch.allclose(case.affine(center), truth(center), atol=0.5)
    assert store.array("case 0", "displacement").norm(dim=0).max() < 1e-3  # all of it is affine
