"""Images of SimpleITK and nibabel stand where their files would; what has no place is refused."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid

import hybridreg
from hybridreg.case_files import read_case, start_of
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.io.images import read_image, read_labels, to_sitk, write_image
from hybridreg.io.objects import as_image, as_labels, as_landmarks, as_transform
from hybridreg.io.transforms import write_transform
from hybridreg.transforms import rigid


def image(grid, *, channels: int = 1, dtype: str = "float32") -> Image:
    count = channels * int(np.prod(grid.shape))
    return Image(torch.arange(count).reshape(channels, *grid.shape) - 7.0, grid, dtype)


def assert_same(found, expected):
    assert found.grid.shape == expected.grid.shape and found.grid.matches(expected.grid)
    assert torch.equal(found.data, expected.data)


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_simpleitk_image_is_what_its_file_holds(tmp_path, dimension, channels, left_handed):
    theirs = to_sitk(image(oblique_grid(dimension, left_handed=left_handed), channels=channels))
    sitk.WriteImage(theirs, str(tmp_path / "a.mha"))
    assert_same(as_image(theirs), read_image(tmp_path / "a.mha"))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64", ">i2"])
@pytest.mark.parametrize("left_handed", [False, True])
def test_a_nibabel_image_is_what_its_file_holds_wherever_it_came_from(tmp_path, dtype, left_handed):
    source = image(oblique_grid(3, left_handed=left_handed))
    write_image(tmp_path / "a.nii.gz", source)
    affine = nibabel.load(tmp_path / "a.nii.gz").affine
    values = np.abs(source.data[0].numpy().T % 100).astype(dtype)  # (x, y, z)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.MGHImage):
        if kind is nibabel.MGHImage and dtype == "float64":
            continue  # MGH has no such type
        theirs = kind(values, affine)
        name = tmp_path / ("b.mgz" if kind is nibabel.MGHImage else "b.nii")
        nibabel.save(theirs, name)
        for one in (theirs, nibabel.load(name)):
            assert_same(as_image(one), read_image(name))
            assert as_image(one).dtype == read_image(name).dtype
            assert_same(as_labels(one), read_labels(name))
        assert as_image(theirs).grid.matches(source.grid)


def test_a_changed_affine_and_a_scaled_header_count_as_nibabel_means_them(tmp_path):
    write_image(tmp_path / "a.nii", image(oblique_grid(3), dtype="int16"))
    loaded = nibabel.load(tmp_path / "a.nii")
    moved = nibabel.Nifti1Image(
        loaded.get_fdata() * 0.3, np.diag([1, 1, 2, 1]) @ np.diag([-1.0, 1, 1, 1]), loaded.header
    )
    header = moved.header.binaryblock
    found = as_image(moved)
    assert found.grid.spacing == (1, 1, 2) and found.grid.direction[0][0] == 1  # L
    assert found.grid.direction[1][1] == -1  # A
    expected = torch.from_numpy(loaded.get_fdata().T * 0.3).float()
    assert torch.equal(found.data[0], expected)
    assert moved.header.binaryblock == header  # theirs is left alone


def test_a_2d_nibabel_image_and_a_vector_image_keep_their_axes(tmp_path):
    for grid, channels in ((oblique_grid(2), 1), (oblique_grid(3), 3), (oblique_grid(2), 2)):
        write_image(tmp_path / "a.nii", image(grid, channels=channels))
        found = as_image(nibabel.load(tmp_path / "a.nii"))
        assert_same(found, read_image(tmp_path / "a.nii"))


def test_a_case_takes_objects_as_it_takes_files(tmp_path):
    grid = oblique_grid(3)
    fixed, count = image(grid), int(np.prod(grid.shape))
    labels = LabelMap(torch.arange(count).reshape(grid.shape) % 5, grid)
    points = [[-39.0, 26.0, 61.0], [-35.0, 30.0, 70.0]]
    write_image(tmp_path / "f.nii", fixed)
    case = read_case(
        to_sitk(fixed), nibabel.load(tmp_path / "f.nii"), fixed_mask=to_sitk(labels),
        fixed_labels=to_sitk(labels), moving_labels=labels, fixed_landmarks=points,
        moving_landmarks=np.array(points),
    )  # fmt: skip
    assert_same(case.pair.fixed, fixed)
    assert_same(case.pair.moving, fixed)
    for found in (case.pair.fixed_mask, case.fixed_labels, case.moving_labels):
        assert_same(found, labels)
    assert case.fixed_landmarks.points.tolist() == case.moving_landmarks.points.tolist() == points
    turn = rigid([10.0, 5.0, -7.0], [1.0, 2.0, 3.0], grid.center)
    write_transform(tmp_path / "t.tfm", turn)
    theirs = sitk.ReadTransform(str(tmp_path / "t.tfm"))
    start = start_of(theirs, case.pair)
    assert np.allclose(start(points), [theirs.TransformPoint(p) for p in points], atol=1e-9)


@pytest.mark.parametrize("array", [np.zeros((4, 5, 6)), torch.zeros(4, 5, 6), [[1, 2], [3, 4]]])
def test_an_array_has_no_place_and_the_error_shows_how_to_give_it_one(array):
    with pytest.raises(ValueError, match=r"^the fixed image: found .*hybridreg.Grid\(array"):
        hybridreg.register(array, array)
    made = hybridreg.Image(np.zeros((4, 5, 6)), hybridreg.Grid((4, 5, 6), (1.0, 1.0, 3.0)))
    assert made.grid.size == (6, 5, 4)  # the example of the error


def test_what_is_no_label_map_no_point_and_no_transform_is_refused_in_words():
    grid = oblique_grid(3)
    half = Image(torch.full(grid.shape, 0.5), grid)
    for bad in (half, to_sitk(half)):
        with pytest.raises(ValueError, match="whole numbers"):
            as_labels(bad)
    with pytest.raises(ValueError, match="2 channels"):
        as_labels(image(grid, channels=2))
    wide = sitk.GetImageFromArray(np.array([[[0, 1 << 40]]]))
    with pytest.raises(ValueError, match="32 bits"):
        as_labels(wide)
    with pytest.raises(ValueError, match="complex"):
        as_image(sitk.GetImageFromArray(np.zeros((2, 3, 4), complex)))
    with pytest.raises(ValueError, match="5 frames"):
        as_image(nibabel.Nifti1Image(np.zeros((3, 4, 5, 5), "f4"), np.eye(4)))
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        as_landmarks([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="found object"):
        as_landmarks(object())
    with pytest.raises(ValueError, match=r"hybridreg.AffineTransform\(matrix\)"):
        as_transform(np.eye(4))
    assert isinstance(as_landmarks(LandmarkSet(torch.zeros(1, 3))), LandmarkSet)


def test_where_only_our_own_values_fit_the_error_says_how_to_make_one():
    grid = oblique_grid(3)
    ours, theirs = image(grid), to_sitk(image(grid))
    still = rigid([0.0, 0, 0], [0.0, 0, 0], grid.center)
    for call in (
        lambda: hybridreg.warp(theirs, still, onto=grid),
        lambda: hybridreg.warp(ours, still, onto=ours),
        lambda: hybridreg.ImagePair(theirs, ours),
    ):
        with pytest.raises(ValueError, match="hybridreg.as_image"):
            call()
    found = hybridreg.warp(hybridreg.as_image(theirs), still, onto=grid)
    assert torch.allclose(found.data, ours.data, atol=1e-3)
