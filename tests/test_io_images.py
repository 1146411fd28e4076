"""Files as SimpleITK and nibabel understand them; what is odd is said, what is broken is refused."""

import gzip
import json
import logging
import re
import shutil
import struct
import zlib
from dataclasses import replace

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import (
    describe,
    from_sitk,
    read_image,
    read_labels,
    to_sitk,
    write_image,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
VOLUMES = (".nii", ".nii.gz", ".mha", ".nrrd")
SINGLE_FILES = (*VOLUMES, ".mgz", ".png", ".tif", ".jpg", ".bmp")


def phantom(grid: Grid, *, channels: int = 1, dtype: str = "float32") -> Image:
    """Noise that no permutation or flip leaves as it is, within the bounds of its number type."""
    noise = np.random.default_rng(7).uniform(0, 250, (channels, *grid.shape))
    values = noise.astype(np.float32) if dtype == "float32" else np.rint(noise)
    return Image(torch.tensor(values), grid, dtype)


def assert_same_place(grid: Grid, image: sitk.Image, tolerance: float = 1e-5):
    assert grid.size == image.GetSize()
    assert np.allclose(grid.spacing, image.GetSpacing(), atol=tolerance, rtol=0)
    assert np.allclose(grid.origin, image.GetOrigin(), atol=tolerance, rtol=0)
    assert np.allclose(np.ravel(grid.direction), image.GetDirection(), atol=tolerance, rtol=0)


def assert_same_grid(found: Grid, expected: Grid):
    """Up to the rounding of a NIfTI header, which holds float32."""
    assert found.shape == expected.shape
    for name in ("spacing", "origin", "direction"):
        assert np.allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6)


def affine(angles=(20.0, -35.0, 15.0), zooms=(1.1, 0.9, 2.3), origin=(40.0, -25.0, 60.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * zooms
    matrix[:3, 3] = origin
    return matrix


def write_nifti(path, *, qform=None, sform=None, codes=(1, 1), zooms=(1.1, 0.9, 2.3), **fields):
    """A header with any contradiction in it, which no library would write. Affines are RAS."""
    values = np.arange(5 * 6 * 7, dtype=np.int16).reshape(7, 6, 5)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(values.shape[::-1])
    header.set_zooms(zooms)
    if qform is not None:
        header.set_qform(qform, codes[0])
    if sform is not None:
        header.set_sform(sform, codes[1])
    header["pixdim"][1:4] = zooms
    header["qform_code"], header["sform_code"] = codes
    header["xyzt_units"], header["vox_offset"] = 2, 352
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + bytes(4) + values.tobytes())
    return path


# Round trips


@pytest.mark.parametrize("ending", VOLUMES)
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize(("channels", "dtype"), [(1, "int16"), (1, "float32"), (3, "float32")])
def test_files_keep_values_and_place_as_simpleitk_sees_them(
    tmp_path, ending, dimension, left_handed, channels, dtype
):
    grid = oblique_grid(dimension, left_handed=left_handed)
    image = phantom(grid, channels=channels, dtype=dtype)
    path = tmp_path / f"image{ending}"
    write_image(path, image)
    theirs = sitk.ReadImage(str(path))
    assert theirs.GetNumberOfComponentsPerPixel() == channels
    assert_same_place(grid, theirs)
    expected = np.moveaxis(image.data.numpy(), 0, -1) if channels > 1 else image.data[0].numpy()
    assert np.array_equal(sitk.GetArrayFromImage(theirs), expected)
    ours = read_image(path)
    assert ours.dtype == dtype
    assert torch.equal(ours.data, image.data)
    assert_same_grid(ours.grid, grid)
    assert_same_place(ours.grid, theirs)


@pytest.mark.parametrize("ending", [".mhd", ".nhdr", ".mha", ".nrrd", ".nii.gz"])
@pytest.mark.parametrize("compressed", [False, True])
def test_files_of_simpleitk_are_read_as_they_were_written(tmp_path, ending, compressed):
    theirs = to_sitk(phantom(oblique_grid(left_handed=True)))
    sitk.WriteImage(theirs, str(tmp_path / f"theirs{ending}"), compressed)
    ours = read_image(tmp_path / f"theirs{ending}")
    assert_same_place(ours.grid, theirs)
    assert np.array_equal(ours.data[0], sitk.GetArrayFromImage(theirs))


def test_nibabel_reads_our_nifti_in_its_own_convention(tmp_path):
    image = phantom(oblique_grid(left_handed=True), dtype="int16")
    write_image(tmp_path / "ours.nii.gz", image)
    theirs = nibabel.load(tmp_path / "ours.nii.gz")
    expected = LPS @ image.grid.voxel_to_physical().numpy()
    for form in (theirs.get_sform(), theirs.get_qform()):
        assert np.allclose(form, expected, atol=1e-5)
    assert (theirs.header["qform_code"], theirs.header["sform_code"]) == (1, 1)
    assert theirs.header.get_xyzt_units()[0] == "mm"
    assert theirs.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(theirs.dataobj).T, image.data[0])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.Nifti1Pair])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_kind_of_nifti_is_read(tmp_path, kind, order):
    values = phantom(oblique_grid()).data[0].numpy().T
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(np.float32).newbyteorder(order))
    path = tmp_path / ("pair.img" if kind is nibabel.Nifti1Pair else "single.nii")
    nibabel.save(kind(values, affine(), header), path)
    assert nibabel.load(path).header.endianness == order
    for name in {path, path.with_suffix(".hdr")} if path.suffix == ".img" else {path}:
        image = read_image(name)
        assert np.array_equal(image.data[0], values.T)
        assert np.allclose(image.grid.voxel_to_physical(), LPS @ affine(), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_freesurfer_volumes_become_lps(tmp_path, dtype):
    values = phantom(oblique_grid()).data[0].numpy().T.astype(dtype)
    nibabel.save(nibabel.MGHImage(values, affine()), tmp_path / "brain.mgz")
    image = read_image(tmp_path / "brain.mgz")
    assert image.dtype == np.dtype(dtype).name
    assert np.array_equal(image.data[0], values.T)
    assert np.allclose(image.grid.voxel_to_physical(), LPS @ affine(), atol=1e-4)


@pytest.mark.parametrize(("ending", "dtype"), [(".png", "uint8"), (".png", "uint16"),
                                               (".tif", "uint8"), (".tiff", "uint16"),
                                               (".tif", "float32")])  # fmt: skip
def test_pictures_keep_values_but_not_the_grid(tmp_path, ending, dtype):
    image = phantom(oblique_grid(2), dtype=dtype)
    image = replace(image, data=image.data * (200 if dtype == "uint16" else 1))
    write_image(tmp_path / f"slice{ending}", image)
    found = read_image(tmp_path / f"slice{ending}")
    assert found.dtype == dtype
    assert torch.equal(found.data, image.data)
    assert found.grid == Grid(image.grid.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dimension", [2, 3])
def test_conversion_to_simpleitk_keeps_points_where_they_are(dimension, channels):
    image = phantom(oblique_grid(dimension, left_handed=True), channels=channels)
    theirs = to_sitk(image)
    index = tuple(range(3, 3 + dimension))
    point = image.grid.points()[index[::-1]]
    assert np.allclose(theirs.TransformIndexToPhysicalPoint(index), point, atol=1e-9)
    assert np.allclose(theirs[index], image.data[(slice(None), *index[::-1])].squeeze())
    back = from_sitk(theirs)
    assert torch.equal(back.data, image.data)
    assert back.grid == image.grid


def test_conversion_keeps_number_types_and_refuses_four_axes():
    assert from_sitk(sitk.Image([4, 5, 6], sitk.sitkUInt16)).dtype == "uint16"
    assert from_sitk(sitk.Image([4, 5, 6], sitk.sitkFloat64)).dtype == "float32"
    labels = LabelMap(torch.arange(20).reshape(4, 5), Grid((4, 5)))
    assert to_sitk(labels).GetPixelID() == sitk.sitkInt32
    with pytest.raises(ValueError, match="2 or 3 axes"):
        from_sitk(sitk.Image([4, 5, 6, 2], sitk.sitkInt16))


# What NIfTI headers say about place


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    codes=st.sampled_from([(1, 0), (0, 1), (1, 1), (0, 2), (2, 0), (4, 1)]),
    flipped=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_rotation_is_placed_as_by_simpleitk(tmp_path_factory, angles, codes, flipped):
    matrix = affine(angles) @ np.diag([1, 1, -1 if flipped else 1, 1])
    path = tmp_path_factory.mktemp("nifti") / "any.nii"
    write_nifti(path, qform=matrix, sform=matrix, codes=codes)
    assert_same_place(read_image(path).grid, sitk.ReadImage(str(path)))


@pytest.mark.parametrize("half_turn", [(180, 0, 0), (0, 180, 0), (0, 0, 180), (180, 0, 0.01)])
def test_quaternions_of_half_turns_are_read_as_by_simpleitk(tmp_path, half_turn):
    path = write_nifti(tmp_path / "half.nii", qform=affine(half_turn), codes=(1, 0))
    assert_same_place(read_image(path).grid, sitk.ReadImage(str(path)))


def test_the_rounding_of_a_half_turn_is_not_taken_for_a_rotation(tmp_path):
    b, c = np.float32([0.5079998970031738, 0.8613570928573608])
    rest = 1 - float(b) ** 2 - float(c) ** 2
    assert 1e-8 < rest < 1e-7  # its root, the real part, would turn the image by 0.03 degrees
    path = write_nifti(tmp_path / "h.nii", codes=(1, 0), quatern_b=b, quatern_c=c)
    assert_same_place(read_image(path).grid, sitk.ReadImage(str(path)))


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (4, 4), (1, 4), (4, 1), (2, 2)])
def test_conflicting_placements_are_resolved_as_by_simpleitk_and_said(tmp_path, caplog, codes):
    other = affine((0.0, 5.0, 0.0), origin=(-10.0, 5.0, 3.0))
    path = write_nifti(tmp_path / "c.nii", qform=affine(), sform=other, codes=codes)
    grid = read_image(path).grid
    assert_same_place(grid, sitk.ReadImage(str(path)))
    taken = "sform" if codes[1] == 1 else "qform"
    expected = other if taken == "sform" else affine()
    assert np.allclose(grid.voxel_to_physical(), LPS @ expected, atol=1e-5)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "disagree" in record.message and f"the {taken} was taken" in record.message
    assert "from [-40.0, 25.0, 60.0]" in record.message  # where the qform puts the first voxel


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (0, 1), (1, 0)])
@pytest.mark.parametrize("degrees", [0.003, 0.03])  # to ITK the same, and no more the same
def test_agreeing_placements_need_no_words(tmp_path, caplog, codes, degrees):
    noisy = affine(angles=(20.0 + degrees, -35.0, 15.0))
    path = write_nifti(tmp_path / "a.nii", qform=affine(), sform=noisy, codes=codes)
    assert_same_place(read_image(path).grid, sitk.ReadImage(str(path)))
    assert not caplog.records


def test_without_any_placement_axes_are_taken_as_by_simpleitk(tmp_path, caplog):
    path = write_nifti(tmp_path / "n.nii", codes=(0, 0))
    image = read_image(path)
    assert_same_place(image.grid, sitk.ReadImage(str(path)))
    assert "orientation and position are unknown" in caplog.text
    assert describe(path)["axes_point_to"] is None


def sheared():
    matrix = affine((0.0, 5.0, 0.0))
    matrix[1, 2] += 0.5
    matrix[:3, 2] *= 2.3 / np.linalg.norm(matrix[:3, 2])
    return matrix


def test_a_sheared_sform_gives_way_to_the_qform(tmp_path, caplog):
    path = write_nifti(tmp_path / "s.nii", qform=affine(), sform=sheared())
    assert_same_place(read_image(path).grid, sitk.ReadImage(str(path)))
    assert "sheared" in caplog.text and "the qform was taken instead" in caplog.text


def test_a_trace_of_shear_is_left_to_the_qform_or_taken_as_rounding(tmp_path):
    traced = affine()
    traced[:3, 2] += 5e-4 * traced[:3, 1]
    path = write_nifti(tmp_path / "t.nii", qform=affine(), sform=traced)
    assert_same_place(read_image(path).grid, sitk.ReadImage(str(path)))
    path = write_nifti(tmp_path / "t.nii", sform=traced, codes=(0, 1))  # SimpleITK refuses this
    assert np.allclose(read_image(path).grid.voxel_to_physical(), LPS @ traced, atol=1e-5)


@pytest.mark.parametrize("unit", [2, 1, 3])
def test_a_sheared_sform_alone_is_refused(tmp_path, unit):
    path = write_nifti(tmp_path / "s.nii", sform=sheared(), codes=(0, 1), xyzt_units=unit)
    with pytest.raises(ValueError, match="gantry tilt.*resample the image to a right-angled grid"):
        read_image(path)


def test_voxel_sizes_that_disagree_are_never_guessed(tmp_path, caplog):
    larger = affine(zooms=(1.65, 1.35, 3.45))
    with pytest.raises(ValueError, match="1.65 x 1.35 x 3.45 mm and pixdim of 1.1 x 0.9 x 2.3"):
        read_image(write_nifti(tmp_path / "a.nii", sform=larger, codes=(0, 1)))
    path = write_nifti(tmp_path / "b.nii", qform=affine(), sform=larger)
    assert np.allclose(read_image(path).grid.spacing, (1.1, 0.9, 2.3))
    assert "the qform was taken instead" in caplog.text


@pytest.mark.parametrize("bad", [0.0, -0.9, np.nan, np.inf])
def test_a_pixdim_that_is_no_size_is_replaced_by_the_sform_or_refused(tmp_path, caplog, bad):
    zooms = (1.1, bad, 2.3)
    path = write_nifti(tmp_path / "p.nii", qform=affine(), sform=affine(), zooms=(1, 1, 1))
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array(zooms, np.float32).tobytes()
    path.write_bytes(raw)
    assert np.allclose(read_image(path).grid.voxel_to_physical(), LPS @ affine(), atol=1e-5)
    assert "that of the sform was taken" in caplog.text
    for codes in (1, 0), (0, 0):
        raw[252:256] = np.array(codes, np.int16).tobytes()
        path.write_bytes(raw)
        with pytest.raises(ValueError, match="pixdim is .* and must be positive"):
            read_image(path)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000), (2, 1), (3, 0.001), (0, 1), (10, 1)])
def test_units_become_mm(tmp_path, caplog, code, factor):
    path = write_nifti(tmp_path / "u.nii", qform=affine(), sform=affine(), xyzt_units=code)
    grid = read_image(path).grid
    # In meters an origin of 60 is 60,000 mm, where float32 steps by 0.004.
    assert_same_place(grid, sitk.ReadImage(str(path)), 1e-5 * max(1, factor))
    assert np.allclose(grid.spacing, np.array([1.1, 0.9, 2.3]) * factor)
    assert ("converted to mm" in caplog.text) == (factor != 1)


@pytest.mark.parametrize("break_it", ["zero", "nan", "flat"])
def test_singular_placements_are_refused(tmp_path, break_it):
    bad = affine()
    if break_it == "flat":
        bad[:3, 2] = bad[:3, 1]
    else:
        bad[:3, 2] = {"zero": 0.0, "nan": np.nan}[break_it]
    path = write_nifti(tmp_path / "s.nii", sform=bad, codes=(0, 1))
    with pytest.raises(ValueError, match="the sform is singular"):
        read_image(path)


def test_a_qform_that_is_no_rotation_gives_way_or_is_refused(tmp_path, caplog):
    broken = {"quatern_b": 0.9, "quatern_c": 0.9}
    path = write_nifti(tmp_path / "q.nii", sform=affine(), codes=(1, 1), **broken)
    assert np.allclose(read_image(path).grid.voxel_to_physical(), LPS @ affine(), atol=1e-5)
    assert "the sform was taken instead" in caplog.text
    path = write_nifti(tmp_path / "q.nii", codes=(1, 0), **broken)
    with pytest.raises(ValueError, match="the qform is not a rotation"):
        read_image(path)


@pytest.mark.parametrize(("slope", "intercept", "expected"), [
    (0.5, -7.0, (0.5, -7.0)), (-2.0, np.nan, (-2.0, 0.0)),
    (0.0, 5.0, (1, 0)), (np.nan, 5.0, (1, 0)), (1.0, 0.0, (1, 0)), (1.0, -1024.0, (1, -1024)),
])  # fmt: skip
def test_the_scaling_of_a_header_is_applied(tmp_path, slope, intercept, expected):
    path = write_nifti(tmp_path / "s.nii", qform=affine(), codes=(1, 0), scl_slope=slope,
                       scl_inter=intercept)  # fmt: skip
    image = read_image(path)
    stored = torch.arange(5 * 6 * 7, dtype=torch.float32).reshape(1, 7, 6, 5)
    assert torch.allclose(image.data, stored * expected[0] + expected[1])
    # Rescaled numbers do not fit the type they were stored in.
    assert image.dtype == ("int16" if expected == (1, 0) else "float32")
    ends = sorted([expected[1], 209 * expected[0] + expected[1]])
    assert describe(path)["range"] == pytest.approx(ends)


# Axes beyond three, and fewer


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ".mgz"])
def test_one_frame_of_several_must_be_chosen(tmp_path, ending):
    values = np.random.default_rng(1).normal(size=(5, 6, 7, 4)).astype(np.float32)
    path = tmp_path / f"series{ending}"
    if ending == ".mgz":
        nibabel.save(nibabel.MGHImage(values, affine()), path)
    elif ending == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(values, affine()), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values.T, isVector=False), str(path))
    with pytest.raises(ValueError, match="holds 4 frames: choose one, frame=0 to frame=3"):
        read_image(path)
    assert np.array_equal(read_image(path, frame=2).data[0], values[..., 2].T)
    for frame in (4, -1):
        with pytest.raises(ValueError, match=f"no frame {frame}"):
            read_image(path, frame=frame)
    assert describe(path)["frames"] == 4


@pytest.mark.parametrize(("shape", "expected"), [
    ((5, 6, 7, 1), (7, 6, 5)), ((5, 6, 7, 1, 1), (7, 6, 5)), ((5, 6, 1), (1, 6, 5)),
    ((5, 6, 1, 1), (1, 6, 5)), ((5, 6), (6, 5)),
])  # fmt: skip
def test_axes_of_one_are_dropped_behind_the_third_only(tmp_path, shape, expected):
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -2, 3, 1])), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    assert image.grid == Grid(expected, (1.5, 2.0, 3.0)[: len(expected)])
    assert np.array_equal(image.data[0], values.T.reshape(expected))


def test_time_and_channels_at_once_are_refused(tmp_path):
    values = np.ones((5, 6, 7, 2, 3), np.float32)
    nibabel.save(nibabel.Nifti1Image(values, affine()), tmp_path / "a.nii")
    with pytest.raises(ValueError, match="5 axes .5x6x7x2x3."):
        read_image(tmp_path / "a.nii")


def test_a_2d_nifti_keeps_its_place_only_in_an_axial_plane(tmp_path, caplog):
    values = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    path = tmp_path / "flat.nii"
    nibabel.save(nibabel.Nifti1Image(values, affine((0, 0, 25.0))), path)
    assert_same_place(read_image(path).grid, sitk.ReadImage(str(path)))
    assert not caplog.records
    nibabel.save(nibabel.Nifti1Image(values, affine((0, 90.0, 25.0))), path)
    assert read_image(path).grid == Grid((6, 5), np.float32((1.1, 0.9)))
    assert "does not lie in an axial plane" in caplog.text


def test_a_2d_nifti_needs_no_third_axis(tmp_path):
    path = write_nifti(tmp_path / "a.nii", zooms=(1.5, 2.0, 0.0), codes=(1, 2), dim=[2, 5, 42] + [1] * 5,
                       srow_x=[-1.5, 0, 0, 4], srow_y=[0, -2, 0, 5], srow_z=[0, 0, 0, 0],
                       quatern_d=1.0, qoffset_x=4, qoffset_y=5)  # fmt: skip
    assert read_image(path).grid == Grid((42, 5), (1.5, 2.0), (-4.0, -5.0))


# Labels


@pytest.mark.parametrize(("top", "dtype"), [(255, np.uint8), (256, np.int16), (40000, np.int32)])
@pytest.mark.parametrize("ending", VOLUMES)
def test_label_maps_are_written_in_the_smallest_type_that_holds_them(tmp_path, ending, top, dtype):
    data = torch.randint(0, 250, oblique_grid().shape)
    data[1, 2, 3] = top
    labels = LabelMap(data, oblique_grid())
    write_image(tmp_path / f"labels{ending}", labels)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"labels{ending}")))
    assert stored.dtype == dtype
    found = read_labels(tmp_path / f"labels{ending}")
    assert torch.equal(found.data, labels.data)
    assert_same_grid(found.grid, labels.grid)


def test_labels_as_pictures(tmp_path):
    for top in (200, 60000):
        labels = LabelMap(torch.randint(0, top, (20, 30)), Grid((20, 30)))
        write_image(tmp_path / "labels.png", labels)
        assert torch.equal(read_labels(tmp_path / "labels.png").data, labels.data)
    with pytest.raises(ValueError, match="PNG cannot hold labels from -1 to "):
        write_image(tmp_path / "x.png", replace(labels, data=labels.data - labels.data.min() - 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16, np.int8])
def test_whole_numbers_of_any_type_are_labels(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(values, affine(), dtype=dtype), tmp_path / "a.nii")
    assert np.array_equal(read_labels(tmp_path / "a.nii").data, values.T)


def test_large_labels_are_exact_and_larger_ones_refused(tmp_path):
    values = np.full((5, 6, 7), 2**31 - 1, np.int64)  # float32 would round it to 2**31
    nibabel.save(nibabel.Nifti1Image(values, affine(), dtype=np.int64), tmp_path / "a.nii")
    assert read_labels(tmp_path / "a.nii").labels() == [2**31 - 1]
    nibabel.save(nibabel.Nifti1Image(values + 1, affine(), dtype=np.int64), tmp_path / "b.nii")
    with pytest.raises(ValueError, match="renumber"):
        read_labels(tmp_path / "b.nii")


@pytest.mark.parametrize(("bad", "words"), [
    (0.5, "whole numbers; found 0.5: is this an image"),
    (np.nan, "its labels have 1 voxels that are NaN or infinite: replace them by 0"),
    (np.inf, "its labels have 1 voxels that are NaN or infinite"),
])  # fmt: skip
def test_an_image_is_no_label_map(tmp_path, bad, words):
    data = torch.ones(oblique_grid().shape)
    data[3, 4, 5] = bad
    write_image(tmp_path / "a.mha", Image(data, oblique_grid()))
    with pytest.raises(ValueError, match=words):
        read_labels(tmp_path / "a.mha")
    write_image(tmp_path / "b.mha", phantom(oblique_grid(), channels=2))
    with pytest.raises(ValueError, match="2 channels; a label map has one"):
        read_labels(tmp_path / "b.mha")


# Number types


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
@pytest.mark.parametrize("ending", VOLUMES)
def test_integers_are_rounded_and_clamped_and_never_wrap(tmp_path, dtype, ending):
    limits = np.iinfo(dtype)
    data = torch.tensor([-1e20, -5.0, -0.6, 0.4, 0.6, 99.7, 1e20, float("inf")]).reshape(2, 2, 2)
    write_image(tmp_path / f"a{ending}", Image(data, Grid((2, 2, 2)), dtype))
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"a{ending}"))).ravel()
    low = limits.min
    expected = [low, max(-5, low), max(-1, low), 0, 1, 100, limits.max, limits.max]
    assert stored.dtype == dtype
    assert stored.tolist() == expected


def test_nan_is_not_turned_into_an_integer(tmp_path):
    data = torch.full((4, 4, 4), float("nan"))
    with pytest.raises(ValueError, match="NaN, which int16 cannot hold"):
        write_image(tmp_path / "a.nii.gz", Image(data, Grid((4, 4, 4)), "int16"))
    write_image(tmp_path / "a.nii.gz", Image(data, Grid((4, 4, 4))))
    assert read_image(tmp_path / "a.nii.gz").data.isnan().all()
    about = describe(tmp_path / "a.nii.gz")
    assert (about["range"], about["not_finite"]) == (None, 64)


@pytest.mark.parametrize(("dtype", "kept"), [
    (np.uint8, "uint8"), (np.int8, "int8"), (np.uint16, "uint16"), (np.int16, "int16"),
    (np.uint32, "uint32"), (np.int32, "int32"), (np.float32, "float32"),
    (np.float64, "float32"), (np.int64, "float32"), (np.uint64, "float32"),
])  # fmt: skip
def test_the_number_type_of_the_file_is_known(tmp_path, dtype, kept):
    values = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(dtype)
    for path in (tmp_path / "a.nii", tmp_path / "a.nrrd"):
        if path.suffix == ".nii":
            nibabel.save(nibabel.Nifti1Image(values, affine(), dtype=dtype), path)
        else:
            sitk.WriteImage(sitk.GetImageFromArray(values.T), str(path))
        image = read_image(path)
        assert (image.dtype, describe(path)["dtype"]) == (kept, np.dtype(dtype).name)
        assert np.array_equal(image.data[0], values.T)


def test_complex_and_color_volumes_are_refused_in_words(tmp_path):
    values = np.ones((5, 6, 7), np.complex64)
    nibabel.save(nibabel.Nifti1Image(values, affine()), tmp_path / "a.nii")
    colors = np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colors, affine()), tmp_path / "rgb.nii")
    for name, words in (("a.nii", "complex.*magnitude"), ("rgb.nii", "RGB colors")):
        with pytest.raises(ValueError, match=words):
            read_image(tmp_path / name)


# Pictures


def save_picture(path, values, **options):
    PIL.Image.fromarray(values).save(path, **options)
    return path


def gray_and_color():
    gray = np.random.default_rng(3).integers(0, 255, (17, 19), dtype=np.uint8)
    return gray, np.stack([gray, gray, gray], -1), np.stack([gray, gray[::-1], gray], -1)


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_gray_stored_as_color_is_one_channel(tmp_path, ending):
    gray, equal, colored = gray_and_color()
    image = read_image(save_picture(tmp_path / f"a{ending}", equal))
    assert np.array_equal(image.data, gray[None])
    assert (image.dtype, image.grid) == ("uint8", Grid((17, 19)))
    with pytest.raises(ValueError, match="color picture: convert it to gray"):
        read_image(save_picture(tmp_path / f"b{ending}", colored))


def test_constant_transparency_is_ignored_and_other_refused(tmp_path):
    gray, equal, _ = gray_and_color()
    full = np.full_like(gray, 255)
    image = read_image(save_picture(tmp_path / "a.png", np.dstack([equal, full])))
    assert np.array_equal(image.data, gray[None])
    with pytest.raises(ValueError, match="transparent"):
        read_image(save_picture(tmp_path / "b.png", np.dstack([equal, gray])))


def test_a_picture_has_no_size_in_mm(tmp_path, caplog):
    gray, *_ = gray_and_color()
    caplog.set_level(logging.INFO)
    for ending in (".png", ".tif", ".jpg", ".bmp"):
        caplog.clear()
        path = save_picture(tmp_path / f"a{ending}", gray, dpi=(100, 100))
        assert read_image(path).grid == Grid((17, 19))
        (record,) = caplog.records
        assert record.levelno == logging.INFO and "1 mm per pixel" in record.message


def test_pages_of_a_tiff_are_frames(tmp_path):
    gray, *_ = gray_and_color()
    second = PIL.Image.fromarray(np.ascontiguousarray(gray[::-1]))
    path = save_picture(tmp_path / "a.tif", gray, save_all=True, append_images=[second])
    with pytest.raises(ValueError, match="2 frames"):
        read_image(path)
    assert np.array_equal(read_image(path, frame=1).data[0], gray[::-1])


@pytest.mark.parametrize("image", [
    phantom(oblique_grid(3), dtype="uint8"), phantom(oblique_grid(2), channels=2, dtype="uint8"),
    phantom(oblique_grid(2), dtype="int16"), phantom(oblique_grid(2)),
])  # fmt: skip
def test_what_png_cannot_hold_is_refused(tmp_path, image):
    with pytest.raises(ValueError, match="PNG holds .*write .nii.gz or .mha"):
        write_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


# Damaged and foreign files


def sound_file(folder, ending):
    path = folder / f"sound{ending}"
    if ending == ".mgz":
        nibabel.save(nibabel.MGHImage(phantom(oblique_grid()).data[0].numpy().T, affine()), path)
    elif ending in (".jpg", ".bmp"):
        save_picture(path, gray_and_color()[0])
    elif ending in (".png", ".tif"):
        write_image(path, phantom(oblique_grid(2), dtype="uint8"))
    else:
        write_image(path, phantom(oblique_grid(), dtype="int16"))
    return path


def refusal(path) -> str:
    """What reading the file says: one line that begins with the path and knows no C++."""
    with pytest.raises(ValueError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert not re.search(r"0x|\.cxx|\.hxx|Exception thrown|itk::", message)
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("ending", SINGLE_FILES)
def test_a_file_cut_anywhere_is_refused_or_still_whole(tmp_path, ending):
    path = sound_file(tmp_path, ending)
    raw, whole = path.read_bytes(), read_image(path)
    cut = tmp_path / f"cut{ending}"
    for length in (4, 30, 200, 400, len(raw) // 2, len(raw) - 300, len(raw) - 9, len(raw) - 1):
        if not 0 < length < len(raw):
            continue
        cut.write_bytes(raw[:length])
        if length >= len(raw) - 9 and ending == ".tif":  # its last bytes say who wrote it
            assert torch.equal(read_image(cut).data, whole.data)
        else:
            assert refusal(cut)


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_voxels_beside_a_header_are_counted_too(tmp_path, ending, compressed):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(to_sitk(phantom(oblique_grid())), str(path), compressed)
    (voxels,) = set(tmp_path.iterdir()) - {path}
    raw = voxels.read_bytes()
    for length in (len(raw) - 1, len(raw) // 2):
        voxels.write_bytes(raw[:length])
        assert refusal(path)
    voxels.unlink()
    assert "is missing: keep both files together" in refusal(path)


def test_half_a_nifti_pair_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(np.ones((5, 6, 7)), affine()), tmp_path / "a.img")
    raw = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(raw[:-1])
    assert "ends too early (1679 of 1680 bytes" in refusal(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    assert "a.img is missing" in refusal(tmp_path / "a.hdr")


@pytest.mark.parametrize("names", [
    ("a.hdr", "a.img"), ("a.hdr.gz", "a.img.gz"), ("a.hdr", "a.img.gz"), ("A.HDR", "A.IMG"),
    ("A.HDR", "A.IMG.GZ"),
])  # fmt: skip
def test_a_nifti_pair_is_found_by_either_name_packed_or_in_capitals(tmp_path, names):
    values = np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Pair(values, affine()), tmp_path / "b.img")
    for name, source in zip(names, ("b.hdr", "b.img"), strict=True):
        raw = (tmp_path / source).read_bytes()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.lower().endswith("gz") else raw)
    for name in names:
        assert np.array_equal(read_image(tmp_path / name).data[0], values.T)


@pytest.mark.parametrize("ending", [*VOLUMES, ".png", ".tif"])
def test_endings_in_capitals_mean_the_same(tmp_path, ending):
    grid = Grid((5, 6), (1.0, 1.0)) if ending in (".png", ".tif") else oblique_grid()
    image = phantom(grid, dtype="uint8")
    write_image(tmp_path / f"A{ending.upper()}", image)
    shutil.copy(tmp_path / f"A{ending.upper()}", tmp_path / f"b{ending}")
    assert torch.equal(read_image(tmp_path / f"A{ending.upper()}").data, image.data)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"b{ending}")),
                          image.data[0])  # fmt: skip


def test_a_file_unpacked_into_a_folder_of_its_name_is_reported(tmp_path):
    (tmp_path / "a.nii.gz").mkdir()
    write_image(tmp_path / "a.nii.gz" / "a.nii", phantom(oblique_grid()))
    for read in (read_image, read_labels, describe):
        with pytest.raises(ValueError, match="a.nii.gz: this is a folder: choose a file in it"):
            read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_remedy_for_a_volume_of_one_slice_gives_a_2d_image(tmp_path, monkeypatch, axis):
    monkeypatch.chdir(tmp_path)
    shape = tuple(1 if 2 - axis == i else 9 for i in range(3))
    thin = phantom(replace(oblique_grid(), shape=shape))
    write_image("thin.nii.gz", thin)
    with pytest.raises(ValueError, match="fixed image has 1 .*at least 4") as refused:
        check_pair(ImagePair(thin, phantom(oblique_grid(2))))  # before their dimensions differ
    command = re.search(r"sitk\.WriteImage\(.*'slice.mha'\)", str(refused.value))[0]
    exec(command.replace("FILE", "'thin.nii.gz'"), {"sitk": sitk})
    flat = read_image("slice.mha")
    assert torch.equal(flat.data[0], thin.data[0].squeeze(2 - axis))
    check_pair(ImagePair(flat, flat))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ".mgz", ".png"])
def test_damage_inside_compressed_data_is_found(tmp_path, ending):
    path = sound_file(tmp_path, ending)
    raw = bytearray(path.read_bytes())
    for where in (len(raw) // 2, len(raw) * 3 // 4):
        damaged = bytearray(raw)
        damaged[where] ^= 0x55
        path.write_bytes(damaged)
        assert refusal(path)


def test_a_compressed_metaimage_that_unpacks_to_too_little_is_refused(tmp_path):
    path = sound_file(tmp_path, ".mha")
    header, _, packed = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    packed = zlib.compress(zlib.decompress(packed)[:-2])
    header = re.sub(rb"CompressedDataSize = \d+", b"CompressedDataSize = %d" % len(packed), header)
    path.write_bytes(header + b"ElementDataFile = LOCAL\n" + packed)
    assert "31246 of 31248 bytes" in refusal(path)


@pytest.mark.parametrize("ending", [*SINGLE_FILES, ".mhd", ".nhdr", ".nii", ".hdr", ".mgh"])
def test_a_text_under_the_name_of_an_image_is_refused(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_text("patient,age\n" * 100)
    assert "this is not a" in refusal(path)


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".jpg", ".mha", ".nrrd"])
def test_a_right_beginning_is_not_enough(tmp_path, ending):
    path = sound_file(tmp_path, ending)
    raw = path.read_bytes()
    start = raw[:60] if ending in (".mha", ".nrrd") else raw[:8]
    path.write_bytes(start + b"\n\n" + bytes(range(256)) * 20)
    assert refusal(path)


def test_missing_empty_and_unknown_files_are_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="^none.nii: there is no such file: check its name"):
        read_image("none.nii")
    with pytest.raises(ValueError, match="^folder: the folder holds no DICOM images"):
        (tmp_path / "folder").mkdir()
        read_image("folder")
    with pytest.raises(ValueError, match="^empty.nii.gz: the file is empty"):
        (tmp_path / "empty.nii.gz").touch()
        read_labels("empty.nii.gz")
    for name in ("scan.xyz", "scan"):
        (tmp_path / name).write_bytes(b"1234")
        with pytest.raises(ValueError, match=f"^{name}: its name .*nii.gz.* no DICOM; .*convert"):
            read_image(name)
    (tmp_path / "slice.dcm").write_bytes(b"1234")
    with pytest.raises(ValueError, match="^slice.dcm: .*DICOM"):
        read_image("slice.dcm")


def test_analyze_and_misnamed_nifti_are_distinguished(tmp_path):
    values = np.ones((5, 6, 7), np.int16)
    nibabel.save(nibabel.AnalyzeImage(values, np.eye(4)), tmp_path / "a.img")
    assert "Analyze 7.5" in refusal(tmp_path / "a.hdr")
    nibabel.save(nibabel.Nifti1Pair(values, affine()), tmp_path / "b.img")
    shutil.copy(tmp_path / "b.hdr", tmp_path / "b.nii")
    assert "a pair .hdr and .img" in refusal(tmp_path / "b.nii")
    shutil.copy(write_nifti(tmp_path / "c.nii", codes=(0, 0)), tmp_path / "c.hdr")
    assert "one .nii file" in refusal(tmp_path / "c.hdr")


def test_gzip_is_known_by_its_content(tmp_path):
    image = phantom(oblique_grid(), dtype="int16")
    write_image(tmp_path / "a.nii.gz", image)
    write_image(tmp_path / "b.nii", image)
    (tmp_path / "a.nii.gz").rename(tmp_path / "packed.nii")
    (tmp_path / "b.nii").rename(tmp_path / "plain.nii.gz")
    for name in ("packed.nii", "plain.nii.gz"):
        assert torch.equal(read_image(tmp_path / name).data, image.data)


@pytest.mark.parametrize(("field", "value", "words"), [
    ("dim", [3, 5, -6, 7, 1, 1, 1, 1], "size .5, -6"), ("dim", [0, 5, 6, 7, 1, 1, 1, 1], "size"),
    ("dim", [9, 5, 6, 7, 1, 1, 1, 1], "size"), ("datatype", 77, "number type 77"),
    ("datatype", 1, "type that cannot be used"), ("vox_offset", np.nan, "byte nan"),
    ("vox_offset", 1e9, "0 of 420 bytes"), ("dim", [3, 500, 600, 7, 1, 1, 1, 1], "ends too early"),
])  # fmt: skip
def test_a_damaged_nifti_header_is_refused(tmp_path, field, value, words):
    path = write_nifti(tmp_path / "a.nii", codes=(0, 0), **{field: value})
    assert re.search(words, refusal(path))


@pytest.mark.parametrize(
    "name", ["../a.raw", "sub/a.raw", "/etc/hostname", "..\\a.raw", "C:\\a.raw", ".."]
)
def test_a_header_may_only_name_a_file_beside_it(tmp_path, name):
    folder = tmp_path / "here" / "sub"
    folder.mkdir(parents=True)
    for path in (tmp_path / "a.raw", folder / "a.raw"):
        path.write_bytes(bytes(4 * 31 * 24 * 21))
    for ending, key in ((".mhd", "ElementDataFile ="), (".nhdr", "data file:")):
        path = tmp_path / "here" / f"a{ending}"
        sitk.WriteImage(to_sitk(phantom(oblique_grid())), str(path))
        path.write_text(re.sub(f"(?<={key} ).*", name.replace("\\", r"\\"), path.read_text()))
        assert "same folder" in refusal(path) or name == ".."


@pytest.mark.parametrize(("offset", "value", "words"), [
    (0, 2, "not a FreeSurfer volume"), (4, -5, "an axis of -5 voxels"), (4, 500, "ends too early"),
    (20, 77, "number type 77 is unknown"), (30, 0, "voxels of 0 x 0.9 x 2.3 mm"),
])  # fmt: skip
def test_a_damaged_freesurfer_header_is_refused(tmp_path, offset, value, words):
    values = phantom(oblique_grid()).data[0].numpy().T
    nibabel.save(nibabel.MGHImage(values, affine()), tmp_path / "a.mgh")
    raw = bytearray((tmp_path / "a.mgh").read_bytes())
    struct.pack_into(">i", raw, offset, value)
    (tmp_path / "a.mgh").write_bytes(raw)
    assert words in refusal(tmp_path / "a.mgh")


def test_a_freesurfer_volume_without_a_place_says_so(tmp_path, caplog):
    values = phantom(oblique_grid()).data[0].numpy().T
    nibabel.save(nibabel.MGHImage(values, affine()), tmp_path / "a.mgh")
    raw = bytearray((tmp_path / "a.mgh").read_bytes())
    raw[28:30] = bytes(2)
    (tmp_path / "a.mgh").write_bytes(raw)
    theirs = nibabel.load(tmp_path / "a.mgh").affine
    assert np.allclose(read_image(tmp_path / "a.mgh").grid.voxel_to_physical(), LPS @ theirs)
    assert "orientation and position unknown" in caplog.text
    assert describe(tmp_path / "a.mgh")["axes_point_to"] is None


@pytest.mark.parametrize("name", ["LIST", "a%03d.raw 1 3 1"])
def test_voxels_spread_over_many_files_are_refused(tmp_path, name):
    path = tmp_path / "a.mhd"
    sitk.WriteImage(to_sitk(phantom(oblique_grid())), str(path))
    path.write_text(path.read_text().replace("a.raw", name))
    assert "spread over many files" in refusal(path)


def test_a_nrrd_in_other_units_or_sheared_is_refused(tmp_path):
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(to_sitk(phantom(Grid((5, 6, 7)))), str(path))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"kinds:", b'space units: "mm" "mm" "mm"\nkinds:'))
    assert read_image(path).grid == Grid((5, 6, 7))
    path.write_bytes(raw.replace(b"kinds:", b'space units: "cm" "cm" "cm"\nkinds:'))
    assert "lengths are in cm" in refusal(path)
    path.write_bytes(raw.replace(b"(0,0,1)", b"(0,0.5,1)"))
    assert "right angles" in refusal(path)


def test_bmp_rows_of_compressed_and_old_headers_are_not_counted(tmp_path):
    path = sound_file(tmp_path, ".bmp")
    raw = bytearray(path.read_bytes())
    struct.pack_into("<i", raw, 22, -17)  # rows from the top down
    path.write_bytes(raw)
    assert read_image(path).grid.shape == (17, 19)
    path.write_bytes(raw[:-1])
    assert "ends too early" in refusal(path)


# Writing


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd", ".png", ".tif"])
def test_a_failing_write_leaves_nothing_behind_and_the_old_file_alone(tmp_path, ending):
    resource = pytest.importorskip("resource")
    grid = Grid((90, 80)) if ending in (".png", ".tif") else oblique_grid()
    image = phantom(grid, dtype="uint8")
    path = tmp_path / f"a{ending}"
    path.write_text("what was there before")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(OSError, match="too large.*" + re.escape(str(path))):
            write_image(path, image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "what was there before"
    write_image(path, image)
    assert torch.equal(read_image(path).data, image.data)
    assert list(tmp_path.iterdir()) == [path]


def test_writing_where_it_cannot_be_is_refused(tmp_path):
    image = phantom(oblique_grid())
    with pytest.raises(ValueError, match="there is no folder .*none: make it first"):
        write_image(tmp_path / "none" / "a.nii.gz", image)
    for ending in (".mhd", ".jpg", ".mgz", ".hdr"):
        with pytest.raises(
            ValueError, match="only read; write one of .nii.gz .nii .mha .nrrd .png"
        ):
            write_image(tmp_path / f"a{ending}", image)
    with pytest.raises(ValueError, match="does not end like an image"):
        write_image(tmp_path / "a.xyz", image)
    with pytest.raises(ValueError, match="up to 32767 voxels along an axis, not 33000: use .mha"):
        write_image(tmp_path / "a.nii", Image(torch.zeros(33000, 4), Grid((33000, 4))))
    with pytest.raises(ValueError, match="not banana"):
        write_image(tmp_path / "a.nii", replace(image, dtype="banana"))
    (tmp_path / "a.nii").mkdir()
    with pytest.raises(ValueError, match="a.nii: "):
        write_image(tmp_path / "a.nii", image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_the_same_image_gives_the_same_bytes(tmp_path, monkeypatch):
    for name, seconds in (("a.nii.gz", 1e9), ("b.nii.gz", 2e9)):
        monkeypatch.setattr("time.time", lambda now=seconds: now)
        write_image(tmp_path / name, phantom(oblique_grid()))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


# Describing


def test_a_description_says_it_all_in_json(tmp_path):
    grid = Grid((7, 6, 5), (1.1, 0.9, 2.3), (-40.0, 25.0, 60.0), np.diag([1.0, -1.0, 1.0]))
    write_image(tmp_path / "a.mha", phantom(grid, channels=2, dtype="int16"))
    about = json.loads(json.dumps(describe(tmp_path / "a.mha"), allow_nan=False))
    low, high = about.pop("range")
    assert 0 <= low < 10 and 240 < high <= 250
    assert about == {
        "format": "MetaImage", "size": [5, 6, 7], "spacing_mm": [1.1, 0.9, 2.3],
        "origin_mm": [-40.0, 25.0, 60.0], "direction": [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
        "axes_point_to": "LAS", "dtype": "int16", "channels": 2, "frames": 1, "not_finite": 0,
        "notes": [],
    }  # fmt: skip


def test_a_description_repeats_the_notes(tmp_path):
    write_nifti(tmp_path / "a.nii", qform=affine(), codes=(1, 0), xyzt_units=3)
    (note,) = describe(tmp_path / "a.nii")["notes"]
    assert "micrometers" in note


def test_axis_letters_are_those_of_nibabel(tmp_path):
    for angles in ((0, 0, 0), (90, 0, 0), (20, -35, 15), (0, 0, 180), (100, 20, -80)):
        matrix = affine(angles)
        path = write_nifti(tmp_path / "a.nii", qform=matrix, codes=(1, 0))
        assert describe(path)["axes_point_to"] == "".join(nibabel.aff2axcodes(matrix))


# Real files


@pytest.mark.parametrize("name", [
    "oasis_malf35/subjects/1000_SS.nii.gz", "oasis_malf35/subjects/1001_glm.nii.gz",
    "elastix_2d_brain/fixed.mhd", "elastix_2d_brain/mask_moving.mhd", "antspy_2d/r16slice.jpg",
    "antspy_2d/ch2.nii.gz", "ct_mr_templates/scct.nii", "ct_mr_templates/scct_stripped.nii",
    "ct_head_neck_pycerr/ct_head_neck.nii.gz", "lung_ct_elastix/3DCT_lung_baseline.mha",
    "sunnybrook_2d/images/SC-HF-I-04-IM-0001-0040.dcm.png",
])  # fmt: skip
def test_real_files_are_read_as_by_simpleitk(data, name):
    image, theirs = read_image(data / name), sitk.ReadImage(str(data / name))
    assert_same_place(image.grid, theirs)
    values = sitk.GetArrayFromImage(theirs)
    assert np.array_equal(image.data[0], values[..., 0] if "sunnybrook" in name else values)


@pytest.mark.parametrize("name", ["sample/T1", "sample/aseg", "sample/brain", "fsaverage/aseg",
                                  "sample_ecog/aparc+aseg"])  # fmt: skip
def test_real_freesurfer_volumes_are_read_as_by_nibabel(data, name):
    path = data / "freesurfer_mne" / f"{name}.mgz"
    theirs = nibabel.load(path)
    image = read_image(path)
    assert np.allclose(image.grid.voxel_to_physical(), LPS @ theirs.affine, atol=1e-5)
    values = np.ascontiguousarray(np.asarray(theirs.dataobj).T)
    assert image.dtype == values.dtype.name
    values = values.astype(values.dtype.newbyteorder("="))
    assert np.array_equal(image.data[0], values)
    if "aseg" in name:
        labels = read_labels(path)
        assert np.array_equal(labels.data, values) and {2, 3, 4, 41} <= set(labels.labels())


def test_a_real_scan_keeps_all_through_every_volume_format(data, tmp_path):
    image = read_image(data / "oasis_malf35" / "subjects" / "1000_SS.nii.gz")
    assert describe(data / "oasis_malf35" / "subjects" / "1000_SS.nii.gz")["axes_point_to"] == "LAS"
    for ending in VOLUMES:
        write_image(tmp_path / f"a{ending}", image)
        found = read_image(tmp_path / f"a{ending}")
        assert torch.equal(found.data, image.data)
        assert found.grid == image.grid and found.dtype == "int16"
