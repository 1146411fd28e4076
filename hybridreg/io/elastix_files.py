"""elastix's own files: parameter maps as text or TOML, and the transforms it writes."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import expm
from torch import Tensor

from hybridreg.geometry import Grid
from hybridreg.io.files import errors_of, read_text, whole_file
from hybridreg.io.itk_files import is_itk, read_itk
from hybridreg.transforms import (
    AffineTransform,
    BSplineTransform,
    Transform,
    compose,
    rigid,
)

ParameterMap = Mapping[str, Sequence[str]]

# elastix up to 5.0 wrote the first of these names, later ones the second.
_INITIAL = ("InitialTransformParametersFileName", "InitialTransformParameterFileName")
_NO_INITIAL = "NoInitialTransform"
_ORDER = "BSplineTransformSplineOrder"


def read_parameter_map(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Reads a parameter file, .txt or .toml, as elastix does: name -> texts."""
    path = Path(path)
    with errors_of(path):
        text = read_text(path)
        parameters = _from_toml(text) if path.suffix == ".toml" else _from_text(text)
        if not parameters:
            raise ValueError("there are no parameters in it")
        return parameters


def write_parameter_map(path: str | Path, parameters: ParameterMap):
    """Writes a parameter file in elastix's own syntax (.txt)."""
    path = Path(path)
    if path.suffix != ".txt":
        raise ValueError(f"{path}: an elastix parameter file is written as .txt; rename it")
    lines = []
    for name, values in parameters.items():
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"{name!r} cannot name a parameter: use letters, digits and '_'")
        lines.append(f"({name} {' '.join(_quoted(name, value) for value in values)})\n")
    with whole_file(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def transform_from_maps(
    maps: Sequence[ParameterMap], initial: tuple[int, Transform] | None = None
) -> Transform:
    """The transform of elastix's transform parameter maps, fixed -> moving.

    maps: in order of application, as in a ParameterObject: the first is applied first.
    initial: dimension of, and a transform that is applied before all of them.
    """
    if not maps:
        raise ValueError("there are no transform parameters: elastix gives one map for each stage")
    first = [] if initial is None else [initial]
    parts = [_part(parameters, first=not first and i == 0) for i, parameters in enumerate(maps)]
    dimensions = {_dimension(parameters) for parameters in maps} | {n for n, _ in first}
    if len(dimensions) > 1:
        raise ValueError("2D and 3D transforms cannot follow each other")
    return compose(*reversed(parts), *[transform for _, transform in first])


def read_transform_parameters(path: str | Path) -> Transform:
    """The transform of a TransformParameters file (.txt or .toml) and of its initial transforms.

    An initial transform, of elastix or ITK (.tfm, .h5), is searched for in the same folder, by
    its file name alone.
    """
    chain = []
    visited: list[Path] = []
    following: Path | None = Path(path)
    while following is not None and not (chain and is_itk(following)):
        visited.append(following)
        chain.append(read_parameter_map(following))
        following = _initial(chain[-1], following)
        if following in visited:
            raise ValueError(f"{path}: its initial transforms lead back to {following.name}")
    initial = None if following is None else read_itk(following)
    with errors_of(Path(path)):
        return transform_from_maps(chain[::-1], initial)


def _initial(parameters: ParameterMap, path: Path) -> Path | None:
    given = next((parameters[key] for key in _INITIAL if key in parameters), (_NO_INITIAL,))
    name = re.split(r"[\\/]", given[0])[-1] if given else ""
    if name == _NO_INITIAL:
        return None
    initial = path.with_name(name) if name not in ("", ".", "..") else path.parent
    if not initial.is_file():
        raise ValueError(
            f"{path}: it starts from the transform {name!r}, which does not lie beside it: "
            "put all files of the registration into one folder"
        )
    return initial


def _from_text(text: str) -> dict[str, tuple[str, ...]]:
    parameters: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("//")[0].strip()  # elastix ignores quotes here
        if not line:
            continue
        if not (line.startswith("(") and line.endswith(")")):
            raise ValueError(f'line {number}: expected (Name value ...), found "{line[:60]}"')
        if line.count('"') % 2:
            raise ValueError(f'line {number}: a quote (") is missing in "{line[:60]}"')
        name, *values = re.findall(r'"[^"]*"|[^\s"]+', line[1:-1]) or [""]
        if not re.fullmatch(r"\w+", name) or not values:
            raise ValueError(f'line {number}: expected (Name value ...), found "{line[:60]}"')
        if name in parameters:
            raise ValueError(f"line {number}: {name} was given before; keep one of the two")
        parameters[name] = tuple(value.strip('"') for value in values if value != '""')
    return parameters


def _from_toml(text: str) -> dict[str, tuple[str, ...]]:
    parameters = {}
    for name, value in tomllib.loads(text).items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, (bool, int, float, str)) for item in values):
            raise ValueError(f"{name} should be a text, number, true, false or a list of these")
        parameters[name] = tuple(
            str(item).lower() if isinstance(item, bool) else str(item) for item in values
        )
    return parameters


def _quoted(name: str, value: str) -> str:
    if re.search(r'["\r\n]|//', value):
        raise ValueError(f'{name} has a quote, "//" or a line break in {value!r}: take it out')
    number = re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value)
    return value if number else f'"{value}"'


def _part(parameters: ParameterMap, *, first: bool) -> Transform:
    kind = _one(parameters, "Transform")
    if kind not in _KINDS:
        advice = _ADVICE.get(kind, f"known are {', '.join(_KINDS)}")
        raise ValueError(f"elastix transforms of the kind {kind} cannot be read: {advice}")
    if "ITKTransformParameters" in parameters:
        raise ValueError(
            "it is a transform that elastix was given in memory to start from; leave it out, and "
            "compose the others with that transform"
        )
    if "TransformParameters" not in parameters:
        raise ValueError(
            "it has no TransformParameters: these are settings of a registration, not its result"
        )
    combined = _one(parameters, "HowToCombineTransforms", "")
    if not first and combined != "Compose":
        raise ValueError(
            f"its transforms are combined by {combined!r}, not composed: register again with "
            '(HowToCombineTransforms "Compose")'
        )
    for key, bad, what in _UNSUPPORTED:
        if _one(parameters, key, "").lower() == bad:
            raise ValueError(f'({key} "{bad}") is not supported: {what}')
    return _KINDS[kind](parameters, _dimension(parameters))


_UNSUPPORTED = (
    ("UseDirectionCosines", "false", "elastix then takes no notice of the images' directions"),
    ("UseCyclicTransform", "true", "the transform repeats along its last axis"),
    ("UseBinaryFormatForTransformationParameters", "true", "the numbers lie in another file"),
)
_ADVICE = {
    "ExternalTransform": "it stands for the initial transform that elastix was given; leave it "
    "out, and compose the others with that transform",
    "File": "the transform lies in the file named under TransformFileName; read that one",
    "DeformationFieldTransform": "read the file of its displacement field instead",
}


def _dimension(parameters: ParameterMap) -> int:
    keys = ("FixedImageDimension", "MovingImageDimension")
    fixed, moving = (int(_numbers(parameters, key, 1)) for key in keys)
    if fixed not in (2, 3) or fixed != moving:
        raise ValueError("only transforms from 2D to 2D and from 3D to 3D images can be read")
    return fixed


def _one(parameters: ParameterMap, key: str, default: str | None = None) -> str:
    values = parameters.get(key, () if default is None else (default,))
    if len(values) != 1:
        raise ValueError(f"{key} should have one value, found {len(values)}")
    return values[0]


def _numbers(parameters: ParameterMap, key: str, count: int) -> Tensor:
    texts = parameters.get(key, ())
    try:
        if any("_" in text for text in texts):  # which Python takes for a separator of digits
            raise ValueError("there is a '_' in one of them")
        values = np.array(texts, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{key} should hold numbers: {error}") from error
    if len(values) != count:
        raise ValueError(f"{key} should hold {count} numbers, found {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{key} has numbers that are not finite")
    return torch.from_numpy(values)


def _center(parameters: ParameterMap, dimension: int) -> Tensor:
    return _numbers(parameters, "CenterOfRotationPoint", dimension)


def _translation(parameters: ParameterMap, dimension: int) -> AffineTransform:
    shift = _numbers(parameters, "TransformParameters", dimension)
    return AffineTransform.from_parts(torch.eye(dimension), shift)


def _euler(parameters: ParameterMap, dimension: int) -> AffineTransform:
    center = _center(parameters, dimension)
    count = 1 if dimension == 2 else 3
    values = _numbers(parameters, "TransformParameters", count + dimension)
    angles, shift = torch.rad2deg(values[:count]).tolist(), values[count:]
    if dimension == 3 and _one(parameters, "ComputeZYX", "false") == "true":
        x, y, z = (rigid(turn, [0.0] * 3, [0.0] * 3).linear for turn in np.diag(angles).tolist())
        return AffineTransform.from_parts(z @ y @ x, shift, center)
    return rigid(angles, shift, center)


def _similarity(parameters: ParameterMap, dimension: int) -> AffineTransform:
    center = _center(parameters, dimension)
    if dimension == 2:
        scale, angle, *shift = _numbers(parameters, "TransformParameters", 4).tolist()
        turn = rigid([math.degrees(angle)], [0.0] * 2, [0.0] * 2).linear
        return AffineTransform.from_parts(scale * turn, shift, center)
    values = _numbers(parameters, "TransformParameters", 7)
    return AffineTransform.from_parts(values[6] * _versor(values[:3]), values[3:6], center)


def _versor(axis: Tensor) -> Tensor:
    """The rotation of a unit quaternion, given by its vector part as in ITK."""
    square = (axis @ axis).item()
    if square > 1:
        raise ValueError(f"the rotation (a versor) is longer than 1: {axis.tolist()}")
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3) + 2 * math.sqrt(1 - square) * cross + 2 * cross @ cross


def _affine(parameters: ParameterMap, dimension: int) -> AffineTransform:
    values = _numbers(parameters, "TransformParameters", dimension**2 + dimension)
    linear = values[: dimension**2].reshape(dimension, dimension)
    return AffineTransform.from_parts(
        linear, values[dimension**2 :], _center(parameters, dimension)
    )


def _affine_log(parameters: ParameterMap, dimension: int) -> AffineTransform:
    values = _numbers(parameters, "TransformParameters", dimension**2 + dimension)
    linear = torch.from_numpy(expm(values[: dimension**2].reshape(dimension, dimension).numpy()))
    return AffineTransform.from_parts(
        linear, values[dimension**2 :], _center(parameters, dimension)
    )


def _bspline(parameters: ParameterMap, dimension: int) -> BSplineTransform:
    size = [int(n) for n in _numbers(parameters, "GridSize", dimension)]
    if "GridIndex" in parameters and _numbers(parameters, "GridIndex", dimension).any():
        raise ValueError("GridIndex should be 0: the control grid begins at its first point")
    direction = torch.eye(dimension)
    if "GridDirection" in parameters:  # written column by column
        direction = _numbers(parameters, "GridDirection", dimension**2)
        direction = direction.reshape(dimension, dimension).T
    grid = Grid(
        size[::-1],
        tuple(_numbers(parameters, "GridSpacing", dimension).tolist()),
        tuple(_numbers(parameters, "GridOrigin", dimension).tolist()),
        tuple(map(tuple, direction.tolist())),
    )
    values = _numbers(parameters, "TransformParameters", dimension * math.prod(size))
    order = _numbers({_ORDER: ("3",), **parameters}, _ORDER, 1)
    return BSplineTransform(values.reshape(dimension, *grid.shape), grid, int(order))


_KINDS = {
    "TranslationTransform": _translation,
    "EulerTransform": _euler,
    "SimilarityTransform": _similarity,
    "AffineTransform": _affine,
    "AffineLogTransform": _affine_log,
    "BSplineTransform": _bspline,
    "RecursiveBSplineTransform": _bspline,
}
