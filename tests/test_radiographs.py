"""Radiographs and poses: geometry of the C-arm, files, errors of poses, and what a detector records."""

import math

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

from hybridreg.exposure import Exposure
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.images import write_image
from hybridreg.io.radiographs import (
    read_geometry,
    read_radiograph,
    write_geometry,
    write_radiograph,
)
from hybridreg.poses import pose, pose_error, pose_parameters, projection_error
from hybridreg.radiographs import Detector, Radiograph
from hybridreg.transforms import AffineTransform, rigid

ARM = {"source_to_detector": 1000.0, "source_to_isocenter": 700.0}
HEAD_FIRST = """
size = [23, 17]
spacing_mm = [2.0, 3.0]
source_to_detector_mm = 1000.0
source_to_isocenter_mm = 700
primary_angle_deg = 30
secondary_angle_deg = -20.0
principal_point = [3.0, 4.5]
"""


def oblique() -> Detector:
    return Detector.of_c_arm(
        (23, 17), (2.0, 3.0), **ARM, primary_deg=30, secondary_deg=-20, principal_point=(3, 4.5)
    )


@pytest.mark.parametrize(
    ("angles", "side", "right", "down"),
    [
        ((0, 0), (0, -1, 0), (1, 0, 0), (0, 0, -1)),  # in front of the patient
        ((90, 0), (1, 0, 0), (0, 1, 0), (0, 0, -1)),  # to their left: LAO
        ((-90, 0), (-1, 0, 0), (0, -1, 0), (0, 0, -1)),
        ((0, 90), (0, 0, 1), (1, 0, 0), (0, -1, 0)),  # above the head: cranial
    ],
)
def test_the_angles_of_a_c_arm_place_its_detector_as_dicom_says(angles, side, right, down):
    view = Detector.of_c_arm((5, 7), (1, 1), **ARM, primary_deg=angles[0], secondary_deg=angles[1])
    axes = np.array(view.grid.direction).T
    np.testing.assert_allclose(view.grid.center, 300 * np.array(side), atol=1e-9)
    np.testing.assert_allclose(view.source, -700 * np.array(side), atol=1e-9)
    np.testing.assert_allclose(axes[:2], [right, down], atol=1e-12)
    assert abs(view.distance) == pytest.approx(1000)


def test_the_isocenter_is_cast_onto_the_principal_point():
    view = oblique()
    shadow = view.shadows(torch.zeros(1, 3))[0]
    pixel = torch.linalg.inv(view.grid.voxel_to_physical())[:3] @ torch.cat([shadow, torch.ones(1)])
    np.testing.assert_allclose(pixel, [3, 4.5, 0], atol=1e-9)


def test_a_shadow_lies_on_the_detector_and_on_the_ray():
    view = oblique()
    points = torch.tensor([[10.0, -20, 30], [-5, 6, 70]]).double()
    shadows, source = view.shadows(points), torch.tensor(view.source, dtype=torch.float64)
    normal = torch.tensor(view.grid.direction, dtype=torch.float64)[:, 2]
    assert ((shadows - view.grid.center) @ normal).abs().max() < 1e-9
    crossed = torch.linalg.cross(shadows - source, points - source)
    assert crossed.abs().max() < 1e-6


@pytest.mark.parametrize("numbers", [(10, -20, 30, 1, 2, 3), (-80, 100, 170, -4, 0, 9)])
def test_a_pose_is_its_six_numbers(numbers):
    center = (12.0, -7.0, 30.0)
    at = pose(numbers, center)
    np.testing.assert_allclose(pose(pose_parameters(at, center), center).matrix, at.matrix)
    expected = rigid(numbers[:3], numbers[3:], (0, 0, 0))
    np.testing.assert_allclose(at.linear, expected.linear)
    placed = at(torch.zeros(1, 3).double())[0]
    np.testing.assert_allclose(placed, np.add(center, numbers[3:]))


def test_what_is_not_rigid_is_no_pose():
    with pytest.raises(ValueError, match="scales by"):
        pose_parameters(AffineTransform(torch.diag(torch.tensor([1.1, 1, 1, 1]))))
    with pytest.raises(ValueError, match="mirrors"):
        pose_parameters(AffineTransform(torch.diag(torch.tensor([-1.0, 1, 1, 1]))))
    with pytest.raises(ValueError, match="six numbers"):
        pose((1, 2, 3))


def test_the_error_of_a_pose_is_the_angle_and_distance_between_two():
    true = pose((20, 30, -40, 5, 6, 7))
    turned = AffineTransform(true.matrix @ rigid([0, 0, 2], [0, 0, 0], (0, 0, 0)).matrix)
    assert pose_error(turned, true) == pytest.approx((2.0, 0.0), abs=1e-9)
    shifted = pose((20, 30, -40, 5 + 3, 6 + 4, 7))
    assert pose_error(shifted, true) == pytest.approx((0.0, 5.0), abs=1e-9)
    tiny = AffineTransform(true.matrix @ rigid([1e-5, 0, 0], [0, 0, 0], (0, 0, 0)).matrix)
    assert pose_error(tiny, true).rotation_deg == pytest.approx(1e-5, rel=1e-4)


def test_the_projected_error_magnifies_shifts_across_and_hides_those_in_depth():
    view = Detector.of_c_arm((5, 5), (1, 1), **ARM)
    points, true = torch.zeros(1, 3), pose((0,) * 6)
    across = projection_error(pose((0, 0, 0, 2, 0, 0)), true, points, view)
    assert across.item() == pytest.approx(2 * 1000 / 700)
    assert projection_error(pose((0, 0, 0, 0, 2, 0)), true, points, view).item() < 1e-9


def test_geometry_survives_its_file(tmp_path):
    write_geometry(tmp_path / "g.toml", oblique())
    found = read_geometry(tmp_path / "g.toml")
    assert found.grid.matches(oblique().grid, 1e-9)
    np.testing.assert_allclose(found.source, oblique().source)


def test_a_c_arm_is_read_as_a_person_writes_it(tmp_path):
    (tmp_path / "g.toml").write_text(HEAD_FIRST)
    found = read_geometry(tmp_path / "g.toml")
    assert found.grid.matches(oblique().grid, 1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("size = [23, 17]", ""), "lacks size"),
        (("spacing_mm", "spacing"), "did you mean 'spacing_mm'"),
        (("[23, 17]", "[23, 17.5]"), "whole pixels"),
        (("= 700", "= 7000"), "isocenter lies between"),
        (("= 700", "= [700, 1]"), "should be 1 number"),
        (("= 30", "= 'LAO'"), "should be 1 number"),
        (("= 30", "= true"), "should be 1 number"),
        (("= 30", "= ="), "not TOML"),
    ],
)
def test_a_wrong_geometry_is_refused_by_its_fault(tmp_path, change, message):
    (tmp_path / "g.toml").write_text(HEAD_FIRST.replace(*change))
    with pytest.raises(ValueError, match=message) as caught:
        read_geometry(tmp_path / "g.toml")
    assert str(caught.value).startswith(str(tmp_path / "g.toml"))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_a_radiograph_survives_its_files(tmp_path, ending):
    given = Radiograph(torch.rand(17, 23), oblique())
    write_radiograph(tmp_path / f"x{ending}", given)
    assert (tmp_path / "x.toml").is_file()
    found = read_radiograph(tmp_path / f"x{ending}")
    torch.testing.assert_close(found.data, given.data)
    assert found.grid.matches(given.grid, 1e-9)


def test_a_picture_becomes_a_radiograph_by_its_geometry(tmp_path):
    values = torch.randint(0, 256, (17, 23))
    write_image(tmp_path / "x.png", Image(values, Grid((17, 23)), "uint8"))
    with pytest.raises(ValueError, match="there is no x.toml"):
        read_radiograph(tmp_path / "x.png")
    (tmp_path / "arm.toml").write_text(HEAD_FIRST)
    found = read_radiograph(tmp_path / "x.png", geometry=tmp_path / "arm.toml")
    torch.testing.assert_close(found.data[0], values.float())
    turned = read_radiograph(
        tmp_path / "x.png", geometry=tmp_path / "arm.toml", absorbers_are_dark=True
    )
    torch.testing.assert_close(turned.data[0], (values.max() - values).float())
    (tmp_path / "arm.toml").write_text(HEAD_FIRST.replace("[23, 17]", "[17, 23]"))
    with pytest.raises(ValueError, match="does not fit"):
        read_radiograph(tmp_path / "x.png", geometry=tmp_path / "arm.toml")


def test_a_volume_is_no_radiograph(tmp_path):
    write_image(tmp_path / "x.nii.gz", Image(torch.rand(4, 17, 23), Grid((4, 17, 23))))
    (tmp_path / "x.toml").write_text(HEAD_FIRST)
    with pytest.raises(ValueError, match="is it a volume"):
        read_radiograph(tmp_path / "x.nii.gz")


def dicom(path, values, **changes):
    """An XA file of whole numbers (rows, columns) or (frames, rows, columns)."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = XRayAngiographicImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    fields = {
        "Modality": "XA",
        "Rows": values.shape[-2],
        "Columns": values.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelIntensityRelationship": "LIN",
        "ImagerPixelSpacing": [3.0, 2.0],
        "DistanceSourceToDetector": 1000.0,
        "DistanceSourceToPatient": 700.0,
        "PositionerPrimaryAngle": 30.0,
        "PositionerSecondaryAngle": -20.0,
        "PixelData": values.astype("<u2").tobytes(),
    }
    if values.ndim == 3:
        fields["NumberOfFrames"] = len(values)
    for keyword, value in {**fields, **changes}.items():
        if value is not None:
            setattr(file, keyword, value)
    file.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 4000, (17, 23))


def test_a_c_arm_image_in_dicom_has_its_geometry_and_its_line_integrals(tmp_path, counts):
    found = read_radiograph(dicom(tmp_path / "x.dcm", counts))
    expected = Detector.of_c_arm((23, 17), (2.0, 3.0), **ARM, primary_deg=30, secondary_deg=-20)
    assert found.grid.matches(expected.grid, 1e-9)
    np.testing.assert_allclose(found.source, expected.source)
    np.testing.assert_allclose(found.data[0], -np.log(counts / counts.max()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "rises"),
    [
        ({"PixelIntensityRelationship": "LOG"}, False),
        ({"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1}, True),
        ({"Modality": "DX", "PixelIntensityRelationship": None}, True),
        (
            {
                "Modality": "DX",
                "PixelIntensityRelationship": None,
                "PhotometricInterpretation": "MONOCHROME1",
            },
            False,
        ),
    ],
)
def test_larger_numbers_mean_more_absorption_whatever_is_stored(tmp_path, counts, fields, rises):
    found = read_radiograph(dicom(tmp_path / "x.dcm", counts, **fields)).data[0]
    expected = counts - counts.min() if rises else counts.max() - counts
    np.testing.assert_array_equal(found, expected)


def test_missing_tags_are_named_and_a_geometry_file_stands_in(tmp_path, counts):
    missing = {"PositionerPrimaryAngle": None, "DistanceSourceToPatient": None}
    path = dicom(tmp_path / "x.dcm", counts, **missing)
    with pytest.raises(ValueError) as caught:
        read_radiograph(path)
    assert "DistanceSourceToPatient (0018,1111), PositionerPrimaryAngle (0018,1510)" in str(
        caught.value
    )
    (tmp_path / "arm.toml").write_text(HEAD_FIRST)
    found = read_radiograph(path, geometry=tmp_path / "arm.toml")
    assert found.grid.matches(oblique().grid, 1e-9)


def test_a_frame_of_a_film_is_asked_for(tmp_path, counts):
    film = np.stack([counts, counts[::-1], counts[:, ::-1]])
    path = dicom(tmp_path / "x.dcm", film, PixelIntensityRelationship="LOG")
    with pytest.raises(ValueError, match="a film of 3 frames"):
        read_radiograph(path)
    with pytest.raises(ValueError, match="has 3 frame"):
        read_radiograph(path, frame=3)
    found = read_radiograph(path, frame=2).data[0]
    np.testing.assert_array_equal(found, film[2].max() - film[2])
    dicom(path, film, PositionerMotion="DYNAMIC")
    with pytest.raises(ValueError, match="the C-arm moved"):
        read_radiograph(path, frame=2)


def test_a_slice_of_a_ct_is_no_radiograph(tmp_path, counts):
    with pytest.raises(ValueError, match="modality is CT"):
        read_radiograph(dicom(tmp_path / "x.dcm", counts, Modality="CT"))


@pytest.mark.parametrize(
    ("shape", "source", "message"),
    [
        ((2, 5, 5), (0, 0, 9), "one slice"),
        ((1, 5, 5), (0, 9), "is a point"),
        ((1, 5, 5), (0, 0, math.nan), "is a point"),
        ((1, 5, 5), (40, 9, 0.1), "in the plane"),
    ],
)
def test_impossible_detectors_are_refused(shape, source, message):
    with pytest.raises(ValueError, match=message):
        Detector(Grid(shape), source)


def test_noise_blur_and_scatter_change_a_radiograph_as_they_should():
    view = Detector.of_c_arm((80, 60), (1, 1), **ARM)
    data = torch.zeros(60, 80)
    data[:, 40:] = 2.0
    clean = Radiograph(data, view)
    still = Exposure(photons=0)(clean)
    torch.testing.assert_close(still.data, clean.data)
    noisy = Exposure(photons=5000)(clean, torch.Generator().manual_seed(0)).data[0]
    for half, level in ((noisy[:, :40], 0.0), (noisy[:, 40:], 2.0)):
        assert half.mean().item() == pytest.approx(level, abs=0.01)
        assert half.std().item() == pytest.approx((5000 * math.exp(-level)) ** -0.5, rel=0.1)
    blurred = Exposure(photons=0, blur_mm=3.0)(clean).data[0, 30]
    across = (-blurred).exp()
    half = (1 + math.exp(-2)) / 2
    assert (across[39] + across[40]).item() / 2 == pytest.approx(half, rel=1e-3)
    assert (across[:-1] - across[1:]).max() == pytest.approx(
        (1 - math.exp(-2)) / (3.0 * math.sqrt(2 * math.pi)), rel=0.02
    )
    hazy = Exposure(photons=0, scatter=1.0, scatter_mm=500.0)(clean).data[0]
    assert (hazy[30, 79] - hazy[30, 0]) < 0.6 * 2
    with pytest.raises(ValueError, match="photons"):
        Exposure(photons=-1)


@pytest.mark.parametrize(("turn", "flip"), [(0, "YES"), (90, "NO"), (180, None), (270, "YES")])
def test_a_turned_or_flipped_field_of_view_is_turned_back(tmp_path, counts, turn, flip):
    plain = read_radiograph(dicom(tmp_path / "x.dcm", counts))
    shown = np.rot90(counts, -turn // 90)  # clockwise
    shown = shown[:, ::-1] if flip == "YES" else shown
    tags = {"FieldOfViewRotation": turn, "FieldOfViewHorizontalFlip": flip}
    if turn % 180:
        tags["ImagerPixelSpacing"] = [2.0, 3.0]
    path = dicom(tmp_path / "y.dcm", np.ascontiguousarray(shown), **tags)
    found = read_radiograph(path)
    torch.testing.assert_close(found.data, plain.data)
    assert found.grid.matches(plain.grid, 1e-9)
    rows, columns = shown.shape
    text = HEAD_FIRST.replace("[23, 17]", f"[{columns}, {rows}]")
    (tmp_path / "g.toml").write_text(text)  # of the image as it is stored
    stored = read_radiograph(path, geometry=tmp_path / "g.toml")
    assert stored.data.shape == (1, rows, columns)


def test_a_field_of_view_turned_by_other_angles_is_refused(tmp_path, counts):
    with pytest.raises(ValueError, match="FieldOfViewRotation .* found 45 and NO"):
        read_radiograph(dicom(tmp_path / "x.dcm", counts, FieldOfViewRotation=45))
