"""Whatever is given, a registration ends in a sound result or in words that say what was wrong."""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hostile import EITHER, NAMES, Side, sound_picture, write
from hostile_scenes import Made, Scene, each_alone, make, scenes
from hypothesis import HealthCheck, example, given, settings
from typer.testing import CliRunner

import hybridreg
from hybridreg.case_log import CaseLog
from hybridreg.cli.app import app
from hybridreg.io.images import read_image
from hybridreg.io.itk_files import from_itk
from hybridreg.io.transforms import read_transform
from hybridreg.methods.elastix import Elastix

FEW = {"NumberOfResolutions": 1, "MaximumNumberOfIterations": 2, "NumberOfSpatialSamples": 60}
FILES = {
    "moved.nii.gz", "transform.h5", "inverse.h5", "jacobian.nii.gz", "result.json", "views.npz",
    "log.txt",
}  # fmt: skip
JARGON = (
    r"Traceback|unexpected|NoneType|(Key|Type|Attribute|Index|Runtime|Unicode\w*)Error|object has no"
    r"|0x[0-9a-f]{6}|itk::|\.cxx|codec|numpy|torch|tensor|ndarray|broadcast|positional|<class"
)


class End(NamedTuple):
    """How a scene ended: "done", "refused" (exit code 2), "failed" or "disk" (1), and its words."""

    kind: str
    message: str = ""
    outcome: hybridreg.Outcome | None = None


# Through the two doors


def from_python(scene: Scene, made: Made) -> End:
    try:
        outcome = hybridreg.register(
            **made.inputs, method=method(scene), threads=1, keep_identifiers=scene.seed % 2 == 0
        )
        with files_of_at_most(made.most_bytes):
            outcome.save(made.out, report=scene.report)
    except (ValueError, FileNotFoundError) as error:
        assert not isinstance(error, UnicodeError), error
        return End("refused", str(error))
    except hybridreg.RegistrationError as error:
        return End("failed", str(error))
    except OSError as error:
        return End("disk", str(error))
    return End("done", outcome=outcome)


def from_shell(scene: Scene, made: Made) -> End:
    """In process, but from arguments to JSON and exit code."""
    table = method(scene)
    toml = made.folder / "method.toml"
    settings_text = "".join(f"{key} = {value}\n" for key, value in table["overrides"].items())
    toml.write_text(
        f'name = "elastix"\nparameter_files = {json.dumps(table["parameter_files"])}\n'
        f"[overrides]\n{settings_text}"
    )
    options = [f"--{name.replace('_', '-')}={value}" for name, value in made.inputs.items()]
    flags = ["--keep-identifiers"] if scene.seed % 2 == 0 else []
    flags += [] if scene.report else ["--no-report"]
    arguments = [*options, f"--out={made.out}", f"--method={toml}", "--threads=1", "--json", *flags]
    done = CliRunner().invoke(app, ["register", *arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    answer = json.loads(done.stdout)  # one object and nothing else
    assert answer["exit_code"] == done.exit_code
    assert ("error" in answer) == (done.exit_code in (1, 2))
    kind = {0: "done", 3: "done", 2: "refused", 1: "failed"}[done.exit_code]
    if kind == "done":
        assert (answer["verdict"]["status"] == "fail") == (done.exit_code == 3)
    if kind == "failed" and re.search("too large|No space", answer["error"]):
        kind = "disk"
    return End(kind, answer.get("error", ""))


def method(scene: Scene) -> dict:
    return {"name": "elastix", "parameter_files": [f"{scene.method}.txt"], "overrides": FEW}


@contextmanager
def files_of_at_most(count: int | None) -> Iterator[None]:
    """As on a full disk, without the rights that it takes to make one: writing beyond fails."""
    if count is None:
        yield
        return
    resource = pytest.importorskip("resource", reason="Windows has no limits of file sizes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# What must hold


def check_end(scene: Scene, made: Made, end: End):
    said = end.message
    for path in sorted([*map(str, made.inputs.values()), str(made.out), str(made.folder)], key=len):
        said = said.replace(path, "<path>")
    if end.kind == "done":
        assert not any(made.refusals), "this should have been refused"
        check_sound(scene, made, end.outcome)
        return
    assert made.refusals, f"a sound case {end.kind}: {end.message}"
    assert said.strip() and len(said) < 800, end.message
    assert not re.search(JARGON, said), end.message
    assert re.search("<path>|fixed|moving|images|elastix|^/", said), f"names nothing: {end.message}"
    if EITHER not in made.refusals:
        assert any(re.search(refusal, said) for refusal in made.refusals), end.message
        on_disk = made.most_bytes is not None and len(made.refusals) == 1
        assert end.kind == ("disk" if on_disk else "refused")


def check_sound(scene: Scene, made: Made, outcome: hybridreg.Outcome | None):
    out = made.out
    assert {p.name for p in out.iterdir()} == FILES | ({"report.html"} if scene.report else set())
    result = json.loads((out / "result.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert result["verdict"]["status"] in ("pass", "warn", "fail")
    for warning in made.warnings:
        assert any(re.search(warning, text) for text in result["warnings"]), result["warnings"]
    with np.load(out / "views.npz", allow_pickle=False) as views:
        assert {"fixed", "moved"} <= set(views)
    with (reported := CaseLog()).listening():
        moved, jacobian = read_image(out / "moved.nii.gz"), read_image(out / "jacobian.nii.gz")
    assert not reported.warnings
    assert torch.isfinite(moved.data).all() and jacobian.grid == moved.grid
    # Written by us, so without the child process that keeps damaged files away: 0.3 s each.
    transform, inverse = (
        from_itk(sitk.ReadTransform(str(out / f"{name}.h5"))) for name in ("transform", "inverse")
    )
    points = moved.grid.points()
    assert torch.isfinite(transform(points)).all() and torch.isfinite(inverse(points)).all()
    if "fixed" in made.truth:
        truth = made.truth["fixed"]
        assert moved.grid.shape == truth.values.shape
        found = moved.grid.voxel_to_physical().numpy()
        assert np.allclose(found, truth.voxel_to_physical, rtol=1e-5, atol=1e-4)  # NIfTI is float32
    if "moving" in made.truth:
        values = made.truth["moving"].values.astype(np.float32)
        slack = 1e-5 * np.abs(values).max()
        assert values.min() - slack <= moved.data.min() and moved.data.max() <= values.max() + slack
    if outcome is not None:
        assert outcome.moved.grid.matches(moved.grid)
        assert torch.allclose(outcome.transform(points), transform(points), atol=1e-4)
        for side, truth in made.truth.items():
            read = getattr(outcome.case.pair, side).data[0].numpy()
            assert np.array_equal(read, truth.values.astype(np.float32))


def tree(folder: Path) -> dict[str, str]:
    """What lies below a folder: of files a hash, of links where they point."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            mode = os.lstat(path).st_mode
            kind = str(stat.S_IFMT(mode))
            if stat.S_ISLNK(mode):
                kind += os.readlink(path)
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    kind += hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(path, folder)] = kind
    return found


def check_place(made: Made, before: dict[str, str], end: End):
    after = tree(made.folder / "place")
    assert {name: after.get(name) for name in before} == before, "what was there was changed"
    new = set(after) - set(before)
    if end.kind != "done":
        assert not new, "something was left behind"
        return
    real = os.path.relpath(os.path.realpath(made.out), made.folder / "place")
    for name in new:
        assert name == real or name.startswith(real + os.sep) or real.startswith(name + os.sep)


def check_scene(scene: Scene, folder: Path) -> End:
    """Makes and runs a scene in an empty folder, which is the current one, and judges its end."""
    made = make(scene, folder)
    inputs, place = tree(folder / "in"), tree(folder / "place")
    through = from_shell if scene.through_cli and made.most_bytes is None else from_python
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        end = through(scene, made)
    check_end(scene, made, end)
    assert tree(folder / "in") == inputs, "an input was changed"
    check_place(made, place, end)
    assert os.listdir(folder / "cwd") == [], "something was left in the current folder"
    assert os.listdir(folder / "tmp") == [], "something was left in the temporary folder"
    return end


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[[Scene], End]:
    """Runs a scene in a folder of its own and notes how it ended in ``run.ends``."""
    monkeypatch.setattr("hybridreg.io.itk_files._CPU_S", 2)  # HDF5 spins on some damaged files
    registered = Elastix.register
    ends, tried = Counter(), Counter()

    def counted(self, *arguments):
        result = registered(self, *arguments)
        ends["registered"] += 1
        return result

    def one(scene: Scene) -> End:
        folder = tmp_path / "scene"
        for name in ("cwd", "tmp"):
            (folder / name).mkdir(parents=True)
        monkeypatch.chdir(folder / "cwd")
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
        try:
            end = check_scene(scene, folder)
        finally:
            monkeypatch.chdir(tmp_path)
            shutil.rmtree(folder)
        ends[end.kind] += 1
        tried.update(scene.hostilities)
        return end

    monkeypatch.setattr(Elastix, "register", counted)
    one.ends, one.tried = ends, tried
    return one


def hold(run, examples: int, *, repeatable: bool):
    """Every hostility alone, then so many scenes with up to two of them."""

    def holds(scene: Scene):
        run(scene)

    test = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=repeatable,
        suppress_health_check=list(HealthCheck),
    )(given(scenes())(holds))
    for scene in each_alone():
        test = example(scene)(test)
    start = time.monotonic()
    test()
    total = sum(run.ends.values()) - run.ends["registered"]
    print(f"{total} scenes in {time.monotonic() - start:.0f} s: {dict(run.ends)}")
    assert total >= examples
    assert run.ends["registered"] >= total / 4  # else too little of the way is seen
    assert {"done", "refused", "disk"} <= set(run.ends)


def test_hostile_input_ends_in_a_sound_result_or_in_words(run):
    hold(run, 200, repeatable=True)


@pytest.mark.slow
def test_a_thousand_hostile_inputs_end_in_a_sound_result_or_in_words(run):
    hold(run, 1200, repeatable=False)


# What hypothesis would seldom meet


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_text_are_shown_to_a_person_too(name, tmp_path):
    """Without --json everything is printed; a terminal that lacks a letter must not end it."""
    path = tmp_path / f"{name}.nii"
    write(path, sound_picture(Side((5, 6, 7)), np.zeros(3), flat=False))
    done = CliRunner(charset="ascii").invoke(app, ["info", str(path)])
    assert done.exit_code == 0 and "size" in done.stdout, done.exception


def test_damaged_texts_of_an_hdf5_file_are_refused_or_harmless(tmp_path, monkeypatch, capfd):
    """HDF5 waits forever, or crashes, on lengths and places of texts that cannot be."""
    monkeypatch.setattr("hybridreg.io.itk_files._CPU_S", 2)
    path, shift = tmp_path / "t.h5", [1.0, 2.0, 3.0]
    sitk.WriteTransform(sitk.TranslationTransform(3, shift), str(path))
    raw = path.read_bytes()
    heap = raw.index(b"GCOL")
    use = raw.rindex(heap.to_bytes(8, "little"))  # of the text that names the type
    waits, crashes = (heap + 25, 1), (use + 10, 3)
    refused = []
    for byte, bit in (waits, crashes, (heap + 9, 1), (use - 4, 1), (use - 4, 3), (use + 8, 0)):
        flipped = bytearray(raw)
        flipped[byte] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            assert read_transform(path)(torch.zeros(1, 3))[0].tolist() == shift
        except ValueError as error:
            assert re.search("damaged|cannot be read", str(error))
            refused.append((byte, bit))
    assert refused[:2] == [waits, crashes]
    assert capfd.readouterr().err == ""
