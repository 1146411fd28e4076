"""elastix's files mean here what they mean to elastix, which runs in a process of its own."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from hybridreg.io.elastix_files import (
    read_parameter_map,
    read_transform_parameters,
    transform_from_maps,
    write_parameter_map,
)
from hybridreg.io.transforms import read_transform
from hybridreg.transforms import AffineTransform, BSplineTransform, compose

EXACT_MM = 1e-9  # elastix writes all 17 digits, so only rounding is left of some 100 mm

# Real registrations of oblique, anisotropic phantoms (left-handed in 2D) in every kind of transform
# that is read. For each: the points that elastix's own transform maps, and the maps it gives.
ELASTIX = """
import json, os, sys
from pathlib import Path
import numpy as np
import itk
from itk import itkAffineTransformPython, itkElastixRegistrationMethodPython as registration
from itk import itkHDF5TransformIOPython, itkTransformFileWriterPython as writers
from itk.elxParameterObjectPython import elastixParameterObject as Parameters

folder = Path(sys.argv[1])


def direction(dimension):
    c, s = np.cos(0.4), np.sin(0.4)
    if dimension == 2:
        return np.array([[-c, -s], [-s, c]])
    a, b = np.cos(0.3), np.sin(0.3)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return about_z @ np.array([[1, 0, 0], [0, a, -b], [0, b, a]])


def phantom(dimension, shift):
    shape = (20, 26, 22) if dimension == 3 else (40, 34)
    spacing, origin = np.array([1.2, 1.0, 2.0])[:dimension], np.array([-20.0, 15, 30])[:dimension]
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)[..., ::-1]
    points = origin + (index * spacing) @ direction(dimension).T
    center = points.reshape(-1, dimension).mean(0)
    rng = np.random.default_rng(0)
    values = 0
    for height in range(1, 9):
        middle, width = center + rng.normal(size=dimension) * 5 + shift, 3 + 3 * rng.random()
        values = values + height * np.exp(-((points - middle) ** 2).sum(-1) / 2 / width**2)
    image = itk.image_view_from_array((10 * values).astype(np.float32))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(itk.matrix_from_array(direction(dimension)))
    return image, center


def stage(kind, **changes):
    stage = dict(Parameters.GetDefaultParameterMap(kind, 1))
    changes = {"MaximumNumberOfIterations": "5", "NumberOfSpatialSamples": "300",
               "WriteResultImage": "false", **changes}
    if changes.get("Metric"):  # without the penalty of the default map, which wants cubic splines
        changes["Registration"] = "MultiResolutionRegistration"
        stage = {k: v for k, v in stage.items() if not k.startswith("Metric")}
    stage.update((name, (value,)) for name, value in changes.items())
    return stage


def named(transform, **changes):
    return stage("affine", Transform=transform, **changes)


def spline(order):
    order = {"BSplineTransformSplineOrder": str(order)}
    return stage("bspline", Metric="AdvancedNormalizedCorrelation", **order)


CASES = {
    "translation": [stage("translation")],
    "rigid": [stage("rigid", MaximumStepLength="5")],
    "rigid-zyx": [stage("rigid", MaximumStepLength="5", ComputeZYX="true")],
    "similarity": [named("SimilarityTransform")],
    "affine": [stage("affine")],
    "affine-log": [named("AffineLogTransform", MaximumStepLength="3")],
    "bspline-1": [spline(1)],
    "bspline-2": [spline(2)],
    "bspline-3": [stage("bspline")],
    "recursive": [stage("bspline", Transform="RecursiveBSplineTransform")],
    "chain": [stage("rigid"), named("SimilarityTransform"), stage("affine"), stage("bspline")],
    "toml": [stage(kind, OutputTransformParameterFileFormat="TOML") for kind in ("rigid", "bspline")],
    "exported": [stage(kind, ITKTransformOutputFileNameExtension="h5", WriteITKCompositeTransform="true")
                 for kind in ("rigid", "bspline")],
    "added": [stage("rigid"), stage("bspline", HowToCombineTransforms="Add")],
    "initial": [stage("rigid"), spline(3)],  # the penalty fails with an external transform
    "unknown": [named("AffineDTITransform")],
}


def run(name, stages, dimension):
    out = folder / f"{name}-{dimension}D"
    out.mkdir()
    fixed, center = phantom(dimension, 0)
    moving, _ = phantom(dimension, np.array([1.5, -1, 2])[:dimension])
    parameters = Parameters.New()
    for stage in stages:
        parameters.AddParameterMap(stage)
    method = getattr(registration, f"itkElastixRegistrationMethodIF{dimension}IF{dimension}").New()
    method.SetFixedImage(fixed)
    method.SetMovingImage(moving)
    method.SetParameterObject(parameters)
    method.SetOutputDirectory(str(out))
    method.SetLogToConsole(False)
    if name == "initial":
        kind = getattr(itkAffineTransformPython, f"itkAffineTransformD{dimension}")
        initial = kind.New()
        initial.Rotate(0, 1, 0.1)
        initial.Scale(1.05)
        method.SetExternalInitialTransform(initial)
    method.Update()
    points = center + np.random.default_rng(1).uniform(-18, 18, (200, dimension))
    total = method.GetCombinationTransform()
    result = method.GetTransformParameterObject()
    maps = [dict(result.GetParameterMap(i)) for i in range(result.GetNumberOfParameterMaps())]
    mapped = [list(total.TransformPoint(point)) for point in points.tolist()]
    return {"points": points.tolist(), "mapped": mapped, "maps": maps}


def read(path):
    parameters = Parameters.New()
    parameters.ReadParameterFile(str(path))
    return dict(parameters.GetParameterMap(0))


def write_list(path):
    kind = itkAffineTransformPython.itkAffineTransformD3
    writer = writers.itkTransformFileWriterTemplateD.New()
    writer.SetInput(kind.New())
    writer.AddTransform(kind.New())
    writer.SetFileName(str(path))
    writer.SetTransformIO(itkHDF5TransformIOPython.itkHDF5TransformIOTemplateD.New())
    writer.Update()


results = {f"{name}-{d}D": run(name, stages, d) for name, stages in CASES.items() for d in (2, 3)}
files = {path.name: read(path) for path in sorted((folder / "read").iterdir())}
write_list(folder / "list.h5")
(folder / "results.json").write_text(json.dumps({"runs": results, "files": files}))
"""

SYNTAX = """// A comment, (NotThis "value")
(Transform "EulerTransform")   // and another
  (NumberOfResolutions 3)
\t(ImagePyramidSchedule 8 8 4\t4 4 2  1 1 1 )
(Metric "AdvancedMattesMutualInformation" "TransformBendingEnergyPenalty")
(DefaultPixelValue -1024.5)
(Quoted "3" 4 "five six" seven)
(Nothing "" "left")
(ErodeMask false)

"""
TOML = """# A comment
Transform = "EulerTransform"
NumberOfResolutions = 3
DefaultPixelValue = -1024.5
ErodeMask = false
MaximumStepLength = 1e-3
Metric = ["AdvancedMattesMutualInformation", "TransformBendingEnergyPenalty"]
ImagePyramidSchedule = [8, 4, 2]
WriteResultImage = [true, false]
"""
MAP = {
    "Transform": ("BSplineTransform",),
    "ImagePyramidSchedule": ("8", "8", "4"),
    "FinalGridSpacingInPhysicalUnits": ("1e-3", "-5.5", ".5"),
    "ErodeMask": ("false",),
    "ResultImageFormat": ("two words",),
    "Path": ("C:\\data\\t.txt",),
}


@pytest.fixture(scope="session")
def elastix(tmp_path_factory) -> tuple[Path, dict]:
    """The folder in which elastix wrote, and what it said."""
    folder = tmp_path_factory.mktemp("elastix")
    (folder / "read").mkdir()
    (folder / "read" / "syntax.txt").write_text(SYNTAX)
    (folder / "read" / "syntax.toml").write_text(TOML)
    write_parameter_map(folder / "read" / "written.txt", MAP)
    done = subprocess.run(
        [sys.executable, "-c", ELASTIX, str(folder)],
        check=False,
        timeout=300,
        env={**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, json.loads((folder / "results.json").read_text())


KINDS = (
    *("translation", "rigid", "rigid-zyx", "similarity", "affine", "affine-log"),
    *("bspline-1", "bspline-2", "bspline-3", "recursive", "chain", "toml"),
)


def difference_mm(transform, run: dict) -> float:
    points, mapped = (torch.tensor(run[key], dtype=torch.float64) for key in ("points", "mapped"))
    assert (mapped - points).abs().max() > 0.5  # elastix did move something
    return (transform(points) - mapped).abs().max().item()


@pytest.mark.parametrize("dimension", ["2D", "3D"])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_and_files_of_elastix_map_points_as_elastix_does(kind, dimension, elastix):
    folder, said = elastix
    run = said["runs"][f"{kind}-{dimension}"]
    assert difference_mm(transform_from_maps(run["maps"]), run) < EXACT_MM
    last = len(run["maps"]) - 1
    ending = "toml" if kind == "toml" else "txt"
    path = folder / f"{kind}-{dimension}" / f"TransformParameters.{last}.{ending}"
    assert difference_mm(read_transform_parameters(path), run) < EXACT_MM
    assert difference_mm(read_transform(path), run) < EXACT_MM


@pytest.mark.parametrize("dimension", ["2D", "3D"])
def test_the_kinds_come_out_as_our_own(dimension, elastix):
    runs = elastix[1]["runs"]
    affine = transform_from_maps(runs[f"affine-log-{dimension}"]["maps"])
    bspline = transform_from_maps(runs[f"bspline-2-{dimension}"]["maps"])
    chain = transform_from_maps(runs[f"chain-{dimension}"]["maps"])
    assert isinstance(affine, AffineTransform)
    assert isinstance(bspline, BSplineTransform) and bspline.order == 2
    assert [type(part) for part in chain.parts] == [BSplineTransform, AffineTransform]


@pytest.mark.parametrize("dimension", ["2D", "3D"])
def test_what_elastix_exports_for_itk_is_read(dimension, elastix):
    folder, said = elastix
    run, out = said["runs"][f"exported-{dimension}"], folder / f"exported-{dimension}"
    composite = read_transform(out / "TransformParameters.1-Composite.h5")
    assert difference_mm(composite, run) < EXACT_MM
    parts = [read_transform(out / f"TransformParameters.{i}.h5") for i in (1, 0)]
    assert difference_mm(compose(*parts), run) < EXACT_MM
    with pytest.raises(ValueError, match="TransformFileName"):
        read_transform(out / "TransformParameters.1.txt")


@pytest.mark.parametrize("dimension", ["2D", "3D"])
def test_an_external_initial_transform_is_composed_by_who_gave_it(dimension, elastix):
    run = elastix[1]["runs"][f"initial-{dimension}"]
    with pytest.raises(ValueError, match="leave it out"):
        transform_from_maps(run["maps"])
    c, s = math.cos(0.1), math.sin(0.1)  # ITK's Rotate(0, 1, angle) turns from y to x
    linear = torch.eye(int(dimension[0]), dtype=torch.float64)
    linear[:2, :2] = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    initial = AffineTransform.from_parts(linear * 1.05, [0.0] * len(linear))
    assert run["maps"][0]["Transform"] == ["ExternalTransform"]
    found = transform_from_maps(run["maps"][1:])
    assert difference_mm(compose(found, initial), run) < EXACT_MM
    assert difference_mm(compose(initial, found), run) > 1e-2


def test_transforms_that_mean_something_else_are_refused_by_name(elastix):
    runs = elastix[1]["runs"]
    with pytest.raises(ValueError, match="AffineDTITransform.*known are.*BSplineTransform"):
        transform_from_maps(runs["unknown-3D"]["maps"])
    with pytest.raises(ValueError, match="'Add', not composed"):
        transform_from_maps(runs["added-3D"]["maps"])
    # The first of a chain has nothing to be added to.
    first = [{**runs["rigid-3D"]["maps"][0], "HowToCombineTransforms": ["Add"]}]
    assert difference_mm(transform_from_maps(first), runs["rigid-3D"]) < EXACT_MM


@pytest.mark.parametrize("name", ["syntax.txt", "syntax.toml", "written.txt"])
def test_parameter_files_are_read_as_elastix_reads_them(name, elastix):
    folder, said = elastix
    theirs = {key: tuple(values) for key, values in said["files"][name].items()}
    ours = read_parameter_map(folder / "read" / name)
    numbers = ("MaximumStepLength",)  # 1e-3 is 0.001 in TOML: the same number in other words
    assert {k: v for k, v in ours.items() if k not in numbers} == {
        k: v for k, v in theirs.items() if k not in numbers
    }
    for key in set(ours) & set(numbers):
        assert [float(v) for v in ours[key]] == [float(v) for v in theirs[key]]
    assert len(ours) > 5


def test_a_written_map_is_read_back(tmp_path):
    write_parameter_map(tmp_path / "p.txt", MAP)
    assert read_parameter_map(tmp_path / "p.txt") == MAP
    text = (tmp_path / "p.txt").read_text()
    assert "(ImagePyramidSchedule 8 8 4)\n" in text and '(ErodeMask "false")\n' in text


def test_a_list_of_transforms_that_itk_wrote_is_not_cut_to_its_first(elastix, capfd):
    with pytest.raises(ValueError, match="several transforms"):
        read_transform(elastix[0] / "list.h5")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.txt", '(A "b")\nTransform "c"\n', "line 2: expected"),
        ("p.txt", '(A "b")\n\n(Transform "c)\n', "line 3: a quote"),
        ("p.txt", "(A)\n", "line 1: expected"),
        ("p.txt", "()\n", "line 1: expected"),
        ("p.txt", '(A-b "c")\n', "line 1: expected"),
        ("p.txt", "(A 1)\n(B 2)\n(A 3)\n", "line 3: A was given before"),
        ("p.txt", "// nothing\n", "no parameters"),
        ("p.toml", "A = 1\nB = \n", "line 2"),
        ("p.toml", "A = 1\nA = 2\n", "line 2"),
        ("p.toml", "[A]\nB = 1\n", "A should be"),
        ("p.toml", "A = [[1, 2], [3]]\n", "A should be"),
        ("p.toml", "A = 2020-01-01\n", "A should be"),
        ("p.toml", "", "no parameters"),
    ],
)
def test_mistakes_in_parameter_files_are_reported_with_their_place(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_parameter_map(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_and_binary_parameter_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_parameter_map(tmp_path / "p.txt")
    (tmp_path / "p.txt").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match="text"):
        read_parameter_map(tmp_path / "p.txt")


def test_maps_that_elastix_could_not_read_are_not_written(tmp_path):
    for parameters, words in (
        ({"A": ('say "b"',)}, "quote"),
        ({"A": ("b\nc",)}, "line break"),
        ({"A": ("http://b",)}, "//"),
        ({"A b": ("c",)}, "cannot name"),
    ):
        with pytest.raises(ValueError, match=words):
            write_parameter_map(tmp_path / "p.txt", parameters)
    with pytest.raises(ValueError, match=r"\.txt"):
        write_parameter_map(tmp_path / "p.toml", MAP)
    assert list(tmp_path.iterdir()) == []


EULER = {
    "Transform": ["EulerTransform"],
    "FixedImageDimension": ["2"],
    "MovingImageDimension": ["2"],
    "CenterOfRotationPoint": ["10", "20"],
    "TransformParameters": ["0.1", "3", "4"],
    "UseDirectionCosines": ["true"],
    "HowToCombineTransforms": ["Compose"],
    "InitialTransformParameterFileName": ["NoInitialTransform"],
}
BSPLINE = {
    **EULER,
    "Transform": ["BSplineTransform"],
    "TransformParameters": ["1"] * 40,
    "BSplineTransformSplineOrder": ["3"],
    "GridSize": ["4", "5"],
    "GridSpacing": ["10", "10"],
    "GridOrigin": ["0", "0"],
    "GridDirection": ["1", "0", "0", "1"],
    "GridIndex": ["0", "0"],
}


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        (EULER, {"TransformParameters": ["0.1", "3"]}, "3 numbers, found 2"),
        (EULER, {"TransformParameters": ["0.1", "3", "four"]}, "four"),
        (EULER, {"TransformParameters": ["0.1", "3", "nan"]}, "not finite"),
        (EULER, {"TransformParameters": ["0.1", "3", "4_0"]}, "'_'"),
        (EULER, {"CenterOfRotationPoint": ["1", "2", "3"]}, "CenterOfRotationPoint"),
        (EULER, {"UseDirectionCosines": ["false"]}, "UseDirectionCosines"),
        (EULER, {"FixedImageDimension": ["3"]}, "2D to 2D"),
        (EULER, {"FixedImageDimension": ["4"], "MovingImageDimension": ["4"]}, "2D to 2D"),
        (EULER, {"FixedImageDimension": ["two"]}, "FixedImageDimension"),
        (EULER, {"ITKTransformParameters": ["0.1", "3", "4"]}, "in memory"),
        (EULER, {"Transform": ["DeformationFieldTransform"]}, "displacement field"),
        (EULER, {"Transform": ["EulerStackTransform"]}, "EulerStackTransform"),
        (EULER, {"Transform": ["SimilarityTransform"]}, "4 numbers, found 3"),
        (BSPLINE, {"GridIndex": ["1", "0"]}, "GridIndex"),
        (BSPLINE, {"GridSize": ["4", "4"]}, "32 numbers, found 40"),
        (BSPLINE, {"GridSpacing": ["10", "-10"]}, "spacing"),
        (BSPLINE, {"BSplineTransformSplineOrder": ["4"]}, "order"),
        (BSPLINE, {"UseCyclicTransform": ["true"]}, "repeats"),
        (BSPLINE, {"UseBinaryFormatForTransformationParameters": ["true"]}, "another file"),
    ],
)
def test_transform_parameters_that_do_not_fit_are_refused(base, change, words):
    transform_from_maps([base])
    with pytest.raises(ValueError, match=words):
        transform_from_maps([{**base, **change}])


def test_settings_of_a_registration_are_no_transform(elastix):
    with pytest.raises(ValueError, match="no TransformParameters"):
        transform_from_maps([{k: v for k, v in EULER.items() if k != "TransformParameters"}])
    with pytest.raises(ValueError, match="syntax.txt.*no TransformParameters"):
        read_transform(elastix[0] / "read" / "syntax.txt")
    with pytest.raises(ValueError, match="no transform parameters"):
        transform_from_maps([])
    three = {**EULER, "FixedImageDimension": ["3"], "MovingImageDimension": ["3"]}
    three |= {"TransformParameters": ["0"] * 6, "CenterOfRotationPoint": ["0"] * 3}
    with pytest.raises(ValueError, match="2D and 3D"):
        transform_from_maps([EULER, three])


def shift(folder: Path, name: str, mm: float, initial: str, key: str = "") -> Path:
    parameters = {**EULER, "Transform": ["TranslationTransform"]}
    parameters["TransformParameters"] = [str(mm), "0"]
    del parameters["InitialTransformParameterFileName"]
    parameters[key or "InitialTransformParameterFileName"] = [initial]
    write_parameter_map(folder / name, parameters)
    return folder / name


@pytest.mark.parametrize(
    "key", ["InitialTransformParameterFileName", "InitialTransformParametersFileName"]
)
@pytest.mark.parametrize("place", ["", "/another/machine/", "C:\\\\results\\\\", "../../"])
def test_initial_transforms_are_found_beside_the_file_by_their_name_alone(place, key, tmp_path):
    shift(tmp_path, "T.0.txt", 1.0, "NoInitialTransform", key)
    last = shift(tmp_path, "T.1.txt", 10.0, place.replace("\\\\", "\\") + "T.0.txt", key)
    moved = read_transform_parameters(last)(torch.zeros(1, 2))
    assert moved.tolist() == [[11.0, 0.0]]


def test_a_path_inside_a_file_is_never_followed(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    elsewhere = shift(tmp_path, "T.0.txt", 1.0, "NoInitialTransform")
    last = shift(inner, "T.1.txt", 10.0, str(elsewhere))
    with pytest.raises(ValueError, match="does not lie beside it"):
        read_transform_parameters(last)
    for initial in ("..", ".", "/", str(inner)):
        with pytest.raises(ValueError, match="beside"):
            read_transform_parameters(shift(inner, "T.2.txt", 10.0, initial))


def test_initial_transforms_that_lead_in_a_circle_are_refused(tmp_path):
    shift(tmp_path, "T.0.txt", 1.0, "T.2.txt")
    shift(tmp_path, "T.1.txt", 1.0, "T.0.txt")
    with pytest.raises(ValueError, match=re.escape("lead back to T.2.txt")):
        read_transform_parameters(shift(tmp_path, "T.2.txt", 1.0, "T.1.txt"))
    with pytest.raises(ValueError, match="lead back"):
        read_transform_parameters(shift(tmp_path, "T.3.txt", 1.0, "T.3.txt"))


@pytest.mark.parametrize("name", ["init.tfm", "init.h5", "init.txt"])
def test_an_initial_transform_in_a_file_of_itk_acts_first(name, tmp_path):
    angle = 0.1
    sitk.WriteTransform(sitk.Euler2DTransform((0.0, 0.0), angle, (5.0, 7.0)), str(tmp_path / name))
    shift(tmp_path, "T.0.txt", 1.0, f"/elsewhere/{name}")
    last = shift(tmp_path, "T.1.txt", 10.0, "T.0.txt")
    moved = read_transform(last)(torch.tensor([[30.0, 0.0]]).double())
    wanted = [30 * math.cos(angle) + 5 + 11, 30 * math.sin(angle) + 7]
    assert moved[0].tolist() == pytest.approx(wanted)


def test_an_initial_transform_of_itk_must_fit(tmp_path):
    last = shift(tmp_path, "T.0.txt", 1.0, "init.tfm")
    with pytest.raises(ValueError, match="does not lie beside"):
        read_transform(last)
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "init.tfm"))
    with pytest.raises(ValueError, match="2D and 3D"):
        read_transform(last)
    (tmp_path / "init.tfm").write_text("#Insight Transform File V1.0\n")
    with pytest.raises(ValueError, match=r"init\.tfm: there is no transform"):
        read_transform(last)
