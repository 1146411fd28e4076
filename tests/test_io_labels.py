"""Labels and masks as people save them: rescaled, with NaN around, as probabilities."""

import nibabel
import numpy as np
import pytest
import torch
from conftest import oblique_grid

from hybridreg.case_files import read_case
from hybridreg.images import Image
from hybridreg.io.images import read_labels, read_mask, write_image

LABELS = np.random.default_rng(5).integers(0, 4, (7, 6, 5))


def saved(path, values, dtype=np.float32):
    """By nibabel, with the header's own number type, to which it finds a slope."""
    image = nibabel.Nifti1Image(np.asarray(values, dtype=np.float64), np.diag([-1, -1, 1, 1]))
    image.set_data_dtype(dtype)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("read", [read_labels, read_mask])
def test_labels_that_a_header_rescales_are_rounded_and_said(tmp_path, caplog, read):
    path = saved(tmp_path / "a.nii", LABELS, np.uint8)
    slope = float(nibabel.load(path).dataobj.slope)
    assert slope == pytest.approx(3 / 255)
    stored = np.asarray(nibabel.load(path).dataobj)
    assert not np.array_equal(stored, LABELS) and np.abs(stored - LABELS).max() < 1e-3
    assert np.array_equal(read(path).data, LABELS.T)
    assert "from whole numbers were rounded" in caplog.text


def test_labels_that_rescaling_has_moved_too_far_are_refused_with_the_slope(tmp_path):
    path = saved(tmp_path / "a.nii", LABELS * 7 / 3 - 1 / 3 * (LABELS == 1), np.uint8)
    assert np.abs(np.asarray(nibabel.load(path).dataobj) % 1 - 0.5).min() < 0.49
    with pytest.raises(ValueError, match=r"whole numbers.*saved as integers \(the header rescales"):
        read_labels(path)


def test_whole_labels_need_no_words(tmp_path, caplog):
    for dtype in (np.uint8, np.int16, np.float32):
        image = nibabel.Nifti1Image(LABELS.astype(dtype), np.eye(4))
        nibabel.save(image, tmp_path / "a.nii")
        caplog.clear()
        read_labels(tmp_path / "a.nii")
        assert "rounded" not in caplog.text


@pytest.mark.parametrize(("read", "words"), [
    (read_labels, "its labels have 30 voxels that are NaN or infinite: replace them by 0"),
    (read_mask, "this mask has 30 voxels that are NaN or infinite: replace them by 0"),
])  # fmt: skip
def test_a_background_of_nan_is_named(tmp_path, read, words):
    values = LABELS.astype(float)
    values[0] = np.nan
    with pytest.raises(ValueError, match=f"a.nii: {words}"):
        read(saved(tmp_path / "a.nii", values))


@pytest.mark.parametrize(("values", "found"), [
    (LABELS / 4, "from 0 to 0.75"), (LABELS - 1, "from -1 to 2"), (LABELS * 100.5, "to 301.5"),
])  # fmt: skip
def test_what_is_no_mask_is_to_be_thresholded(tmp_path, values, found):
    with pytest.raises(ValueError, match=f"a mask is 0 outside.*{found}: threshold it"):
        read_mask(saved(tmp_path / "a.nii", values))


@pytest.mark.parametrize("inside", [1, 255, 17])
def test_a_mask_of_any_one_value_is_a_mask(tmp_path, caplog, inside):
    path = saved(tmp_path / "a.nii", inside * (LABELS > 1))
    assert np.array_equal(read_mask(path).data != 0, LABELS.T > 1)
    assert "inside" not in caplog.text


def test_a_mask_of_many_values_says_that_all_are_inside(tmp_path, caplog):
    mask = read_mask(saved(tmp_path / "a.nii", LABELS))
    assert np.array_equal(mask.data != 0, LABELS.T > 0)
    assert "this mask has 3 values from 1 to 3 besides 0; all of them are inside" in caplog.text


def test_a_mask_has_one_channel(tmp_path):
    write_image(tmp_path / "a.mha", Image(torch.ones(2, *oblique_grid().shape), oblique_grid()))
    with pytest.raises(ValueError, match="2 channels; a mask has one"):
        read_mask(tmp_path / "a.mha")


def test_a_case_takes_rounded_masks_and_refuses_soft_ones(tmp_path, caplog):
    grid = oblique_grid()
    image = Image(torch.rand(1, *grid.shape), grid)
    inside = image.data > 0.5
    write_image(tmp_path / "near.mha", Image(inside * 1.0001, grid))
    write_image(tmp_path / "soft.mha", Image(inside * 0.5, grid))
    case = read_case(image, image, fixed_mask=tmp_path / "near.mha")
    assert torch.equal(case.pair.fixed_mask.data != 0, inside[0])
    assert "near.mha: values up to 0.0001 from whole numbers were rounded" in caplog.text
    with pytest.raises(ValueError, match="soft.mha: a mask is 0 outside"):
        read_case(image, image, fixed_mask=tmp_path / "soft.mha")
