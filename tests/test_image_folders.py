"""Which files of a folder are its images, and that the others are told."""

import logging
import os

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import oblique_grid

from hybridreg.images import Image
from hybridreg.io.formats import FORMATS, ending_of, format_of
from hybridreg.io.image_folders import images_of
from hybridreg.io.images import read_image, write_image
from hybridreg.io.photographs import read_photographs
from hybridreg.io.tables import pairs_of_folder

GRID = oblique_grid()
RESOURCE_FORK = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        "


def made(folder, *names):
    for name in names:
        write_image(folder / name, Image(torch.rand(1, *GRID.shape), GRID))


@pytest.fixture(autouse=True)
def warnings_are_kept(caplog):
    caplog.set_level(logging.WARNING)


def test_every_ending_in_either_case_is_an_image_of_the_folder(tmp_path, caplog):
    endings = [ending for format in FORMATS for ending in format.endings]
    names = {f"{i}{e.upper() if i % 2 else e}" for i, e in enumerate(endings)}
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    assert {path.name for path in images_of(tmp_path).values()} == names
    assert set(images_of(tmp_path)) == {str(i) for i in range(len(endings))}
    assert not caplog.text


def test_hidden_files_and_others_are_left_out_and_reported(tmp_path, caplog):
    made(tmp_path, "a.nii.gz", "b.mha")
    made(tmp_path, "C.NII.GZ")
    (tmp_path / "._a.nii.gz").write_bytes(RESOURCE_FORK)
    (tmp_path / ".DS_Store").write_bytes(b"1")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "d.nii.gz").mkdir()
    pairs = {case.name for case in pairs_of_folder(tmp_path)}
    assert pairs == {"a-b", "a-C", "b-a", "b-C", "C-a", "C-b"}
    assert "left out are .DS_Store (hidden), ._a.nii.gz (hidden), d.nii.gz (a folder), " in (
        caplog.text
    )
    assert "notes.txt (no image by its name)" in caplog.text


def test_many_that_are_left_out_are_counted(tmp_path, caplog):
    for i in range(30):
        (tmp_path / f"{i}.txt").touch()
    images_of(tmp_path)
    assert "(no image by its name) and 22 more" in caplog.text


def test_a_header_with_its_voxels_is_one_image(tmp_path, caplog):
    for name in ("a.hdr", "a.img", "B.HDR", "B.IMG", "c.hdr", "c.img.gz", "d.mhd", "d.raw"):
        (tmp_path / name).write_bytes(b"1")
    found = {name: path.name for name, path in images_of(tmp_path).items()}
    assert found == {"a": "a.hdr", "B": "B.HDR", "c": "c.hdr", "d": "d.mhd"}
    assert not caplog.text


@pytest.mark.parametrize("names", [("a.nii", "a.mha"), ("a.mha", "A.mha"), ("a.hdr", "a.png")])
def test_names_that_differ_by_ending_or_capitals_only_are_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(ValueError, match="have one name: move one"):
        images_of(tmp_path)


def test_links_are_followed_and_broken_ones_and_empty_files_refused(tmp_path):
    (tmp_path / "images").mkdir()
    made(tmp_path, "first.nii", "second.nii")
    for name in ("first", "second"):
        os.symlink(tmp_path / f"{name}.nii", tmp_path / "images" / f"{name}.nii")
    assert len(pairs_of_folder(tmp_path / "images")) == 2
    read_image(pairs_of_folder(tmp_path / "images")[0].fixed)
    (tmp_path / "second.nii").unlink()
    with pytest.raises(ValueError, match="second.nii is a link to .*second.nii, which is not"):
        pairs_of_folder(tmp_path / "images")
    (tmp_path / "second.nii").touch()
    with pytest.raises(ValueError, match=r"second.nii is empty \(0 bytes\)"):
        pairs_of_folder(tmp_path / "images")


@pytest.mark.parametrize("name", ["1.dcm", "IM0001"])
def test_a_folder_of_dicom_slices_is_no_folder_of_images(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ValueError, match="DICOM files: a folder of slices is one image"):
        pairs_of_folder(tmp_path)


def test_photographs_too_leave_hidden_files_out(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    PIL.Image.fromarray(pixels).save(tmp_path / "A.PNG")
    (tmp_path / "._A.PNG").write_bytes(RESOURCE_FORK)
    (tmp_path / "b.png").mkdir()
    assert {name: p.tolist() for name, p in read_photographs([tmp_path]).items()} == {
        "A": pixels.tolist()
    }


def test_the_longest_ending_counts():
    assert ending_of("x/a.b.NII.gz") == ".nii.gz"
    assert ending_of("a.gz") == ending_of("nii") == ""
    assert format_of("A.IMG.GZ").name == "NIfTI" and format_of("a.TIF").name == "TIFF"
