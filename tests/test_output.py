"""Output folders are whole or absent."""

import json
import os

import pytest

from hybridreg.io.output import RESULT, check_output, output_folder, write_json


def fill(folder, text="new"):
    with output_folder(folder, overwrite=True) as partial:
        assert partial != folder and partial.parent == folder.parent
        (partial / RESULT).write_text(json.dumps({"is": text}))


def test_a_folder_appears_only_when_all_is_written(tmp_path):
    folder = tmp_path / "deep" / "out"
    with output_folder(folder) as partial:
        (partial / "a.txt").write_text("a")
        assert not folder.exists()
    assert [p.name for p in folder.iterdir()] == ["a.txt"]
    assert [p.name for p in folder.parent.iterdir()] == ["out"]


def test_after_an_error_nothing_is_left(tmp_path):
    folder = tmp_path / "deep" / "deeper" / "out"
    with pytest.raises(RuntimeError), output_folder(folder) as partial:
        (partial / "a.txt").write_text("a")
        raise RuntimeError("disk full")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_the_whole_folder_and_an_error_keeps_the_old_one(tmp_path):
    folder = tmp_path / "out"
    fill(folder, "old")
    (folder / "extra").write_text("left over")
    with pytest.raises(KeyboardInterrupt), output_folder(folder, overwrite=True):
        raise KeyboardInterrupt
    assert json.loads((folder / RESULT).read_text()) == {"is": "old"}
    fill(folder, "new")
    assert [p.name for p in folder.iterdir()] == [RESULT]
    assert json.loads((folder / RESULT).read_text()) == {"is": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_places_that_results_cannot_go_to_are_refused_before_any_work(tmp_path):
    fill(tmp_path / "done")
    with pytest.raises(ValueError, match="--overwrite"):
        check_output(tmp_path / "done")
    check_output(tmp_path / "done", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_output(tmp_path / "file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("")
    with pytest.raises(ValueError, match="not written by hybridreg"):
        check_output(tmp_path / "photos", overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_place_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="not writable"):
        check_output(tmp_path / "out")


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("nan"), (1.5, float("inf"))], 3: "ü"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, [1.5, None]], "3": "ü"}
