"""Files are the same whatever the locale of the calling program is."""

import locale
import subprocess
import sys
import threading

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid

from hybridreg.images import Image
from hybridreg.io.decimal_point import decimal_point
from hybridreg.io.images import describe, read_image, read_labels, write_image
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.transforms import AffineTransform

COMMA = 'LC_NUMERIC\ndecimal_point ","\nthousands_sep "."\ngrouping 3;3\nEND LC_NUMERIC\n'
GRID = oblique_grid()
IMAGE = Image(torch.rand(1, *GRID.shape), GRID)


@pytest.fixture
def comma(tmp_path, monkeypatch):
    """A locale with a decimal comma, made here since few machines have one installed."""
    (tmp_path / "comma.txt").write_text(COMMA)
    make = ["localedef", "-c", "-i", "comma.txt", "-f", "ANSI_X3.4-1968", "./comma"]
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    try:
        subprocess.run(make, cwd=tmp_path, capture_output=True)
        locale.setlocale(locale.LC_NUMERIC, "comma")
    except (FileNotFoundError, locale.Error):
        pytest.skip("this system cannot make a locale")
    yield
    locale.setlocale(locale.LC_NUMERIC, "C")


def assert_same_place(found, expected):
    for name in ("spacing", "origin", "direction"):
        assert np.allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii.gz"])
def test_a_decimal_comma_changes_no_spacing_that_is_read(tmp_path, ending, request):
    path = tmp_path / f"a{ending}"
    image = sitk.GetImageFromArray(np.ones((4, 5, 6), dtype=np.uint8))
    image.SetSpacing((1.878906, 2.5, 3.25))
    image.SetOrigin((1.5, -2.25, 0.125))
    sitk.WriteImage(image, str(path))
    request.getfixturevalue("comma")
    for grid in (read_image(path).grid, read_labels(path).grid):
        assert np.allclose(grid.spacing, (1.878906, 2.5, 3.25), rtol=1e-7)
        assert np.allclose(grid.origin, (1.5, -2.25, 0.125))
    assert describe(path)["spacing_mm"] == pytest.approx([1.878906, 2.5, 3.25])
    assert locale.str(1.5) == "1,5"  # the program's own numbers are left alone


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz"])
def test_a_decimal_comma_gets_into_no_image_that_is_written(tmp_path, ending, comma):
    write_image(tmp_path / f"a{ending}", IMAGE)
    locale.setlocale(locale.LC_NUMERIC, "C")
    found = sitk.ReadImage(str(tmp_path / f"a{ending}"))
    assert np.allclose(found.GetSpacing(), GRID.spacing)
    assert np.allclose(found.GetOrigin(), GRID.origin)


@pytest.mark.parametrize("ending", [".tfm", ".txt", ".h5"])
def test_a_decimal_comma_changes_no_transform(tmp_path, ending, comma):
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([1.5, -2.25, 0.125])
    transform = AffineTransform(matrix)
    path = tmp_path / f"a{ending}"
    write_transform(path, transform)
    assert torch.equal(read_transform(path).translation, transform.translation)
    locale.setlocale(locale.LC_NUMERIC, "C")
    assert sitk.ReadTransform(str(path)).TransformPoint((0.0, 0.0, 0.0)) == (1.5, -2.25, 0.125)


def test_another_thread_keeps_its_comma_meanwhile(comma):
    if sys.platform != "linux":
        pytest.skip("elsewhere a locale is of the whole process")
    found = []
    with decimal_point():
        thread = threading.Thread(target=lambda: found.append(locale.str(1.5)))
        thread.start()
        thread.join()
        found.append(locale.str(1.5))
    assert [*found, locale.str(1.5)] == ["1,5", "1.5", "1,5"]


def test_where_threads_share_a_locale_it_is_set_and_restored(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(locale, "localeconv", lambda: {"decimal_point": ","})
    monkeypatch.setattr(
        locale, "setlocale", lambda which, name=None: said.append((which, name)) or "comma"
    )
    with pytest.raises(RuntimeError, match="inside"), decimal_point():
        raise RuntimeError("inside")
    numeric = locale.LC_NUMERIC
    assert said == [(numeric, None), (numeric, "C"), (numeric, "comma")]
