"""On a full disk nothing half-written stays, and the message names the file and the reason."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hybridreg.cli.app import app
from hybridreg.geometry import Grid
from hybridreg.images import Image, LandmarkSet
from hybridreg.io.images import write_image
from hybridreg.io.landmarks import write_landmarks
from hybridreg.io.transforms import write_transform
from hybridreg.transforms import AffineTransform

resource = pytest.importorskip("resource", reason="Windows has no limits of file sizes")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """An image of noise, so that nothing makes it small, a transform and many points."""
    folder, grid = tmp_path_factory.mktemp("files"), Grid((24, 25, 26), (2.0, 2.0, 2.0))
    generator = torch.Generator().manual_seed(0)
    write_image(folder / "image.nii", Image(torch.rand(grid.shape, generator=generator), grid))
    flat = torch.rand((250, 260), generator=generator)
    write_image(folder / "flat.nii", Image(flat, Grid((250, 260))))
    for dimension in (2, 3):
        shift = AffineTransform.from_parts(torch.eye(dimension), torch.ones(dimension))
        write_transform(folder / f"{dimension}d.tfm", shift)
    write_landmarks(folder / "points.csv", LandmarkSet(torch.rand(3000, 3, generator=generator)))
    return folder


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 24 KB: a folder of the memory file system, which only the superuser can mount."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        pytest.skip("no right to mount a small disk; the tests by limits of file sizes stay")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # libtiff keeps it open


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def applied(files: Path, out: Path) -> str:
    """Why ``hybridreg apply`` could not write this file."""
    if out.suffix == ".csv":
        what = ["-t", files / "3d.tfm", "--points", files / "points.csv"]
    elif out.suffix == ".tif":
        what = ["-t", files / "2d.tfm", "-f", files / "flat.nii", "-m", files / "flat.nii"]
    else:
        what = ["-t", files / "3d.tfm", "-f", files / "image.nii", "-m", files / "image.nii"]
    arguments = ["apply", *map(str, what), "-o", str(out), "--json", "--overwrite"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    return json.loads(done.stdout)["error"]


OUTPUTS = ("a.nii.gz", "a.nii", "a.mha", "a.nrrd", "a.tif", "a.csv")


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_file_that_the_disk_does_not_take_fails_with_its_name_and_the_reason(
    name, files, small_disk
):
    error = applied(files, small_disk / name)
    assert error == f"No space left on device: {small_disk / name}"
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_so_does_a_file_that_may_not_grow_and_the_old_one_stays(name, files, tmp_path):
    (tmp_path / name).write_text("precious")
    with files_of_at_most(2000):
        error = applied(files, tmp_path / name)
    assert error == f"File too large: {tmp_path / name}"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


TRIED = """
import resource, sys
from pathlib import Path
import torch
from hybridreg.geometry import Grid
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.transforms import AffineTransform, BSplineTransform, DisplacementField, compose

grid, folder, ends = Grid((6, 7, 8), (3.0, 3.0, 3.0)), Path(sys.argv[1]), []
vectors = torch.rand(3, *grid.shape)
affine = AffineTransform(torch.eye(4))
for transform in (affine, BSplineTransform(vectors, grid), DisplacementField(vectors, grid)):
    for ending in (".h5", ".tfm"):
        for most in [*range(0, 90_000, 6_000), 10**9]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
            path = folder / f"t{ending}"
            try:
                write_transform(path, compose(transform, affine))
            except OSError as error:
                assert error.filename == str(path) and error.strerror == "File too large"
                ends.append("refused")
            else:
                found = read_transform(path)(grid.points())
                assert torch.allclose(found, transform(grid.points()), atol=1e-5)
                ends.append("written")
                path.unlink()
            assert not list(folder.iterdir())
print(ends.count("refused"), ends.count("written"))
"""


def test_a_transform_is_written_whole_or_not_at_all_whatever_place_there_is(tmp_path):
    """In a process of its own, since HDF5 used to crash on a full disk, even when all was done."""
    command = [sys.executable, "-c", TRIED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    refused, written = map(int, done.stdout.split())
    assert refused > 30 and written > 15
