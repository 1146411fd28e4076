"""A working folder is gone when its work ends, and after a kill when the next work begins."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hybridreg.io.files import whole_file
from hybridreg.io.output import output_folder
from hybridreg.io.working_folder import working_folder

pytest.importorskip("fcntl", reason="nothing is swept where files cannot be locked")

HOLDS = """
import sys, time
from hybridreg.io.working_folder import working_folder

with working_folder("test-") as folder:
    (folder / "big.npy").write_text("much")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(place):
    """Another process with a folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    )
    process.folder = Path(process.stdout.readline().strip())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_is_gone_when_its_work_ends_well_or_badly(place):
    with working_folder("test-") as folder:
        (folder / "a.npy").write_text("some")
        assert folder.parent == place
    with pytest.raises(KeyError), working_folder("test-"):
        raise KeyError
    assert list(place.iterdir()) == []


def test_a_folder_at_work_is_left_alone_and_one_whose_owner_was_killed_is_swept(place, other):
    with working_folder("test-"):
        assert (other.folder / "big.npy").is_file()
    other.kill()
    other.wait()
    assert other.folder.is_dir()
    with working_folder("test-") as folder:
        assert list(place.iterdir()) == [folder]


def test_what_is_not_ours_is_not_swept(place):
    """Folders of another prefix, and those without a lock, as other versions made them."""
    for name, lock in (("other-1", True), ("test-without", False)):
        (place / name).mkdir()
        if lock:
            (place / name / ".lock").touch()
    with working_folder("test-"):
        pass
    assert {path.name for path in place.iterdir()} == {"other-1", "test-without"}


def test_our_own_folders_do_not_sweep_each_other(place):
    """As when two threads register at once."""
    with working_folder("test-") as first, working_folder("test-") as second:
        assert first.is_dir() and second.is_dir()


WRITES = """
import sys, time
from hybridreg.io.output import output_folder

with output_folder(sys.argv[1]) as folder:
    (folder / "moved.nii.gz").write_text("much")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_beside_its_output_is_swept_by_the_next(tmp_path):
    call = [sys.executable, "-c", WRITES, str(tmp_path / "killed")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        partial = Path(process.stdout.readline().strip())
        assert partial.parent == tmp_path and partial.is_dir()
        with output_folder(tmp_path / "beside") as folder:  # while the other is at work
            (folder / "log.txt").write_text("some")
        assert partial.is_dir()
        process.kill()
    with whole_file(tmp_path / "fused.nii.gz") as place:
        place.write_text("some")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found == {"beside", "beside/log.txt", "fused.nii.gz"}
