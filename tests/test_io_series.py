"""A time series is mapped frame by frame, and keeps its time."""

import nibabel
import numpy as np
import pytest
import torch
from conftest import oblique_grid
from test_cli import call
from test_warping import pair_of_grids

from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.series import Timing, read_series, timing_of, write_series
from hybridreg.io.transforms import write_transform
from hybridreg.transforms import rigid
from hybridreg.warping import warp


def series(path, grid: Grid, count: int = 3, *, dtype: str = "int16", labels: bool = False):
    """Frames that differ, in a file that nibabel wrote: 2.5 s apart, from 1.5 s on."""
    write_image(path.with_name("one.nii"), Image(torch.zeros(grid.shape), grid))
    values = np.random.default_rng(3).integers(-50, 900, (*grid.shape, count)).astype(dtype)
    values = np.abs(values) // 100 if labels else values
    shown = values.swapaxes(0, 2)  # (x, y, z, frames)
    image = nibabel.Nifti1Image(shown, nibabel.load(path.with_name("one.nii")).affine)
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4], image.header["toffset"] = 2500, 1500
    nibabel.save(image, path)
    return np.moveaxis(values, -1, 0)


def turn(grid: Grid):
    angles, shift = ([8.0, -5.0, 12.0], [3.0, -2.0, 4.0])
    return rigid(angles, shift, grid.center)


@pytest.mark.parametrize("labels", [False, True])
def test_apply_maps_every_frame_and_keeps_the_time_between_them(tmp_path, labels):
    fixed, moving = pair_of_grids(3)
    values = series(tmp_path / "m.nii.gz", moving, labels=labels)
    write_image(tmp_path / "f.nii", Image(torch.zeros(fixed.shape), fixed))
    write_transform(tmp_path / "t.tfm", turn(fixed))
    apply = ("apply", "-t", tmp_path / "t.tfm", "-f", tmp_path / "f.nii", "-m", tmp_path / "m.nii.gz",
             *["--labels"] * labels, "--json")  # fmt: skip
    answer = call(*apply, "-o", tmp_path / "o.nii.gz")
    assert answer["frames"] == 3 and answer["frame_spacing"] == 2500
    header = nibabel.load(tmp_path / "o.nii.gz").header
    assert header.get_data_shape() == (*fixed.size, 3) and header.get_zooms()[3] == 2500
    assert header.get_xyzt_units() == ("mm", "msec") and header["toffset"] == 1500
    read = read_labels if labels else read_image
    for frame in range(3):
        source = torch.from_numpy(values[frame].astype(np.int32))
        if labels:
            expected = warp(LabelMap(source, moving), turn(fixed), onto=fixed)
        else:
            low = float(values.min())
            expected = warp(Image(source, moving), turn(fixed), onto=fixed, default=low)
        found = read(tmp_path / "o.nii.gz", frame=frame)
        assert found.grid.matches(fixed)
        # rounded to int16; a label may change where a point lies halfway between two voxels
        close = (found.data - expected.data).abs() <= (0 if labels else 0.51)
        assert close.double().mean() > (0.9999 if labels else 0.999999)
        assert 0.1 < (expected.data != expected.data.flatten()[0]).double().mean() < 0.99
    call(*apply, "-o", tmp_path / "one.nii.gz", "--moving-frame", 1)
    alone, third = read(tmp_path / "one.nii.gz"), read(tmp_path / "o.nii.gz", frame=1)
    assert nibabel.load(tmp_path / "one.nii.gz").ndim == 3
    inside = torch.ones_like(alone.data, dtype=torch.bool)
    if not labels:  # one frame has a lowest value of its own
        inside = alone.data != alone.data.min()
    assert ((alone.data - third.data).abs() <= 1)[inside].double().mean() > 0.999
    error = call(*apply, "-o", tmp_path / "o.mha", code=2)["error"]
    assert "o.mha" in error and ".nii.gz" in error


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_a_series_is_written_as_it_was_read(tmp_path, dtype):
    grid = oblique_grid(3)
    values = series(tmp_path / "m.nii", grid, dtype=dtype)
    frames, timing = read_series(tmp_path / "m.nii"), timing_of(tmp_path / "m.nii")
    assert timing == Timing(3, 2500.0, 1500.0, 16)
    write_series(tmp_path / "o.nii", frames, timing)
    assert timing_of(tmp_path / "o.nii") == timing
    for number, frame in enumerate(frames):
        again = read_image(tmp_path / "o.nii", frame=number)
        assert frame.dtype == again.dtype == dtype and again.grid.matches(frame.grid)
        assert np.array_equal(again.data[0], values[number])
        assert torch.equal(again.data, read_image(tmp_path / "m.nii", frame=number).data)
    assert timing_of(tmp_path / "one.nii") is None
    (tmp_path / "bad.nii").write_bytes(b"no image")
    assert timing_of(tmp_path / "bad.nii") is None


def test_a_series_whose_header_rescales_it_keeps_its_values(tmp_path):
    grid = oblique_grid(3)
    values = series(tmp_path / "m.nii", grid)
    raw = bytearray((tmp_path / "m.nii").read_bytes())
    raw[112:120] = np.array([0.5, 10], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "m.nii").write_bytes(raw)
    write_series(tmp_path / "o.nii", read_series(tmp_path / "m.nii"), timing_of(tmp_path / "m.nii"))
    for frame in range(3):
        again = read_image(tmp_path / "o.nii", frame=frame).data[0]
        assert np.allclose(again, values[frame] * 0.5 + 10, atol=1e-4)
