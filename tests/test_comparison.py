"""Methods on the same cases: every case and method has a record, and nothing is done twice."""

import csv
import json
import os
import re
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch

from hybridreg.cases import ImagePair
from hybridreg.cluster import Ended, Limits, Local
from hybridreg.comparison import Settings, compare
from hybridreg.comparison.entries import folder_of, read_entry
from hybridreg.comparison.results import read_comparison, write_page
from hybridreg.comparison.starts import TOLERANCE_MM, capture_mm, perturbation
from hybridreg.comparison.tables import latex, markdown
from hybridreg.comparison.words import sentences
from hybridreg.evaluation import non_diffeomorphic_percent
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, write_image
from hybridreg.io.tables import read_case_table
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.phantoms import blobs
from hybridreg.records import read_records
from hybridreg.transforms import IDENTITY, AffineTransform, DisplacementField

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # children do not find this folder

RIGID = {"name": "linear", "transform": "rigid"}
STILL = {"name": "identity"}
METHODS = {"rigid": RIGID, "affine": {"name": "linear", "transform": "affine"}}


@dataclass(frozen=True)
class Shift:
    """Moves everything, unless the fixed image has a spot for which it is told to go wrong."""

    by_mm: float = 1.0
    wrong: str = ""

    def register(self, pair: ImagePair, initial=IDENTITY) -> RegistrationResult:
        if pair.fixed.data[0, 0, 0] == 7:
            if self.wrong == "raise":
                raise ValueError("there is a spot")
            if self.wrong == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
        unit = torch.eye(pair.dimension, dtype=torch.float64)
        return RegistrationResult(AffineTransform.from_parts(unit, [self.by_mm] * pair.dimension))


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    """Three shifted pairs with labels, of two persons; the second has a spot in a corner."""
    folder = tmp_path_factory.mktemp("compared")
    lines = ["name,subject,fixed,moving,fixed_labels,moving_labels,site"]
    for number, shift in enumerate([(3.0, -2.0), (1.0, 4.0), (-2.0, 2.0)]):
        pair = blobs(dimension=2, translation_mm=shift).pair
        cells = []
        for side in ("fixed", "moving"):
            image = getattr(pair, side)
            labels = LabelMap((image.data[0] > 0.5).int() + (image.data[0] > 1).int(), image.grid)
            data = image.data.clone()
            data[0, 0, 0] = 7 if number == 1 and side == "fixed" else data[0, 0, 0]
            write_image(folder / f"{side}{number}.nii", Image(data, image.grid))
            write_image(folder / f"{side}_labels{number}.nii", labels)
            cells += [f"{side}{number}.nii", f"{side}_labels{number}.nii"]
        person = "AAB"[number]
        lines.append(",".join([f"case {number}", person, *cells[::2], *cells[1::2], "north"]))
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def in_turn(monkeypatch):
    """Runs the jobs here, one after another, and lists them; the page has no plots.

    The cluster and the plots are tested elsewhere.
    """
    done = []

    def run(function, jobs, *, place, limits, callback):
        for name, job in jobs.items():
            done.append(name)
            try:
                end = Ended(name, function(name, job), seconds=0.5, cpu_s=0.25)
            except ValueError as error:
                end = Ended(name, reason=str(error))
            callback(end)

    monkeypatch.setattr("hybridreg.comparison.run.run", run)
    monkeypatch.setattr("hybridreg.comparison.page.box_plots", lambda *_: [])
    for plot in ("cost_plot", "rank_plot"):
        monkeypatch.setattr(f"hybridreg.comparison.page.{plot}", lambda _: None)
    return done


@pytest.fixture(scope="module")
def compared(cases, tmp_path_factory):
    """One comparison with a failure, by the real cluster, in which a method crashes natively."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    methods = {**METHODS, "crashes": Shift(wrong="crash")}
    settings = Settings(reference="rigid", margin=0.05)
    limits = Limits(attempts=1)
    return compare(
        cases / "cases.csv", methods, out, settings=settings, place=Local(1), limits=limits
    )


def test_every_case_and_method_has_a_record_with_scores_and_costs(compared):
    found = {(r.name, r.method): r for r in compared.records}
    methods = ("identity", "rigid", "affine", "crashes")
    assert list(found) == [(f"case {n}", method) for n in range(3) for method in methods]
    identity, rigid = found["case 0", "identity"], found["case 0", "rigid"]
    assert identity.scores["dice"] < 0.8 < rigid.scores["dice"]
    assert rigid.scores["ndv_percent"] == 0 and rigid.scores["inverse_mm"] < 1e-6
    assert rigid.total_s > 0 and rigid.cpu_s > 0 and rigid.peak_memory_mb > 50
    assert rigid.verdict == "pass" and rigid.version == "0.1.0" and len(rigid.config) == 12
    assert rigid.config != found["case 0", "affine"].config == found["case 1", "affine"].config
    assert rigid.subject == "A" and rigid.more == {"site": "north"}
    for ending in ("csv", "json"):
        rows = [record.row() for record in read_records(compared.folder / f"records.{ending}")]
        assert [row["dice"] for row in rows] == [r.scores.get("dice") for r in found.values()]


def test_a_native_crash_costs_its_own_record_alone(compared):
    found = {(r.name, r.method): r for r in compared.records}
    crashed = found["case 1", "crashes"]
    assert crashed.status == "failed" and "SIGSEGV" in crashed.reason
    assert [r.status for key, r in found.items() if key != ("case 1", "crashes")] == ["done"] * 11
    row = compared.summary.row("crashes")
    assert (row.done, row.failed, row.scores["dice"].imputed) == (2, 1, 1)


def test_every_label_of_every_case_is_in_a_long_table(compared):
    rows = list(csv.DictReader((compared.folder / "labels.csv").open()))
    assert len(rows) == 2 * 11
    of_case = [r for r in rows if (r["name"], r["method"]) == ("case 0", "rigid")]
    mean = np.mean([float(row["dice"]) for row in of_case])
    assert mean == pytest.approx(compared.records[1].scores["dice"])


def test_the_page_can_be_written_again_from_the_folder_alone(compared):
    page = (compared.folder / "report.html").read_text()
    again = write_page(read_comparison(compared.folder))
    assert again.read_text() == page
    assert "cases/case%200/rigid/report.html" in page
    assert (folder_of(compared.folder, "case 0", "rigid") / "report.html").is_file()


def test_tables_for_papers_have_a_row_for_each_method(compared):
    text, table = markdown(compared.summary), latex(compared.summary)
    assert all(f"| {row.name} |" in text for row in compared.summary.rows)
    ends = [line for line in table.splitlines() if line.endswith(r" \\")]
    summary = compared.summary
    assert len(ends) == 1 + len(summary.rows) + 1 + len(summary.tests_of(summary.main))
    assert table.count(r"\begin{tabular}") == table.count(r"\end{tabular}") == 2
    assert r"\shortstack[r]{Folded voxels \\ (\%) $\downarrow$}" in table
    assert (compared.folder / "table.md").read_text() == text
    assert (compared.folder / "table.tex").read_text() == table


def test_only_what_is_new_runs(cases, tmp_path, in_turn):
    table = tmp_path / "cases.csv"
    for file in cases.glob("*.nii"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lines = (cases / "cases.csv").read_text().splitlines()
    table.write_text("\n".join(lines[:3]) + "\n")
    methods, out = {"rigid": STILL, "shift": Shift()}, tmp_path / "out"

    def ran(**changes) -> list[str]:
        in_turn.clear()
        compare(table, {**methods, **changes}, out, report=False)
        return list(in_turn)

    assert len(ran()) == 6 and ran() == []
    assert ran(other=Shift(2.0)) == ["case 0/other", "case 1/other"]
    table.write_text("\n".join(lines) + "\n")
    assert ran() == [f"case 2/{name}" for name in ("identity", "rigid", "shift")]
    assert ran(shift=Shift(3.0)) == [f"case {n}/shift" for n in range(3)]
    assert ran(shift=Shift(3.0)) == []
    image = read_image(tmp_path / "fixed2.nii")
    write_image(tmp_path / "fixed2.nii", replace(image, data=image.data * 1.25))
    assert ran(shift=Shift(3.0)) == [f"case 2/{name}" for name in ("identity", "rigid", "shift")]


def test_a_killed_comparison_resumes_with_nothing_lost_or_done_twice(cases, tmp_path, in_turn):
    out = tmp_path / "out"

    def until_killed(ended):
        if len(in_turn) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(cases / "cases.csv", {"rigid": STILL}, out, report=False, callback=until_killed)
    statuses = [record.status for record in read_records(out / "records.csv")]
    assert statuses == ["done"] * 4 + ["missing"] * 2
    # Killed between the worker's output and the record of it:
    (out / "cases" / "case 1" / "rigid.json").unlink()
    found = compare(cases / "cases.csv", {"rigid": STILL}, out, report=False)
    assert len(in_turn) == len(set(in_turn)) == 6 and found.kept == 4
    assert [record.status for record in found.records] == ["done"] * 6
    assert all(record.scores["dice"] > 0 for record in found.records)


def test_a_failure_is_kept_until_it_is_tried_again(cases, tmp_path, in_turn):
    methods = {"rigid": STILL, "fails": Shift(wrong="raise")}
    found = compare(cases / "cases.csv", methods, tmp_path / "out", report=False)
    (failed,) = [record for record in found.records if record.status == "failed"]
    assert (failed.name, failed.method, failed.reason) == ("case 1", "fails", "there is a spot")
    in_turn.clear()
    compare(cases / "cases.csv", methods, tmp_path / "out", report=False)
    assert in_turn == []
    compare(cases / "cases.csv", methods, tmp_path / "out", report=False, retry=True)
    assert in_turn == ["case 1/fails"]


def test_transforms_made_elsewhere_are_scored_as_methods_are(cases, tmp_path, in_turn):
    out = tmp_path / "out"
    first = compare(cases / "cases.csv", {"rigid": RIGID}, out, report=False)
    fields = tmp_path / "fields"
    fields.mkdir()
    for name in ("case 0", "case 2"):
        onto = read_image(cases / f"fixed{name[-1]}.nii").grid
        transform = read_transform(folder_of(out, name, "rigid") / "transform.h5")
        write_transform(fields / f"{name}.nii.gz", DisplacementField.sampled(transform, onto))
    given = {"lab": str(fields / "{name}.nii.gz")}
    found = compare(cases / "cases.csv", {"rigid": RIGID}, out, transforms=given, report=False)
    dice = {(r.name, r.method): r.scores.get("dice") for r in found.records}
    assert dice["case 0", "lab"] == pytest.approx(dice["case 0", "rigid"], abs=1e-3)
    assert dice["case 0", "rigid"] == first.records[1].scores["dice"]
    times = {r.method: r.register_s for r in found.records if r.name == "case 0"}
    assert times["lab"] is None and times["rigid"] > 0
    failed = next(r for r in found.records if r.status == "failed")
    assert failed.name == "case 1" and "no such file" in failed.reason
    assert str(tmp_path) not in failed.reason
    in_turn.clear()
    write_transform(fields / "case 0.nii.gz", DisplacementField.sampled(IDENTITY, onto))
    compare(cases / "cases.csv", {"rigid": RIGID}, out, transforms=given, report=False)
    assert in_turn == ["case 0/lab"]


def test_a_true_transform_of_the_table_is_compared_with(cases, tmp_path, in_turn):
    (row, *_) = read_case_table(cases / "cases.csv")
    write_transform(tmp_path / "t.tfm", AffineTransform.from_parts(torch.eye(2), [3.0, -2.0]))
    table = tmp_path / "cases.csv"
    table.write_text(f"name,fixed,moving,truth\na,{row.fixed},{row.moving},t.tfm\n")
    methods = {"rigid": STILL, "shift": Shift(2.0)}
    found = compare(table, methods, tmp_path / "out", report=False)
    assert found.summary.main.name == "truth_mean_mm"
    errors = {record.method: record.scores["truth_mean_mm"] for record in found.records}
    assert errors["identity"] == pytest.approx(13**0.5, rel=1e-6)
    assert errors["shift"] == pytest.approx(17**0.5, rel=1e-6)
    assert read_entry(tmp_path / "out", "a", "shift").inputs.keys() == {"fixed", "moving", "truth"}


def test_the_capture_range_is_that_of_the_method(cases, tmp_path, in_turn):
    methods = {"rigid": RIGID, "same": Shift()}
    settings = Settings(starts=3, reference="rigid")
    rows = read_case_table(cases / "cases.csv")[:1]
    found = compare(rows, methods, tmp_path / "out", settings=settings, report=False)
    capture = {record.method: record.scores["capture_mm"] for record in found.records}
    starts = {m: read_entry(found.folder, "case 0", m).starts for m in capture}
    assert capture["identity"] == 0  # it ends where it starts
    assert all(start == pytest.approx(end) for start, end in starts["identity"].values())
    assert capture["same"] == max(start for start, _ in starts["same"].values()) > 10
    assert [s for s, _ in starts["rigid"].values()] == [s for s, _ in starts["same"].values()]
    in_turn.clear()
    compare(rows, methods, tmp_path / "out", settings=settings, report=False)
    assert in_turn == []


def test_the_capture_range_ends_at_the_first_start_that_is_lost():
    near, far = TOLERANCE_MM / 2, TOLERANCE_MM * 2
    assert capture_mm({}) is None
    assert capture_mm({"0": (7.0, far)}) == 0
    assert (
        capture_mm({"0": (7.0, near), "1": (12.0, near), "2": (20.0, far), "3": (30.0, near)}) == 12
    )
    assert capture_mm({"0": (7.0, near), "1": (None, None)}) == 7


def test_perturbed_starts_repeat_and_grow():
    center = torch.tensor([10.0, -5.0, 30.0], dtype=torch.float64)
    sizes = [
        (perturbation(n, center, seed=1)(center[None])[0] - center).norm().item() for n in range(8)
    ]
    assert sizes == pytest.approx(np.linspace(7.5, 60, 8))
    one, again = (perturbation(3, center, seed=1)(center[None]) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, perturbation(3, center, seed=2)(center[None]))


def test_the_volume_that_folds_is_that_of_the_field_that_was_found(cases, tmp_path, in_turn):
    """A field that folds a part of the image."""
    rows = read_case_table(cases / "cases.csv")[:1]
    grid = read_image(rows[0].fixed).grid
    vectors = torch.zeros(2, *grid.shape)
    vectors[0, 20:24, 20:30] = 6.0
    field = DisplacementField(vectors, grid)
    write_transform(tmp_path / "case 0.nii.gz", field)
    given = {"folded": str(tmp_path / "{name}.nii.gz")}
    found = compare(rows, {"rigid": STILL}, tmp_path / "out", transforms=given, report=False)
    (record,) = [r for r in found.records if r.method == "folded"]
    whole = non_diffeomorphic_percent(field)
    assert record.scores["ndv_percent"] > whole > 0  # of the foreground, which is smaller
    assert record.scores["inverse_mm"] > 1e-3


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        (["rigid", "rigid"], "two methods have the name 'rigid'"),
        (["rigit"], "did you mean 'rigid'"),
        ([], "nothing to compare"),
        ({"a/b": RIGID}, "names a folder"),
        (["convex-adam"], "registers 3D images, and case 0 is 2D"),
        (["quicksilver-brain"], "quicksilver-brain registers 3D images, and case 0 is 2D"),
        (["projection"], "projection takes pairs of the type ProjectionPair"),
        ([{"name": "greedy", "python": "/nowhere/python"}], "picsl_greedy.*not installed"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused_before_anything_runs(
    methods, says, cases, tmp_path, in_turn, monkeypatch
):
    monkeypatch.setattr(
        "hybridreg.methods.peers.peer.installed", lambda name, python="": "" if python else "1"
    )
    with pytest.raises(ValueError, match=says):
        compare(cases / "cases.csv", methods, tmp_path / "out")
    assert in_turn == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(reference="affin"), "reference 'affin' is not compared"),
        (Settings(score="dise"), "did you mean 'dice'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_runs(
    settings, says, cases, tmp_path, in_turn
):
    with pytest.raises(ValueError, match=says):
        compare(cases / "cases.csv", METHODS, tmp_path / "out", settings=settings)
    assert in_turn == []


def test_cases_of_one_name_and_a_folder_of_something_else_are_refused(cases, tmp_path, in_turn):
    rows = read_case_table(cases / "cases.csv")
    with pytest.raises(ValueError, match="two cases have the name 'case 0'"):
        compare([*rows, rows[0]], METHODS, tmp_path / "out")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no comparison"):
        compare(rows, METHODS, tmp_path)


def noted(rows, methods, folder) -> str:
    return "\n".join(compare(rows, methods, folder, report=False).notes)


def test_what_weakens_a_comparison_is_said(cases, tmp_path, in_turn, caplog):
    rows = read_case_table(cases / "cases.csv")
    few = noted(rows, {"rigid": STILL}, tmp_path / "a")
    assert "2 subjects, too few for p-values" in few and few in caplog.text.replace("\n", "\n")
    one = noted(rows[:2], {"rigid": STILL}, tmp_path / "b")
    assert "all cases are of one subject" in one
    unlabeled = [*rows[:2], replace(rows[2], fixed_labels=None, moving_labels=None)]
    some = noted(unlabeled, {"rigid": STILL}, tmp_path / "c")
    assert "1 of 3 cases have no labels (case 2)" in some
    nobody = [replace(row, subject="") for row in rows]
    assert "no column subject" in noted(nobody, {"rigid": STILL}, tmp_path / "d")
    with pytest.raises(ValueError, match="the subject of 1 case"):
        compare([*rows[:2], nobody[2]], {"rigid": STILL}, tmp_path / "e")


def test_methods_for_one_contrast_are_named_where_a_case_has_two(cases, tmp_path, in_turn):
    row = read_case_table(cases / "cases.csv")[0]
    head = blobs(dimension=2).pair.moving
    ct = 1500 * head.data - 1000
    write_image(tmp_path / "ct.nii", Image(ct, head.grid))
    rows = [replace(row, moving=tmp_path / "ct.nii")]
    assert "deformable-2d: for images of one contrast" in noted(
        rows, {"rigid": STILL, "deformable-2d": "deformable-2d"}, tmp_path / "out"
    )


def test_an_image_that_cannot_be_read_costs_its_own_case(cases, tmp_path, in_turn):
    rows = read_case_table(cases / "cases.csv")
    (tmp_path / "broken.nii").write_text("no image")
    rows[0] = replace(rows[0], fixed=tmp_path / "broken.nii")
    methods = {"rigid": STILL, "quicksilver-2d": "quicksilver-2d", "deformable-2d": STILL}
    found = compare(rows, methods, tmp_path / "out", report=False)
    failed = [record for record in found.records if record.status == "failed"]
    assert [r.name for r in failed] == ["case 0"] * 4 and "NIfTI" in failed[0].reason
    assert found.summary.lost == ("case 0",)
    said = " ".join(sentences(found.summary))
    assert "Every method failed in 1 case, without effect on the scores: case 0." in said


def test_absent_peers_are_named(cases, tmp_path, in_turn, monkeypatch):
    monkeypatch.setattr("hybridreg.methods.peers.peer.installed", lambda *_: "")
    notes = noted(cases / "cases.csv", {"rigid": STILL, "peers": "peers"}, tmp_path / "out")
    for name, package in (
        ("greedy", "picsl_greedy"),
        ("ants-syn", "antspyx"),
        ("fireants", "fireants"),
    ):
        assert f"{name} is left out: it needs the package {package}" in notes
    page = (tmp_path / "out" / "report.html").read_text()
    assert "greedy is left out" in page


def test_settings_of_every_method_are_in_the_folder(compared):
    state = json.loads((compared.folder / "comparison.json").read_text())
    assert state["settings"] == {"reference": "rigid", "score": None, "margin": 0.05, "starts": 0}
    (affine,) = [each for each in state["methods"] if each["name"] == "affine"]
    assert affine["settings"]["method"]["transform"] == "affine"


def test_the_example_of_the_page_adds_a_method(cases, tmp_path, in_turn, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    for file in cases.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "compare.md", "exec"), {"__name__": "__main__"})
    scores = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(scores) == ["identity", "mass", "fields", "rigid"]
    assert float(scores["mass"]) > float(scores["identity"])
