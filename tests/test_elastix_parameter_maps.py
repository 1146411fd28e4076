"""Parameter maps are found, made fit for a pair, and read for what they will do."""

import pytest

from hybridreg.io.elastix_files import read_parameter_map
from hybridreg.methods.elastix import parameter_maps as maps
from hybridreg.methods.elastix.parameter_names import is_known
from hybridreg.parameter_folder import parameter_folder

PACKAGED = ("rigid.txt", "affine.txt", "bspline.txt")
POINTS = maps.POINT_METRIC
BENDING = "TransformBendingEnergyPenalty"


def simple(**changes) -> dict[str, tuple[str, ...]]:
    """A map of one metric; values given as text or numbers."""
    parameters = {"Transform": "AffineTransform", "Metric": "AdvancedMeanSquares"}
    return {name: maps.texts(value) for name, value in (parameters | changes).items()}


def test_packaged_files_are_found_by_name_and_others_by_path(tmp_path):
    assert maps.find("rigid.txt") == parameter_folder() / "rigid.txt"
    (tmp_path / "own.txt").write_text('(Transform "EulerTransform")')
    assert maps.find(str(tmp_path / "own.txt")) == tmp_path / "own.txt"
    with pytest.raises(ValueError, match=r"rigit\.txt; packaged ones are: .*rigid\.txt"):
        maps.find("rigit.txt")


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_files_hold_nothing_that_elastix_does_not_know(name):
    parameters = read_parameter_map(maps.find(name))
    assert all(is_known(parameter) for parameter in parameters)
    for dimension in (2, 3):
        assert maps.for_dimension(parameters, dimension)["FixedImageDimension"] == (str(dimension),)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("MaximumNumberOfIterations", True),
        ("SP_a", True),
        ("Metric12Weight", True),
        ("Metric0RelativeWeight", True),
        ("Metric0NumberOfHistogramBins", True),
        ("ImageSampler1NumberOfSpatialSamples", True),
        ("FixedImagePyramidSchedule", True),
        ("MaxIterations", False),
        ("maximumnumberofiterations", False),
        ("Metric0Wait", False),
        ("ImageSampler0Weight", False),
        ("FinalGridSpacing", False),  # elastix 5 takes no notice of it: the grid would be its own
    ],
)
def test_names_are_known_exactly_as_elastix_writes_them(name, known):
    assert is_known(name) is known


def test_settings_become_the_texts_of_elastix():
    assert maps.texts(200) == ("200",)
    assert maps.texts(True) == ("true",)
    assert maps.texts((4, 2.5, "a", False)) == ("4", "2.5", "a", "false")


@pytest.mark.parametrize(
    ("changes", "dimension", "says"),
    [
        ({"FixedImageDimension": 3}, 2, "for 3D images .FixedImageDimension., these are 2D"),
        ({"Transform": "SplineKernelTransform"}, 3, "SplineKernelTransform.* use one of .*Euler"),
        ({"NumberOfResolutions": "three"}, 3, "NumberOfResolutions should be a whole number"),
        ({"MaximumNumberOfIterations": "1e3"}, 3, "whole number, found 1e3"),
    ],
)
def test_maps_that_do_not_fit_are_refused(changes, dimension, says):
    with pytest.raises(ValueError, match=says):
        maps.for_dimension(simple(**changes), dimension)


def test_a_schedule_that_elastix_will_not_take_is_warned_of(caplog):
    maps.for_dimension(simple(ImagePyramidSchedule=(4, 2)), 3)
    assert "has 2 numbers, and 3 levels of 3D images need 9" in caplog.text


def test_what_files_say_about_output_is_left_out_and_precision_is_kept():
    output = {
        "WriteTransformParametersEachResolution": True,
        "WriteResultImage": True,
        "ResultImagePixelType": "short",
        "ResultImageFormat": "mhd",
        "CompressResultImage": True,
    }
    given = simple(FixedInternalImagePixelType="short", RandomSeed=121212, **output)
    settled = maps.settled(given, seed=7, masked=False)
    assert not set(output) & set(settled) - {"WriteResultImage"}
    assert settled["WriteResultImage"] == ("false",)
    assert settled["FixedInternalImagePixelType"] == ("float",)
    assert settled["RandomSeed"] == ("7",)


def test_masks_are_not_eroded_unless_the_file_asks_for_it():
    def erosion(masked, **changes):
        return maps.settled(simple(**changes), seed=0, masked=masked).get("ErodeMask")

    assert erosion(True) == ("false",)
    assert erosion(True, ErodeMask=True) == ("true",)
    assert erosion(False) is None


def test_geometry_that_would_be_misread_is_set_right_with_a_warning(caplog):
    given = simple(UseDirectionCosines=False, HowToCombineTransforms="Add")
    settled = maps.settled(given, seed=0, masked=False)
    assert settled["UseDirectionCosines"] == ("true",)
    assert settled["HowToCombineTransforms"] == ("Compose",)
    assert "UseDirectionCosines" in caplog.text and "Add" in caplog.text


ISOTROPIC = ((64, 80, 72), (1.0, 1.0, 1.0))


def schedules(parameters, fixed, moving) -> tuple[str, str]:
    found = maps.with_schedule(parameters, fixed, moving)
    return tuple(
        " ".join(found.get(f"{side}ImagePyramidSchedule", ())) for side in ("Fixed", "Moving")
    )


def test_the_mm_schedule_is_that_of_elastix_for_isotropic_images():
    both = schedules(simple(NumberOfResolutions=4), ISOTROPIC, ISOTROPIC)
    assert both == ("8 8 8 4 4 4 2 2 2 1 1 1",) * 2
    assert schedules(simple(), ISOTROPIC, ISOTROPIC)[0] == "4 4 4 2 2 2 1 1 1"


def test_the_mm_schedule_spares_thick_slices_and_follows_each_images_spacing():
    fixed = ((256, 256, 40), (0.9, 0.9, 4.0))
    moving = ((120, 120, 120), (1.8, 1.8, 1.8))
    found = schedules(simple(NumberOfResolutions=4), fixed, moving)
    # targets of 7.2, 3.6, 1.8 and 0.9 mm
    assert found == ("8 8 2 4 4 1 2 2 1 1 1 1", "4 4 4 2 2 2 1 1 1 1 1 1")


def test_the_mm_schedule_leaves_at_least_four_voxels_of_every_axis():
    thin = ((200, 200, 12), (1.0, 1.0, 1.0))
    assert schedules(simple(NumberOfResolutions=4), thin, thin)[0] == "8 8 3 4 4 3 2 2 2 1 1 1"


@pytest.mark.parametrize(
    "own",
    [
        {"ImagePyramidSchedule": (2,) * 9},
        {"FixedImagePyramidSchedule": (2,) * 9},
        {"FixedImagePyramid": "FixedGenericImagePyramid"},
    ],
)
def test_a_schedule_of_the_files_own_stays(own):
    parameters = simple(**own)
    assert maps.with_schedule(parameters, ISOTROPIC, ISOTROPIC) == parameters


def test_one_channel_leaves_a_map_as_it_is():
    parameters = simple(Metric=("AdvancedMeanSquares", BENDING))
    assert maps.for_channels(parameters, 1) == parameters
    assert maps.dummies(parameters, 1) == 0


def test_one_metric_serves_all_channels_with_its_weight_divided():
    parameters = simple(
        Registration="MultiResolutionRegistration",
        Metric=(BENDING, "AdvancedMeanSquares"),
        Metric0Weight=50,
        Metric1Weight=(1, 0.5),
        Metric1NumberOfHistogramBins=16,
        ImageSampler=("Full", "Grid"),
        Interpolator="BSplineInterpolator",
    )
    found = maps.for_channels(parameters, 4)
    assert found["Registration"] == ("MultiMetricMultiResolutionRegistration",)
    assert found["Metric"] == ("AdvancedMeanSquares",) * 4 + (BENDING,)
    assert [found[f"Metric{i}Weight"] for i in range(5)] == [("0.25", "0.125")] * 4 + [("50",)]
    assert found["Metric3NumberOfHistogramBins"] == ("16",)
    assert "Metric4NumberOfHistogramBins" not in found
    assert found["ImageSampler"] == ("Grid",) * 4 + ("RandomCoordinate",)
    assert found["Interpolator"] == ("BSplineInterpolator",) * 4 + ("LinearInterpolator",)
    assert found["FixedImagePyramid"] == ("FixedSmoothingImagePyramid",) * 5
    assert maps.dummies(parameters, 4) == maps.dummies(found, 4) == 1


def test_weights_that_were_not_given_keep_their_meaning():
    found = maps.for_channels(simple(), 2)
    assert [found[f"Metric{i}Weight"] for i in range(2)] == [("0.5",)] * 2
    relative = maps.for_channels(simple(UseRelativeWeights=True), 2)
    assert relative["Metric1RelativeWeight"] == ("0.5",) and "Metric1Weight" not in relative


def test_as_many_metrics_as_channels_belong_to_one_channel_each():
    metrics = ("AdvancedMattesMutualInformation", "AdvancedMeanSquares")
    found = maps.for_channels(simple(Metric=metrics, Metric0Weight=2, Metric1Weight=3), 2)
    assert found["Metric"] == metrics
    assert (found["Metric0Weight"], found["Metric1Weight"]) == (("2.0",), ("3.0",))
    with pytest.raises(ValueError, match="2 image metrics for 3 channels"):
        maps.for_channels(simple(Metric=metrics), 3)


def test_points_become_one_more_metric_behind_the_others():
    found = maps.with_points(simple(), 0.01)
    assert found["Metric"] == ("AdvancedMeanSquares", POINTS)
    assert (found["Metric0Weight"], found["Metric1Weight"]) == (("1.0",), ("0.01",))
    assert maps.with_points(found, 5.0) == found
    channels = maps.for_channels(maps.with_points(simple(Metric=("X", BENDING)), 0.01), 2)
    assert channels["Metric"] == ("X", "X", BENDING, POINTS)
    assert channels["Metric3Weight"] == ("0.01",)
    assert maps.dummies(channels, 2) == 2


def test_a_map_without_a_metric_is_refused():
    with pytest.raises(ValueError, match="no Metric"):
        maps.for_channels({"Transform": ("AffineTransform",)}, 2)


def test_iterations_are_counted_as_elastix_does():
    assert maps.iterations(simple(NumberOfResolutions=3)) == [500] * 3
    assert maps.iterations(simple(MaximumNumberOfIterations=(10, 20))) == [10, 20, 10]
    older = simple(MaximumNumberOfIterations="512.000000", NumberOfResolutions="2.000000")
    assert maps.iterations(older) == [512, 512]


def test_metrics_and_stages_have_names_that_people_read():
    metrics = ("AdvancedMattesMutualInformation", BENDING, POINTS)
    assert maps.metric_names(simple(Metric=metrics)) == [
        "mattes mutual information",
        "bending energy penalty",
        "point distance mm",
    ]
    twice = simple(Metric=("AdvancedMeanSquares",) * 2)
    assert maps.metric_names(twice) == ["mean squares 1", "mean squares 2"]
    assert maps.stage_name(simple(Transform="BSplineTransform")) == "B-spline"
