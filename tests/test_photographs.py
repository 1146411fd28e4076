"""Photographs as gray pictures, and what is no photograph refused in words."""

import numpy as np
import pytest
import torch
from PIL import Image

from hybridreg.io.photographs import read_photographs


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (31, 47, 3), dtype=np.uint8)
    Image.fromarray(colors).save(tmp_path / "colors.png")
    Image.fromarray(colors[..., 0]).save(tmp_path / "gray.TIF")
    Image.fromarray(np.dstack([colors, colors[..., :1]])).save(tmp_path / "alpha.bmp")
    Image.fromarray(colors).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_gives_its_photographs_as_gray_in_the_order_of_their_names(folder):
    found = read_photographs([folder])
    assert list(found) == ["alpha", "colors", "gray", "print"]
    colors = np.asarray(Image.open(folder / "colors.png"), dtype=float)
    luminance = colors @ [0.299, 0.587, 0.114]
    assert found["colors"].dtype == torch.uint8
    assert np.abs(found["colors"].numpy() - luminance).max() <= 1
    assert torch.equal(found["alpha"], found["colors"])
    assert np.array_equal(found["gray"].numpy(), colors[..., 0])


def test_files_and_folders_may_be_mixed_but_no_name_given_twice(folder):
    assert list(read_photographs([folder / "gray.TIF", folder / "colors.png"])) == [
        "gray",
        "colors",
    ]
    with pytest.raises(ValueError, match="two photographs 'gray'"):
        read_photographs([folder / "gray.TIF", folder])


def test_a_folder_without_photographs_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="no photographs in this folder"):
        read_photographs([tmp_path])
    with pytest.raises(FileNotFoundError, match="none.png: there is no such file"):
        read_photographs([tmp_path / "none.png"])
    with pytest.raises(ValueError, match=r"notes\.txt: its name does not end like"):
        read_photographs([tmp_path / "notes.txt"])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="pictures: there is no such file"):
        read_photographs([tmp_path / "pictures"])


def test_pictures_of_more_than_eight_bits_are_refused(tmp_path):
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((9, 9), 0.5, dtype=np.float32)).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        with pytest.raises(ValueError, match=f"{name}: its pixels are of another kind"):
            read_photographs([tmp_path / name])


@pytest.mark.parametrize("name", ["colors.png", "print.jpg", "gray.TIF", "alpha.bmp"])
def test_damaged_pictures_are_refused_by_name(folder, name):
    content = (folder / name).read_bytes()
    for damaged in (b"", b"hello", content[: len(content) // 2]):
        (folder / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=name):
            read_photographs([folder])


def test_pictures_that_unpack_to_more_than_any_photograph_are_refused(tmp_path, monkeypatch):
    Image.new("L", (200, 200)).save(tmp_path / "bomb.png")
    for limit in (30_000, 10_000):  # Pillow warns above its limit and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=r"bomb\.png: it is larger than any photograph"):
            read_photographs([tmp_path])
