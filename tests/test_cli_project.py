"""``hybridreg project``, from the files of a CT and a geometry to a radiograph that is read again."""

import json

import pytest
import torch
from conftest import oblique_grid
from typer.testing import CliRunner

from hybridreg.cli.app import app
from hybridreg.drr import Projector, attenuation
from hybridreg.images import Image
from hybridreg.io.images import read_image, write_image
from hybridreg.io.radiographs import read_geometry, read_radiograph
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.poses import pose
from hybridreg.transforms import rigid

GEOMETRY = """
size = [24, 20]
spacing_mm = [3, 3]
source_to_detector_mm = 1000
source_to_isocenter_mm = 700
primary_angle_deg = 40
"""


@pytest.fixture
def folder(tmp_path):
    values = torch.rand(oblique_grid().shape, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "ct.nii.gz", Image(2000 * values - 1000, oblique_grid()))
    (tmp_path / "arm.toml").write_text(GEOMETRY)
    return tmp_path


def run(folder, *more, out="drr.nii.gz"):
    given = ("-i", folder / "ct.nii.gz", "-g", folder / "arm.toml", "-o", folder / out, *more)
    return CliRunner().invoke(app, ["project", *map(str, given), "--json"])


def test_a_ct_is_projected_and_its_geometry_and_pose_are_written_beside(folder):
    result = run(folder, "--pose", "-10,20,30,1,2,-3")
    assert result.exit_code == 0, result.output
    ct, view = read_image(folder / "ct.nii.gz"), read_geometry(folder / "arm.toml")
    at = pose((-10, 20, 30, 1, 2, -3), ct.grid.center)
    found = read_radiograph(folder / "drr.nii.gz")
    torch.testing.assert_close(found.data, Projector(attenuation(ct))(view, at))
    assert found.grid.matches(view.grid, 1e-6)
    assert found.data.max() > 0.1
    assert json.loads(result.stdout)["largest_integral"] == pytest.approx(found.data.max().item())
    torch.testing.assert_close(read_transform(folder / "drr.tfm").matrix, at.matrix)
    again = run(folder, "--pose", folder / "drr.tfm", out="again.nii.gz")
    assert again.exit_code == 0, again.output
    torch.testing.assert_close(read_radiograph(folder / "again.nii.gz").data, found.data)


def test_a_pose_about_another_isocenter_is_that_of_the_shifted_pose(folder):
    center = read_image(folder / "ct.nii.gz").grid.center
    there = ",".join(str(c) for c in (center + torch.tensor([1, 2, 3])).tolist())
    assert run(folder, "--pose", "5,6,7,1,2,3").exit_code == 0
    assert run(folder, "--pose", "5,6,7,0,0,0", "--isocenter", there, out="b.mha").exit_code == 0
    first, second = (read_radiograph(folder / name).data for name in ("drr.nii.gz", "b.mha"))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--pose", "1,2,3"), "no such file"),
        (("--isocenter", "1,2"), "is a point"),
        (("--pose", "0,0,0,900,0,0"), "no ray meets the CT"),
        (("--pose", "field.tfm"), "no such file"),
        (("--pose", "0,0,0,450,-536.2,0"), "source lies inside the CT"),
        (("--pose", "0,0,0,-300,300,0"), "beyond the detector"),
        (("--pose", "0,0,0,600,-700,0"), "behind the X-ray source"),
    ],
)
def test_what_cannot_be_projected_is_refused(folder, more, message):
    result = run(folder, *more)
    assert result.exit_code == 2
    assert message in json.loads(result.stdout)["error"]
    assert not (folder / "drr.nii.gz").exists()


def test_one_slice_is_no_ct(folder):
    ct = read_image(folder / "ct.nii.gz")
    grid = ct.grid.crop((0, 0, 0), (1, *ct.grid.shape[1:]))
    write_image(folder / "ct.nii.gz", Image(ct.data[:, :1], grid))
    assert "the CT has 1 voxel(s) along one axis" in json.loads(run(folder).stdout)["error"]


def test_an_input_that_is_not_in_hu_needs_a_word(folder):
    values = read_image(folder / "ct.nii.gz")
    write_image(folder / "ct.nii.gz", Image(values.data + 1000, values.grid))
    assert "no CT in HU" in json.loads(run(folder).stdout)["error"]
    assert run(folder, "--mu").exit_code == 0


def test_a_file_that_is_there_or_is_the_geometry_is_not_written_over(folder):
    assert run(folder).exit_code == 0
    assert "--overwrite" in json.loads(run(folder).stdout)["error"]
    assert run(folder, "--overwrite").exit_code == 0
    result = run(folder, "--overwrite", out="arm.nii.gz")
    assert "written over" in json.loads(result.stdout)["error"]


def test_a_picture_cannot_hold_line_integrals(folder):
    assert ".nii.gz" in json.loads(run(folder, out="drr.png").stdout)["error"]


def test_a_transform_that_is_no_pose_is_refused(folder):
    write_transform(folder / "flat.tfm", rigid([10], [1, 2], [0, 0]))
    assert "in 3D" in json.loads(run(folder, "--pose", folder / "flat.tfm").stdout)["error"]
