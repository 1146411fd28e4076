"""Transform files map points as SimpleITK and ANTs do, both ways; what is broken is refused."""

import json
import math
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid

from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.images import from_sitk, read_image, to_sitk
from hybridreg.io.transforms import describe, read_transform, write_transform
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    BSplineTransform,
    CompositeTransform,
    DisplacementField,
    compose,
    rigid,
)
from hybridreg.warping import warp

EXACT_MM = 1e-9  # both compute in float64 on coordinates of some 100 mm
FIELD_MM = 1e-4  # vectors of some mm are float32, and NIfTI keeps its grid in float32 too
GRIDS = {
    "2D": oblique_grid(2),
    "2D left-handed": oblique_grid(2, left_handed=True),
    "3D": oblique_grid(3),
    "3D left-handed": oblique_grid(3, left_handed=True),
}


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request) -> Grid:
    return request.param


def noise(*shape: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)).double() * scale


def points_about(grid: Grid) -> torch.Tensor:
    """Points in the field of view and, some of them, outside."""
    spread = noise(300, grid.dimension, scale=1.0) * torch.tensor(grid.extent) / 3
    return grid.center + spread


def affine(dimension: int) -> AffineTransform:
    turn = rigid(
        [11.0] if dimension == 2 else [4.0, -7.0, 11.0], range(dimension), [30.0] * dimension
    )
    return AffineTransform.from_parts(
        turn.linear @ torch.diag(torch.tensor([1.1, 0.8, 1.3])[:dimension]).double(),
        turn.translation,
    )


def bspline(grid: Grid, order: int = 3) -> BSplineTransform:
    control = grid.with_spacing([e / 6 for e in grid.extent])
    control = control.crop([-1] * grid.dimension, [n + 1 for n in control.shape])
    return BSplineTransform(noise(grid.dimension, *control.shape), control, order)


def field(grid: Grid) -> DisplacementField:
    return DisplacementField(noise(grid.dimension, *grid.shape).float(), grid)


def by_simpleitk(transform: sitk.Transform, points: torch.Tensor) -> torch.Tensor:
    mapped = [transform.TransformPoint(point) for point in points.tolist()]
    return torch.tensor(mapped, dtype=torch.float64)


def difference_mm(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return (mine - theirs).abs().max().item()


def random_itk(transform: sitk.Transform) -> sitk.Transform:
    """Parameters that belong to the type: versors stay under unit length, scales about 1."""
    rest = np.array(transform.GetParameters())
    change = np.random.default_rng(3).uniform(0.05, 0.3, len(rest))
    transform.SetParameters((rest + change).tolist())
    if transform.GetFixedParameters():
        center = np.arange(transform.GetDimension()) * 20.0 - 30
        transform.SetCenter(center.tolist())
    return transform


LINEAR = [
    sitk.TranslationTransform(2),
    sitk.TranslationTransform(3),
    sitk.Euler2DTransform(),
    sitk.Euler3DTransform(),
    sitk.Similarity2DTransform(),
    sitk.Similarity3DTransform(),
    sitk.VersorTransform(),
    sitk.VersorRigid3DTransform(),
    sitk.ScaleTransform(2),
    sitk.ScaleTransform(3),
    sitk.ScaleVersor3DTransform(),
    sitk.ScaleSkewVersor3DTransform(),
    sitk.AffineTransform(2),
    sitk.AffineTransform(3),
]


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".txt", ".mat"])
@pytest.mark.parametrize("kind", LINEAR, ids=lambda t: f"{t.GetName()}-{t.GetDimension()}D")
def test_every_linear_transform_of_simpleitk_is_read_as_it_maps(kind, ending, tmp_path):
    transform = random_itk(sitk.Transform(kind).Downcast())
    sitk.WriteTransform(transform, str(tmp_path / f"t{ending}"))
    ours = read_transform(tmp_path / f"t{ending}")
    points = points_about(oblique_grid(transform.GetDimension()))
    assert isinstance(ours, AffineTransform)
    assert difference_mm(ours(points), by_simpleitk(transform, points)) < EXACT_MM
    assert difference_mm(ours(points), points) > 0.1


def test_the_order_of_euler_angles_is_kept(tmp_path):
    transform = random_itk(sitk.Euler3DTransform())
    transform.SetComputeZYX(True)
    sitk.WriteTransform(transform, str(tmp_path / "t.tfm"))
    points = points_about(oblique_grid())
    ours = read_transform(tmp_path / "t.tfm")(points)
    assert difference_mm(ours, by_simpleitk(transform, points)) < EXACT_MM


def test_older_ants_affines_and_single_precision_files_are_read(tmp_path):
    for type_name in ("MatrixOffsetTransformBase_double_3_3", "AffineTransform_float_3_3"):
        (tmp_path / "t.txt").write_text(
            f"#Insight Transform File V1.0\n#Transform 0\nTransform: {type_name}\n"
            "Parameters: 1 0.1 0 0 1 0 0 -0.2 1 3 4 5\nFixedParameters: 10 20 30\n"
        )
        linear = torch.tensor([[1, 0.1, 0], [0, 1, 0], [0, -0.2, 1]])
        expected = AffineTransform.from_parts(linear, [3, 4, 5], [10, 20, 30])
        found = read_transform(tmp_path / "t.txt")
        assert torch.allclose(found.matrix, expected.matrix, atol=1e-6)  # linear is float32 here


@pytest.mark.parametrize("ending", [".h5", ".hdf5", ".tfm", ".txt"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_b_splines_are_written_exactly(grid, order, ending, tmp_path):
    transform, path = bspline(grid, order), tmp_path / f"t{ending}"
    write_transform(path, transform)
    points = points_about(grid)
    theirs = by_simpleitk(sitk.ReadTransform(str(path)), points)
    assert difference_mm(transform(points), theirs) < EXACT_MM
    moved = (theirs != points).any(-1).double().mean()
    assert 0.2 < moved < 1  # some points lie outside, where both are the identity
    again = read_transform(path)
    assert torch.equal(again.coefficients, transform.coefficients)
    assert again.grid.matches(transform.grid, 1e-9) and again.order == order


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".nii", ".nii.gz", ".mha", ".nrrd"])
def test_displacement_fields_are_written_as_simpleitk_understands_them(grid, ending, tmp_path):
    transform, path = field(grid), tmp_path / f"t{ending}"
    write_transform(path, transform)
    if ending in (".h5", ".tfm"):
        itk = sitk.ReadTransform(str(path))
    else:
        image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
        itk = sitk.DisplacementFieldTransform(image)
    points = points_about(grid)
    # Within a hair of the border, grids that differ by float32 disagree about inside and outside.
    index = (points - torch.tensor(grid.origin)) @ torch.tensor(grid.direction).double()
    index = index / torch.tensor(grid.spacing)
    edge = torch.minimum((index + 0.5).abs(), (index - torch.tensor(grid.size) + 0.5).abs())
    points = points[(edge > 1e-3).all(-1)]
    assert difference_mm(transform(points), by_simpleitk(itk, points)) < FIELD_MM
    again = read_transform(path)
    assert torch.equal(again.vectors, transform.vectors)
    assert again.grid.matches(grid, 1e-4)


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".txt"])
def test_composites_are_flattened_and_keep_their_order(grid, ending, tmp_path):
    a, f, b = affine(grid.dimension), field(grid), bspline(grid)
    shift = AffineTransform.from_parts(torch.eye(grid.dimension), [2.0] * grid.dimension)
    nested = CompositeTransform((CompositeTransform((a, shift, f)), CompositeTransform((b,)), a))
    write_transform(tmp_path / f"t{ending}", nested)
    points = points_about(grid)
    itk = sitk.ReadTransform(str(tmp_path / f"t{ending}"))
    assert difference_mm(nested(points), by_simpleitk(itk, points)) < FIELD_MM
    again = read_transform(tmp_path / f"t{ending}")
    assert difference_mm(nested(points), again(points)) < FIELD_MM
    kinds = [type(part).__name__ for part in again.parts]
    assert kinds == ["AffineTransform", "DisplacementField", "BSplineTransform", "AffineTransform"]


def test_a_composite_of_simpleitk_is_read_in_its_order(tmp_path):
    grid = oblique_grid()
    first, second = random_itk(sitk.Euler3DTransform()), sitk.BSplineTransform(3, 2)
    write_transform(tmp_path / "b.h5", bspline(grid, 2))
    second = sitk.ReadTransform(str(tmp_path / "b.h5"))
    both = sitk.CompositeTransform([first, second, random_itk(sitk.ScaleTransform(3))])
    sitk.WriteTransform(both, str(tmp_path / "t.h5"))
    points = points_about(grid)
    ours = read_transform(tmp_path / "t.h5")
    assert difference_mm(ours(points), by_simpleitk(both, points)) < EXACT_MM
    other = sitk.CompositeTransform([second, first])
    assert difference_mm(ours(points), by_simpleitk(other, points)) > 0.1


def test_a_transform_file_moves_a_real_image_as_simpleitk_does(data, tmp_path):
    folder = data / "elastix_2d_brain"
    fixed, moving = (read_image(folder / f"{side}.mhd") for side in ("fixed", "moving"))
    transform = compose(affine(2), bspline(fixed.grid))
    write_transform(tmp_path / "t.h5", transform)
    ours = warp(moving, read_transform(tmp_path / "t.h5"), onto=fixed.grid)
    theirs = sitk.Resample(
        sitk.ReadImage(str(folder / "moving.mhd"), sitk.sitkFloat32),
        sitk.ReadImage(str(folder / "fixed.mhd")),
        sitk.ReadTransform(str(tmp_path / "t.h5")),
        sitk.sitkLinear,
        0.0,
    )
    scale = moving.data.max().item()
    error = (ours.data - from_sitk(theirs).data).abs() / scale
    assert error.quantile(0.9999) < 1e-5  # the rest: voxels on the very border of the image
    assert ours.data.std() > 0.05 * scale


def field_nifti(
    path, *, intent: int, axes: int = 5, name: str = "", kind: int = 0
) -> DisplacementField:
    """A file that nibabel wrote; gives the field that its numbers are when they are LPS."""
    grid = oblique_grid()
    expected = field(grid)
    affine = np.diag([-1.0, -1, 1, 1]) @ grid.voxel_to_physical().numpy()
    values = expected.vectors.permute(3, 2, 1, 0).numpy()  # (x, y, z, component)
    image = nibabel.Nifti1Image(values if axes == 4 else values[:, :, :, None], affine)
    image.header["intent_code"] = intent
    image.header["intent_name"], image.header["intent_p1"] = name.encode(), kind
    nibabel.save(image, path)
    return expected


def test_nifti_fields_of_either_intent_are_read_as_itk_reads_them(tmp_path):
    points = points_about(oblique_grid().crop((2, 2, 2), (18, 28, 22)))
    points = points[oblique_grid().crop((1, 1, 1), (20, 30, 23)).contains(points)]
    for intent in (1006, 1007):
        path = tmp_path / f"{intent}.nii.gz"
        expected = field_nifti(path, intent=intent)
        ours = read_transform(path)(points)
        image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
        assert (
            difference_mm(ours, by_simpleitk(sitk.DisplacementFieldTransform(image), points)) < 1e-3
        )
        assert (difference_mm(ours, expected(points)) < 1e-3) == (intent == 1007)


def test_a_vector_field_with_components_along_the_fourth_axis_is_read(tmp_path):
    expected = field_nifti(tmp_path / "f.nii.gz", intent=1007, axes=4)
    assert torch.equal(read_transform(tmp_path / "f.nii.gz").vectors, expected.vectors)


@pytest.mark.parametrize(
    ("intent", "axes", "name", "words"),
    [
        (0, 5, "", "intent 0"),
        (0, 4, "", "intent 0"),
        (1006, 4, "", "4 axes"),
        (2006, 4, "", "intent 2006"),  # FSL
        (1007, 5, "NREG_TRANS", "reg_transform"),  # positions
        (1007, 5, "Mapping", "SPM"),
    ],
)
def test_other_nifti_files_are_no_displacement_fields(intent, axes, name, words, tmp_path):
    field_nifti(tmp_path / "f.nii", intent=intent, axes=axes, name=name)
    with pytest.raises(ValueError, match=words):
        read_transform(tmp_path / "f.nii")


def test_an_image_is_no_displacement_field(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
    for ending, words in ((".nii.gz", "intent"), (".mha", "component"), (".nrrd", "component")):
        sitk.WriteImage(image, str(tmp_path / f"i{ending}"))
        with pytest.raises(ValueError, match=words):
            read_transform(tmp_path / f"i{ending}")


def test_a_nrrd_field_in_another_space_is_refused(tmp_path):
    write_transform(tmp_path / "f.nrrd", field(oblique_grid()))
    raw = (tmp_path / "f.nrrd").read_bytes()
    assert b"left-posterior-superior" in raw
    raw = raw.replace(b"left-posterior-superior", b"right-anterior-superior")
    (tmp_path / "f.nrrd").write_bytes(raw)
    with pytest.raises(ValueError, match="right-anterior-superior"):
        read_transform(tmp_path / "f.nrrd")


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("direction", ["resampling", "modeling", "sideways"])
def test_a_field_of_slicer_that_maps_moving_to_fixed_is_refused(direction, ending, tmp_path):
    wanted, path = field(oblique_grid()), tmp_path / f"f{ending}"
    image = to_sitk(Image(wanted.vectors, wanted.grid))
    image.SetMetaData("displacement field type", direction)
    image.SetMetaData("intent_code", "1006")  # in NRRD this says nothing of RAS
    sitk.WriteImage(image, str(path))
    assert b"displacement field type" in path.read_bytes()
    if direction == "resampling":
        points = points_about(oblique_grid())
        assert difference_mm(read_transform(path)(points), wanted(points)) < FIELD_MM
        return
    with pytest.raises(ValueError, match=f"{direction}.*moving to fixed.*Slicer"):
        read_transform(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("measurement frame: (1,0,0) (0,1,0) (0,0,1)", None),
        ("measurement frame: (-1,0,0) (0,-1,0) (0,0,1)", "frame of their own"),
        ("measurement frame: (1,0,0) (0,1,0) (0,0.5,1)", "frame of their own"),
        ("kinds: 3-color domain domain domain", "3-color"),
        ("kinds: point domain domain domain", "point"),
        ("kinds: list domain domain domain", None),
        ("kinds: covariant-vector domain domain domain", None),
        ("space: right-anterior-superior", "right-anterior-superior"),
        ("space: RAS", "RAS"),
    ],
)
def test_the_frame_and_kind_of_vectors_in_a_nrrd_header_count(line, words, tmp_path):
    path, wanted = tmp_path / "f.nrrd", field(oblique_grid())
    write_transform(path, wanted)
    header, _, voxels = path.read_bytes().partition(b"\n\n")
    key = line.partition(":")[0]
    lines = header.decode().splitlines()
    lines = [line if old.startswith(f"{key}:") else old for old in lines]
    lines += [] if line in lines else [line]
    for end in ("\n", "\r\n"):
        path.write_bytes("".join(part + end for part in [*lines, ""]).encode() + voxels)
        if words is None:
            assert torch.equal(read_transform(path).vectors, wanted.vectors)
            continue
        with pytest.raises(ValueError, match=words):
            read_transform(path)


def test_a_metaimage_field_in_other_units_is_refused(tmp_path):
    path = tmp_path / "f.mha"
    write_transform(path, field(oblique_grid()))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"NDims = 3\n", b"NDims = 3\nDistanceUnits = um\n"))
    with pytest.raises(ValueError, match="um"):
        read_transform(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_sequence_of_fields_is_not_cut_to_its_first(ending, tmp_path):
    series = sitk.JoinSeries([to_sitk(Image(noise(3, 4, 5, 6).float(), Grid((4, 5, 6))))] * 2)
    sitk.WriteImage(series, str(tmp_path / f"f{ending}"))
    with pytest.raises(ValueError, match="more than one field"):
        read_transform(tmp_path / f"f{ending}")


@pytest.mark.parametrize("unit", [1, 3])
def test_a_nifti_field_in_other_units_is_refused(unit, tmp_path):
    field_nifti(tmp_path / "f.nii", intent=1007)
    raw = bytearray((tmp_path / "f.nii").read_bytes())
    raw[123] = unit  # xyzt_units
    (tmp_path / "f.nii").write_bytes(raw)
    with pytest.raises(ValueError, match="convert grid and vectors"):
        read_transform(tmp_path / "f.nii")


def test_a_displacement_field_of_niftyreg_is_read_in_ras(tmp_path):
    """What reg_transform -disp writes: the same name as its positions, and 1 for the kind."""
    expected = field_nifti(tmp_path / "f.nii", intent=1007, name="NREG_TRANS", kind=1)
    ours = read_transform(tmp_path / "f.nii")
    assert torch.equal(ours.vectors[:2], -expected.vectors[:2])
    assert torch.equal(ours.vectors[2], expected.vectors[2])


def test_a_2d_nifti_field_in_ras_is_turned_to_lps(tmp_path):
    vectors = noise(2, 8, 9).float()
    write_transform(tmp_path / "f.nii", DisplacementField(vectors, Grid((8, 9))))
    raw = bytearray((tmp_path / "f.nii").read_bytes())
    struct.pack_into("<h", raw, 68, 1006)
    (tmp_path / "f.nii").write_bytes(raw)
    assert torch.equal(read_transform(tmp_path / "f.nii").vectors, -vectors)


def test_one_slice_in_3d_is_not_written_as_what_nifti_takes_for_2d(tmp_path):
    thin = DisplacementField(noise(3, 1, 8, 9), Grid((1, 8, 9)))
    with pytest.raises(ValueError, match=r"\.mha"):
        write_transform(tmp_path / "f.nii.gz", thin)
    write_transform(tmp_path / "f.mha", thin)
    assert read_transform(tmp_path / "f.mha").grid.dimension == 3


HEAD = "#Insight Transform File V1.0\n"
AFFINE = "Transform: AffineTransform_double_3_3\n"
NUMBERS = "Parameters: 1 0 0 0 1 0 0 0 1 3 4 5\nFixedParameters: 0 0 0\n"
BROKEN = {
    "nothing in it": (HEAD, "no transform"),
    "no header": (AFFINE + NUMBERS, "Insight"),
    "unknown type": (HEAD + AFFINE.replace("Affine", "Foo") + NUMBERS, "FooTransform"),
    "other dimensions": (HEAD + AFFINE.replace("3_3", "3_2") + NUMBERS, "cannot be read"),
    "3D numbers in 2D": (HEAD + AFFINE.replace("3_3", "2_2") + NUMBERS, "do not fit"),
    "3D type in 2D": (
        HEAD + AFFINE.replace("Affine", "Euler3D").replace("3_3", "2_2"),
        "FixedParameters are|are missing",
    ),
    "too few numbers": (HEAD + AFFINE + NUMBERS.replace(" 3 4 5", ""), "do not fit"),
    # ITK ends the process on this one, having written past the end of its array.
    "quaternion": (HEAD + AFFINE.replace("Affine", "QuaternionRigid") + NUMBERS, "Quaternion"),
    "a word": (HEAD + AFFINE + NUMBERS.replace("3 4", "3 four"), "line 3.*four"),
    "not a number": (HEAD + AFFINE + NUMBERS.replace("3 4", "3 nan"), "not finite"),
    "singular": (HEAD + AFFINE + NUMBERS.replace("1 0 0 0 1", "0 0 0 0 1"), "singular"),
    "stray line": (HEAD + AFFINE + NUMBERS + "what: 3\n", "line 5"),
    "two of them": (HEAD + (AFFINE + NUMBERS) * 2, "several"),
    "empty composite": (HEAD + AFFINE.replace("Affine", "Composite"), "without parts"),
    "2D in 3D": (
        HEAD
        + AFFINE.replace("Affine", "Composite")
        + AFFINE.replace("3_3", "2_2")
        + "Parameters: 1 0 0 1 0 0\nFixedParameters: 0 0\n",
        "mixes",
    ),
    # ITK takes this one, and what is cut inside an entry, for the identity.
    "no fixed parameters": (
        HEAD + AFFINE + NUMBERS.partition("Fixed")[0],
        "FixedParameters .*miss",
    ),
    "no parameters": (HEAD + AFFINE + "FixedParameters: 0 0 0\n", "the Parameters .*missing"),
    "type alone": (HEAD + AFFINE, "missing"),
    "cut in a last number": (HEAD + AFFINE + NUMBERS.removesuffix("\n"), "truncated"),
    "too many numbers": (HEAD + AFFINE + NUMBERS.replace(" 5", " 5 6"), "expected 12, found 13"),
    "a long center": (HEAD + AFFINE + NUMBERS.replace("0 0 0\n", "0 0 0 0\n"), "3, found 4"),
    "a short center": (HEAD + AFFINE + NUMBERS.replace("0 0 0\n", "0 0\n"), "3, found 2"),
    "infinity": (HEAD + AFFINE + NUMBERS.replace("3 4", "3 1e999"), "not finite"),
    "digits parted": (HEAD + AFFINE + NUMBERS.replace("3 4", "3 4_0"), "line 3.*_"),
    "numbers twice": (HEAD + AFFINE + NUMBERS + NUMBERS, "line 5"),
    "composite inside": (
        HEAD
        + AFFINE.replace("Affine", "Composite")
        + (AFFINE + NUMBERS)
        + AFFINE.replace("Affine", "Composite"),
        "composite within",
    ),
    "a center for a translation": (
        HEAD
        + AFFINE.replace("Affine", "Translation")
        + "Parameters: 1 2 3\nFixedParameters: 0 0 0\n",
        "expected 0, found 3",
    ),
    "half a control point": (
        HEAD
        + AFFINE.replace("Affine", "BSpline")
        + "Parameters: \nFixedParameters: 4 4 4.5 0 0 0 1 1 1 1 0 0 0 1 0 0 0 1\n",
        "size .*4.5",
    ),
    "field of a Slicer inverse": (
        HEAD + AFFINE.replace("Affine", "InverseDisplacementField") + NUMBERS,
        "InverseDisplacementFieldTransform cannot be read",
    ),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_text_is_refused_in_words(content, tmp_path):
    text, words = content
    (tmp_path / "t.tfm").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_transform(tmp_path / "t.tfm")
    assert str(caught.value).startswith(str(tmp_path / "t.tfm"))


@pytest.mark.parametrize("kind", LINEAR, ids=lambda t: f"{t.GetName()}-{t.GetDimension()}D")
def test_every_linear_transform_needs_just_its_numbers(kind, tmp_path):
    path = tmp_path / "t.tfm"
    sitk.WriteTransform(random_itk(sitk.Transform(kind).Downcast()), str(path))
    whole = path.read_text()
    read_transform(path)
    _, _, _, parameters, fixed, *_ = whole.splitlines()
    for line, name in ((parameters, "Parameters"), (fixed, "FixedParameters")):
        changed = [line + " 0.5", *([line.rsplit(" ", 1)[0]] if line.split()[1:] else [])]
        if kind.GetName() == "Euler3DTransform" and name == "FixedParameters":
            changed = [line + " 0.5", line.rsplit(" ", 2)[0]]  # the order of angles may lack
        for other in changed:
            path.write_text(whole.replace(line + "\n", other + "\n"))
            with pytest.raises(ValueError, match=rf"the {name} of {kind.GetName()} do not fit"):
                read_transform(path)
        path.write_text(whole.replace(line + "\n", ""))
        with pytest.raises(ValueError, match=f"the {name} of {kind.GetName()} are missing"):
            read_transform(path)


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".mat"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_an_identity_of_simpleitk_is_read_alone_and_in_a_composite(dimension, ending, tmp_path):
    identity = sitk.Transform(dimension, sitk.sitkIdentity)
    shift = sitk.TranslationTransform(dimension, [3.0, -4.0, 5.0][:dimension])
    points = points_about(oblique_grid(dimension))
    wanted = {"alone": identity}
    if ending != ".mat":  # which holds no composites
        wanted["inside"] = sitk.CompositeTransform([identity, shift, identity])
    for name, transform in wanted.items():
        sitk.WriteTransform(transform, str(tmp_path / f"{name}{ending}"))
        ours = read_transform(tmp_path / f"{name}{ending}")
        assert difference_mm(ours(points), by_simpleitk(transform, points)) < EXACT_MM
        assert describe(tmp_path / f"{name}{ending}")["dimension"] == dimension


def with_type(path: Path, old: str, new: str) -> Path:
    """An HDF5 file whose numbers stay, under another type of a name that is no longer."""
    raw = path.read_bytes()
    assert raw.count(old.encode()) == 1
    path.write_bytes(raw.replace(old.encode(), new.encode().ljust(len(old), b"\0")))
    return path


@pytest.mark.parametrize(
    ("source", "type_name", "words"),
    [
        (sitk.ScaleSkewVersor3DTransform(), "AffineTransform", "expected 12, found 15"),
        (sitk.ScaleSkewVersor3DTransform(), "Euler3DTransform", "expected 6, found 15"),
        (sitk.AffineTransform(3), "Euler3DTrans", "Euler3DTrans cannot be read"),
        (sitk.Similarity3DTransform(), "ScaleTransform", "expected 3, found 7"),
        (sitk.Similarity3DTransform(), "AffineTransform", "truncated or damaged"),  # 7 of 12
        (sitk.ScaleVersor3DTransform(), "QuaternionRigidTransform"[:22], "QuaternionRigidTransfo"),
    ],
)
def test_numbers_of_another_type_are_refused_in_hdf5_too(source, type_name, words, tmp_path, capfd):
    sitk.WriteTransform(source, str(tmp_path / "t.h5"))
    old, new = f"{source.GetName()}_double_3_3", f"{type_name}_double_3_3"
    with pytest.raises(ValueError, match=words):
        read_transform(with_type(tmp_path / "t.h5", old, new))
    assert capfd.readouterr().err == ""


def test_older_ants_affines_are_read_from_hdf5_alone_and_in_a_composite(tmp_path):
    """SimpleITK cannot name them, but reads and writes them."""
    affine = (
        "Transform: MatrixOffsetTransformBase_double_3_3\n"
        "Parameters: 1 0.1 0 0 1 0 0 -0.2 1 3 4 5\nFixedParameters: 10 20 30\n"
    )
    composite = "Transform: CompositeTransform_double_3_3\n"
    points = points_about(oblique_grid())
    for text in (affine, composite + affine, composite + affine + affine):
        (tmp_path / "t.tfm").write_text(HEAD + text)
        itk = sitk.ReadTransform(str(tmp_path / "t.tfm"))
        sitk.WriteTransform(itk, str(tmp_path / "t.h5"))
        for name in ("t.tfm", "t.h5"):
            ours = read_transform(tmp_path / name)(points)
            assert difference_mm(ours, by_simpleitk(itk, points)) < EXACT_MM


def test_texts_in_utf_8_are_one_clear_line_and_no_pages_of_hdf5(tmp_path, capfd):
    """As h5py writes them: one bit of the type of the texts, in headers without checksums."""
    path = tmp_path / "t.h5"
    both = sitk.CompositeTransform([sitk.Euler3DTransform(), sitk.AffineTransform(3)])
    sitk.WriteTransform(both, str(path))
    raw, ascii_text = path.read_bytes(), b"\x19\x01\x00\x00\x10\x00\x00\x00"
    assert ascii_text in raw
    path.write_bytes(raw.replace(ascii_text, b"\x19\x01\x01\x00\x10\x00\x00\x00"))
    with pytest.raises(ValueError) as caught:
        read_transform(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    assert capfd.readouterr().err == ""


def test_a_negative_size_in_a_mat_file_ends(tmp_path):
    header = struct.pack("<5i", 0, 0, 0, 0, -20)  # which would lead back to itself
    (tmp_path / "t.mat").write_bytes(header + bytes(40))
    with pytest.raises(ValueError, match="not one affine"):
        read_transform(tmp_path / "t.mat")


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".mat", ".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_refused(ending, fraction, tmp_path, capfd):
    path = tmp_path / f"t{ending}"
    if ending == ".mat":
        sitk.WriteTransform(sitk.AffineTransform(3), str(path))
    elif ending in (".h5", ".tfm"):
        write_transform(path, compose(field(oblique_grid()), bspline(oblique_grid())))
    else:
        write_transform(path, field(oblique_grid()))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(fraction * len(raw))])
    with pytest.raises(ValueError) as caught:
        read_transform(path)
    assert str(caught.value).count(str(path)) == 1
    assert capfd.readouterr().err == ""  # no pages of HDF5


@pytest.mark.parametrize(
    "ending", [".h5", ".tfm", ".txt", ".mat", ".nii", ".mha", ".nrrd", ".toml"]
)
def test_other_files_under_the_name_of_a_transform_are_refused(ending, tmp_path, capfd):
    path = tmp_path / f"t{ending}"
    with pytest.raises(ValueError, match="no such file"):
        read_transform(path)
    for content in (bytes(range(256)) * 8, b"1 0 0 5\n0 1 0 6\n0 0 1 7\n0 0 0 1\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_transform(path)
    assert capfd.readouterr().err == ""


def test_the_endings_that_can_be_used_are_reported(tmp_path):
    (tmp_path / "t.lta").write_text("type = 1")
    with pytest.raises(ValueError, match=r"\.h5, .*\.tfm.*\.mat.*\.nii"):
        read_transform(tmp_path / "t.lta")
    with pytest.raises(ValueError, match=r"written as \.h5"):
        write_transform(tmp_path / "t.mat", affine(3))


def test_an_itk_file_of_many_transforms_is_not_cut_to_the_first(tmp_path):
    """SimpleITK writes no such file, but itk-python, C++ and hands do."""
    one = sitk.AffineTransform(2)
    sitk.WriteTransform(one, str(tmp_path / "t.mat"))
    raw = (tmp_path / "t.mat").read_bytes()
    (tmp_path / "t.mat").write_bytes(raw + raw)
    with pytest.raises(ValueError, match="not one affine"):
        read_transform(tmp_path / "t.mat")


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    inverse = bspline(oblique_grid()).inverse()
    for transform, name, words in (
        (inverse, "t.h5", r"hybridreg\.warping\.invert"),
        (compose(affine(3), inverse), "t.tfm", "NumericalInverse"),
        (IDENTITY, "t.h5", "no dimension"),
        (affine(3), "t.nii.gz", r"DisplacementField\.sampled"),
        (compose(affine(3), field(oblique_grid())), "t.mha", "CompositeTransform"),
        (affine(3), "missing/t.h5", "make it first"),
    ):
        with pytest.raises(ValueError, match=words):
            write_transform(tmp_path / name, transform)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.h5"
    write_transform(path, affine(3))

    def fail(transform, name):
        Path(name).write_text("half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteTransform", fail)
    with pytest.raises(OSError, match="not be written whole.*t.h5"):
        write_transform(path, bspline(oblique_grid()))
    assert torch.allclose(read_transform(path).matrix, affine(3).matrix)
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


def test_a_written_file_replaces_the_old_one_and_is_as_readable_as_others(tmp_path):
    path, other = tmp_path / "t.h5", tmp_path / "other"
    other.write_text("")
    write_transform(path, bspline(oblique_grid()))
    write_transform(path, affine(3))
    assert isinstance(read_transform(path), AffineTransform)
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("angles", [(12.0, -25.0, 40.0), (90.0, 0.0, 35.0), (33.0,)])
def test_describe_tells_the_angles_and_shift_of_a_rigid_transform(angles, tmp_path):
    dimension = 2 if len(angles) == 1 else 3
    transform = rigid(angles, [5.0, 6.0, 7.0][:dimension], [10.0] * dimension)
    write_transform(tmp_path / "t.h5", transform)
    said = describe(tmp_path / "t.h5")
    (part,) = said["parts"]
    assert said["dimension"] == dimension and part["kind"] == "rigid"
    assert part["rotation_deg"] == pytest.approx(angles, abs=1e-6)
    assert part["translation_mm"] == pytest.approx(transform.translation.tolist())
    assert part["scales"] == pytest.approx([1.0] * dimension)


def test_describe_counts_the_parts_in_the_order_in_which_they_act(tmp_path):
    grid = oblique_grid()
    mirror = AffineTransform(torch.diag(torch.tensor([-2.0, 1, 1, 1])))
    write_transform(tmp_path / "t.h5", compose(mirror, bspline(grid, 2), field(grid)))
    said = json.loads(json.dumps(describe(tmp_path / "t.h5"), allow_nan=False))
    kinds = [part["kind"] for part in said["parts"]]
    assert kinds == ["displacement field", "B-spline of order 2", "affine"]
    deepest = field(grid).vectors.norm(dim=0).max().item()
    assert said["parts"][0]["largest_displacement_mm"] == pytest.approx(deepest, rel=1e-6)
    assert said["parts"][2]["reflects"] and max(said["parts"][2]["scales"]) == pytest.approx(2)
    control = math.prod(bspline(grid).grid.shape)
    assert said["parameters"] == 3 * math.prod(grid.shape) + 3 * control + 12


def ants_points(ants, points: torch.Tensor, files: list) -> torch.Tensor:
    """Points through files as ANTs applies them to points: the first file acts first."""
    import pandas

    dimension = points.shape[1]
    table = pandas.DataFrame(points.numpy(), columns=list("xyz")[:dimension])
    if dimension == 3:
        table["t"] = 0.0
    mapped = ants.apply_transforms_to_points(dimension, table, [str(f) for f in files])
    return torch.from_numpy(mapped[list("xyz")[:dimension]].to_numpy().copy())


ANTS_MM = 1e-4  # ANTs keeps points and affines in float32


@pytest.mark.parametrize("dimension", [2, 3])
def test_ants_maps_points_through_our_files_as_we_do(dimension, tmp_path):
    ants = pytest.importorskip("ants")
    grid = oblique_grid(dimension)
    write_transform(tmp_path / "affine.tfm", affine(dimension))
    write_transform(tmp_path / "affine.h5", affine(dimension))
    write_transform(tmp_path / "field.nii.gz", field(grid))
    write_transform(tmp_path / "both.h5", compose(affine(dimension), field(grid)))
    inner = grid.crop((1,) * dimension, tuple(n - 1 for n in grid.shape))
    points = points_about(grid)
    points = points[inner.contains(points)]
    both = compose(affine(dimension), field(grid))
    files = (["affine.tfm"], ["affine.h5"], ["field.nii.gz"], ["both.h5"])
    wanted = (affine(dimension), affine(dimension), field(grid), both)
    for names, transform in zip(files, wanted, strict=True):
        mapped = ants_points(ants, points, [tmp_path / name for name in names])
        assert difference_mm(transform(points), mapped) < ANTS_MM
    theirs = ants.read_transform(str(tmp_path / "affine.tfm"))
    mapped = torch.tensor([theirs.apply_to_point(points[0].tolist())])
    assert difference_mm(affine(dimension)(points[:1]), mapped) < ANTS_MM


@pytest.mark.parametrize("dimension", [2, 3])
def test_what_ants_registered_is_read_as_ants_applies_it(dimension, tmp_path):
    ants = pytest.importorskip("ants")
    grid = oblique_grid(dimension)
    x = (grid.points() - grid.center).numpy()
    fixed, moving = (
        ants.from_numpy(
            np.exp(-(((x - shift) / np.array([9, 6, 12])[:dimension]) ** 2).sum(-1)).T,
            origin=list(grid.origin),
            spacing=list(grid.spacing),
            direction=np.array(grid.direction),
        )
        for shift in (0.0, 2.0)
    )
    settings = {"type_of_transform": "SyN", "reg_iterations": (5, 5, 0), "random_seed": 1}
    parts = ants.registration(fixed, moving, outprefix=f"{tmp_path}/p_", **settings)
    whole = ants.registration(
        fixed, moving, outprefix=f"{tmp_path}/w_", write_composite_transform=True, **settings
    )
    points = points_about(grid.crop((3,) * dimension, tuple(n - 3 for n in grid.shape)))
    points = points[grid.contains(points)]
    warp_file, affine_file = parts["fwdtransforms"]
    assert affine_file.endswith(".mat") and warp_file.endswith(".nii.gz")
    ours = compose(read_transform(affine_file), read_transform(warp_file))
    theirs = ants_points(ants, points, [warp_file, affine_file])
    assert difference_mm(ours(points), theirs) < ANTS_MM
    swapped = compose(read_transform(warp_file), read_transform(affine_file))
    assert difference_mm(swapped(points), theirs) > 100 * ANTS_MM
    composite = read_transform(whole["fwdtransforms"])
    theirs = ants_points(ants, points, [whole["fwdtransforms"]])
    assert difference_mm(composite(points), theirs) < ANTS_MM
    assert difference_mm(composite(points), points) > 0.5


@pytest.mark.parametrize("ending", [".tfm", ".txt", ".h5", ".nii.gz", ".mha"])
def test_transforms_keep_their_format_under_endings_in_capitals(tmp_path, ending):
    grid = oblique_grid()
    field = DisplacementField(torch.rand(3, *grid.shape, dtype=torch.float64), grid)
    write_transform(tmp_path / f"A{ending.upper()}", field)
    shutil.copy(tmp_path / f"A{ending.upper()}", tmp_path / f"b{ending}")
    for name in (f"A{ending.upper()}", f"b{ending}"):
        again = read_transform(tmp_path / name)
        assert torch.allclose(again.vectors.double(), field.vectors, atol=1e-6)


def test_an_affine_of_ants_is_read_under_an_ending_in_capitals(tmp_path):
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((1.5, -2.25, 0.125))
    sitk.WriteTransform(affine, str(tmp_path / "a.mat"))
    (tmp_path / "a.mat").rename(tmp_path / "A.MAT")
    assert read_transform(tmp_path / "A.MAT").translation.tolist() == [1.5, -2.25, 0.125]
