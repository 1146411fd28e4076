"""elastix parameter maps: reading, adaptation to a pair of images, and queries.

A map is a parameter file in memory: name -> texts. Every function returns a new map.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybridreg.parameter_folder import parameter_folder

logger = logging.getLogger(__name__)

Parameters = Mapping[str, tuple[str, ...]]

POINT_METRIC = "CorrespondingPointsEuclideanDistanceMetric"

# The supported transforms of elastix, and their plain names.
TRANSFORMS = {
    "TranslationTransform": "translation",
    "EulerTransform": "rigid",
    "SimilarityTransform": "similarity",
    "AffineTransform": "affine",
    "AffineLogTransform": "affine",
    "BSplineTransform": "B-spline",
    "RecursiveBSplineTransform": "B-spline",
}

# Components needed for each metric, and the ones for a metric that uses no image.
_COMPONENTS = {
    "FixedImagePyramid": "FixedSmoothingImagePyramid",
    "MovingImagePyramid": "MovingSmoothingImagePyramid",
    "Interpolator": "LinearInterpolator",
    "ImageSampler": "RandomCoordinate",
}
_NUMBERED = re.compile(rf"(Metric|{'|'.join(_COMPONENTS)})(\d+)(\D\w*)")

# Only the transform is requested from elastix, so settings of its other output are ignored.
_OUTPUT = re.compile(
    "Write.*|ResultImage.*|CompressResultImage|ITKTransformOutputFileNameExtension"
    "|OutputTransformParameterFileFormat|UseBinaryFormatForTransformationParameters"
    "|InitialTransformParameters?FileName"
)


def find(name: str) -> Path:
    """The parameter file of this name: a path, or the name of a packaged one."""
    for path in (Path(name), parameter_folder() / name):
        if path.is_file():
            return path
    packaged = sorted(path.name for path in parameter_folder().glob("*.txt"))
    raise ValueError(
        f"there is no elastix parameter file {name}; packaged ones are: {', '.join(packaged)}"
    )


def texts(value: str | float | bool | Sequence) -> tuple[str, ...]:
    """A setting as elastix writes it: numbers and truth as text, always a tuple."""
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, str | int | float):
        return (str(value),)
    return tuple(text for item in value for text in texts(item))


def for_dimension(parameters: Parameters, dimension: int) -> Parameters:
    """The map for images of 2 or 3 dimensions. ValueError if it was written for the other one."""
    for name in ("FixedImageDimension", "MovingImageDimension"):
        if parameters.get(name, (str(dimension),)) != (str(dimension),):
            raise ValueError(
                f"it is for {parameters[name][0]}D images ({name}), these are {dimension}D: "
                "use another file, or take that line out if the rest fits"
            )
    transform = parameters.get("Transform", ("",))[0]
    if transform not in TRANSFORMS:
        raise ValueError(
            f"its Transform {transform!r} cannot be carried on; use one of {', '.join(TRANSFORMS)}"
        )
    _check_counts(parameters, dimension)
    size = (str(dimension),)
    return {**parameters, "FixedImageDimension": size, "MovingImageDimension": size}


def _check_counts(parameters: Parameters, dimension: int):
    needed = len(iterations(parameters)) * dimension
    for name in filter(_is_schedule, parameters):
        if len(parameters[name]) < needed:
            logger.warning(
                "%s has %d numbers, and %d levels of %dD images need %d: elastix will take its own",
                *(name, len(parameters[name]), levels(parameters), dimension, needed),
            )


def _is_schedule(name: str) -> bool:
    return "ImagePyramid" in name and name.endswith("Schedule")


def settled(parameters: Parameters, *, seed: int, masked: bool) -> Parameters:
    """The map with the settings of hybridreg: number type, geometry, output, seed."""
    wanted = {"UseDirectionCosines": ("true",), "HowToCombineTransforms": ("Compose",)}
    for name, value in wanted.items():
        if parameters.get(name, value) != value:
            logger.warning("%s is always %s here, not %s", name, value[0], parameters[name][0])
    kept = {name: value for name, value in parameters.items() if not _OUTPUT.fullmatch(name)}
    if masked:
        # elastix's default, erosion, makes thin masks vanish at the coarse levels.
        kept.setdefault("ErodeMask", ("false",))
    return {
        **kept,
        **wanted,
        "FixedInternalImagePixelType": ("float",),
        "MovingInternalImagePixelType": ("float",),
        "WriteResultImage": ("false",),
        "RandomSeed": (str(seed),),
    }


def starting_there(parameters: Parameters) -> Parameters:
    """The map for images that are already aligned: elastix does not align their centers."""
    if "AutomaticTransformInitialization" not in parameters:
        return parameters
    return {**parameters, "AutomaticTransformInitialization": ("false",)}


def levels(parameters: Parameters) -> int:
    """The number of resolutions of a map; elastix's default is 3."""
    return _whole_numbers(parameters, "NumberOfResolutions", "3")[0]


def iterations(parameters: Parameters) -> list[int]:
    """The maximum number of iterations at each level; the first applies if there are fewer."""
    given = _whole_numbers(parameters, "MaximumNumberOfIterations", "500")
    return [given[level if level < len(given) else 0] for level in range(levels(parameters))]


def _whole_numbers(parameters: Parameters, name: str, default: str) -> list[int]:
    given = parameters.get(name) or (default,)
    if not all(re.fullmatch(r"\d+(\.0*)?", text) for text in given):
        raise ValueError(f"{name} should be a whole number, found {' '.join(given)}")
    return [int(text.partition(".")[0]) for text in given]


def with_schedule(
    parameters: Parameters,
    fixed: tuple[Sequence[int], Sequence[float]],
    moving: tuple[Sequence[int], Sequence[float]],
) -> Parameters:
    """The map with image pyramids that smooth equally far in mm along every axis.

    fixed, moving: size in voxels and spacing in mm, (x, y, z) order. Level l of n aims at
    2**(n - 1 - l) times the finest spacing of the fixed image. A map with a schedule of its own
    is not changed; for isotropic images of one spacing, this is elastix's own schedule.
    """
    pyramids = (parameters.get(f"{side}ImagePyramid", ("",))[0] for side in ("Fixed", "Moving"))
    if any("Generic" in pyramid for pyramid in pyramids):
        return parameters
    if any(map(_is_schedule, parameters)):
        return parameters
    finest, count = min(fixed[1]), levels(parameters)
    targets = [finest * 2 ** (count - 1 - level) for level in range(count)]
    return {
        **parameters,
        "FixedImagePyramidSchedule": _factors(targets, *fixed),
        "MovingImagePyramidSchedule": _factors(targets, *moving),
    }


def _factors(targets_mm: Sequence[float], size: Sequence[int], spacing: Sequence[float]):
    """Downsampling factors that leave at least four voxels along each axis."""
    return tuple(
        str(max(1, min(round(target / s), n // 4)))
        for target in targets_mm
        for n, s in zip(size, spacing, strict=True)
    )


def with_points(parameters: Parameters, weight: float) -> Parameters:
    """The map with one more metric: the mean distance in mm of corresponding points."""
    if POINT_METRIC in parameters.get("Metric", ()):
        return parameters
    multi = _multi_metric(parameters)
    count = len(multi["Metric"])
    return {
        **multi,
        "Metric": (*multi["Metric"], POINT_METRIC),
        f"Metric{count}{_weight(multi)}": (str(weight),),
    }


def looks_at_images(metric: str) -> bool:
    """False for metrics of the transform or of points alone."""
    return not metric.endswith("Penalty") and metric != POINT_METRIC


def has_penalty(parameters: Parameters) -> bool:
    """Whether one of its metrics is a penalty on the transform."""
    return any(metric.endswith("Penalty") for metric in parameters.get("Metric", ()))


def dummies(parameters: Parameters, channels: int) -> int:
    """The number of empty images that elastix needs besides the channels.

    elastix requires one image for every metric as soon as there are several images, also for
    metrics that use none (elastix 5.3.1).
    """
    if channels == 1:
        return 0
    return sum(not looks_at_images(metric) for metric in parameters.get("Metric", ()))


def for_channels(parameters: Parameters, channels: int) -> Parameters:
    """The map for images of several channels, each with a metric of its own.

    Metrics of images come first, then the others. A single image metric is used for all channels,
    its weight divided among them; otherwise there must be one metric per channel.
    """
    if channels == 1:
        return parameters
    multi = _multi_metric(parameters)
    metrics = multi["Metric"]
    seeing = [i for i, metric in enumerate(metrics) if looks_at_images(metric)]
    if len(seeing) not in (1, channels):
        raise ValueError(
            f"it has {len(seeing)} image metrics for {channels} channels: give one metric for all "
            "channels, or one for each"
        )
    order = seeing * (channels // len(seeing)) + [i for i in range(len(metrics)) if i not in seeing]
    fraction = len(seeing) / channels
    expanded = {name: value for name, value in multi.items() if not _NUMBERED.fullmatch(name)}
    for name, value in multi.items():
        if numbered := _NUMBERED.fullmatch(name):
            expanded |= _renumbered(numbered, value, order, fraction, seeing)
    expanded["Metric"] = tuple(metrics[i] for i in order)
    for name, blind in _COMPONENTS.items():
        given = multi.get(name, (blind,))
        expanded[name] = tuple(
            given[min(i, len(given) - 1)] if i in seeing else blind for i in order
        )
    return expanded


def _renumbered(
    numbered: re.Match, value: tuple[str, ...], order: list[int], fraction: float, seeing: list[int]
) -> Parameters:
    """One numbered parameter, such as Metric0Weight, for all places its component has now."""
    component, number, rest = numbered[1], int(numbered[2]), numbered[3]
    if rest.endswith("Weight") and number in seeing:
        value = tuple(repr(float(text) * fraction) for text in value)
    return {f"{component}{place}{rest}": value for place, i in enumerate(order) if i == number}


def _multi_metric(parameters: Parameters) -> Parameters:
    """The same registration as one of several metrics with their weights written out.

    elastix's MultiResolutionRegistration ignores all images but the first.
    """
    count = len(parameters.get("Metric", ()))
    if count == 0:
        raise ValueError("it names no Metric")
    kind = _weight(parameters)
    weights = {f"Metric{i}{kind}": (repr(1 / count),) for i in range(count)}
    registration = ("MultiMetricMultiResolutionRegistration",)
    return {**weights, **parameters, "Registration": registration}


def _weight(parameters: Parameters) -> str:
    relative = parameters.get("UseRelativeWeights", ("false",)) == ("true",)
    return "RelativeWeight" if relative else "Weight"


def stage_name(parameters: Parameters) -> str:
    """The plain name of its transform, such as "rigid"."""
    return TRANSFORMS[parameters["Transform"][0]]


def metric_names(parameters: Parameters) -> list[str]:
    """Plain names of the metrics, in order; numbered if one occurs more than once."""
    words = [_in_words(metric) for metric in parameters.get("Metric", ())]
    return [
        f"{word} {words[:i].count(word) + 1}" if words.count(word) > 1 else word
        for i, word in enumerate(words)
    ]


def _in_words(metric: str) -> str:
    if metric == POINT_METRIC:
        return "point distance mm"
    name = re.sub("^Advanced|^Transform|Metric$", "", metric)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
