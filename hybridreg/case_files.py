"""A case from files or values in memory, and its initial transform."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridreg.cases import Case, ImagePair
from hybridreg.checks import check_pair, overlap_of_fields
from hybridreg.drr import attenuation
from hybridreg.images import Image, LabelMap
from hybridreg.initialization import INITIALIZATIONS, initialize
from hybridreg.io.files import sha256_of
from hybridreg.io.objects import as_image, as_labels, as_landmarks, as_mask, as_transform
from hybridreg.io.radiographs import as_radiograph
from hybridreg.poses import pose
from hybridreg.preprocessing import foreground
from hybridreg.projection_pair import ProjectionPair
from hybridreg.transforms import IDENTITY, Transform
from hybridreg.warping import warp

log = logging.getLogger(__name__)

_OVERLAP_TO_START = 0.25  # of the smaller image; elastix gives up below a quarter of its samples
_MASK_ON_IMAGE = 0.5  # of the mask

MASKS = ("fixed_mask", "moving_mask")
POINTS = ("fixed_points", "moving_points")
LABELS = ("fixed_labels", "moving_labels")
LANDMARKS = ("fixed_landmarks", "moving_landmarks")
BESIDE = (*MASKS, *POINTS, *LABELS, *LANDMARKS, "truth")  # all inputs besides the images

_MASK_MARGIN_MM = 2.0  # so that the outline itself is compared


def read_case(
    fixed: str | Path | Image,
    moving: str | Path | Image,
    *,
    fixed_frame: int | None = None,
    moving_frame: int | None = None,
    **more,
) -> Case:
    """The case of ``register``: files are read, values used as they are."""
    for name in (n for n in ("geometry", "second") if more.pop(n, None) is not None):
        raise ValueError(f"{name} is for methods of radiographs, such as projection: leave it out")
    if unknown := set(more) - {*BESIDE}:
        raise ValueError(
            f"unknown input {sorted(unknown)}; besides the images there are {', '.join(BESIDE)}"
        )
    truth = _truth(more.pop("truth", None))
    fixed = as_image(fixed, frame=fixed_frame, name="the fixed image")
    moving = as_image(moving, frame=moving_frame, name="the moving image")
    values = {}
    for name, source in more.items():
        if source is None or (name in MASKS and isinstance(source, str) and source == "auto"):
            continue
        image = fixed if name.startswith("fixed") else moving
        if name in MASKS:
            values[name] = _on_image(as_mask(source, name=name), image, name)
        elif name in LABELS:
            values[name] = as_labels(source, name=name)
        else:
            values[name] = as_landmarks(source, grid=image.grid, name=name)
    pair = ImagePair(fixed, moving, **{n: values.pop(n, None) for n in (*MASKS, *POINTS)})
    check_pair(pair)
    for name in MASKS:
        if isinstance(more.get(name), str) and more[name] == "auto":
            image = pair.fixed if name.startswith("fixed") else pair.moving
            pair = replace(pair, **{name: foreground(image, margin_mm=_MASK_MARGIN_MM)})
    return Case(pair, **values, **truth)


def read_projections(
    fixed: Any,
    moving: str | Path | Image,
    *,
    geometry: str | Path | None = None,
    second: Any = None,
    fixed_frame: int | None = None,
    moving_frame: int | None = None,
    **more,
) -> Case:
    """The case of ``register`` for a method of radiographs: files are read, values used as they
    are.

    fixed, second: a radiograph (or its file) and another of the same moment. geometry: of the first
    one, by default beside it or in its header.
    """
    given = {name for name, value in more.items() if value is not None}
    if refused := given - {*LANDMARKS, "truth"}:
        raise ValueError(
            f"{', '.join(sorted(refused))} cannot be used with radiographs: leave them out"
        )
    fixed = as_radiograph(fixed, geometry=geometry, frame=fixed_frame, name="the radiograph")
    views = [fixed]
    if second is not None:
        views.append(as_radiograph(second, name="the second radiograph"))
    pair = ProjectionPair(tuple(views), as_image(moving, frame=moving_frame, name="the CT"))
    check_pair(pair)
    values = {n: as_landmarks(more[n], name=n) for n in LANDMARKS if more.get(n) is not None}
    return Case(pair, **values, **_truth(more.get("truth")))


def _truth(truth: str | Path | Transform | None) -> dict[str, Transform]:
    return {} if truth is None else {"true_transform": as_transform(truth, name="truth")}


def start_of(initial: str | Path | Transform | None, pair: ImagePair | ProjectionPair) -> Transform:
    """The initial transform: as given to ``register``, or by the headers if None."""
    if isinstance(pair, ProjectionPair) and (initial is None or initial in INITIALIZATIONS):
        return _pose_of(initial, pair)
    if initial is None:
        return _start_by_headers(pair)
    if isinstance(initial, str) and initial in INITIALIZATIONS:
        return initialize(pair, initial)
    return as_transform(initial, name="initial")


def _pose_of(initial: str | None, pair: ProjectionPair) -> Transform:
    """The CT as it lies in its header, with its middle (or that of its absorption) at the
    isocenter.
    """
    if initial is None:
        log.warning(
            "no initial pose is given, so it was started with the middle of the CT at "
            "the isocenter: "
            "methods find poses near the initial one only (initial=POSE.tfm, "
            "`hybridreg register --initial POSE.tfm`)"
        )
    if initial != "mass":
        return pose([0.0] * 6, pair.moving.grid.center.tolist())
    mu, points = attenuation(pair.moving).data[0].double(), pair.moving.grid.points()
    return pose([0.0] * 6, ((mu[..., None] * points).sum((0, 1, 2)) / mu.sum()).tolist())


def _start_by_headers(pair: ImagePair) -> Transform:
    """Scanner coordinates of two scanners are unrelated: then only the centers can be aligned."""
    overlap = overlap_of_fields(pair.fixed.grid, pair.moving.grid, IDENTITY)
    if overlap >= _OVERLAP_TO_START:
        return IDENTITY
    log.warning(
        "by their headers the images overlap by only %.0f %% of the smaller one, so it was started "
        "from their aligned centers (as with initial='centers', "
        "`hybridreg register --initial centers`)",
        100 * overlap,
    )
    return initialize(pair, "centers")


def _on_image(mask: LabelMap, image: Image, name: str) -> LabelMap:
    """The mask on the grid of its image: header rounding is ignored, other grids are resampled."""
    if mask.grid.matches(image.grid):
        return replace(mask, grid=image.grid)
    what, side = name.replace("_", " "), name.removesuffix("_mask")
    inside = mask.grid.points()[mask.data != 0]
    if mask.grid.dimension != image.grid.dimension or len(inside) == 0:
        return mask  # refused by check_pair
    fraction = image.grid.contains(inside).double().mean().item()
    if fraction < _MASK_ON_IMAGE:
        raise ValueError(
            f"the {what} lies in another place than the {side} image: only {fraction:.0%} of it is "
            "inside the image; draw it on this image, or resample it with the transform between"
        )
    log.warning(
        "the %s lies on another grid than the %s image (size %s, spacing %s mm); it was resampled "
        "onto the image, %.0f %% of it are inside",
        *(what, side, mask.grid.size, mask.grid.spacing, 100 * fraction),
    )
    return warp(mask, IDENTITY, onto=image.grid)


def describe_input(
    source: Any, value: Any, *, keep_identifiers: bool, frame: int | None = None
) -> dict[str, Any]:
    """The description of an input in the record: never its path, its name only on request."""
    about: dict[str, Any] = {}
    if isinstance(source, str) and source in (*INITIALIZATIONS, "auto"):
        about["name"] = source
    elif isinstance(source, (str, Path)):
        about["sha256"] = sha256_of(Path(source))
        if keep_identifiers:
            about["name"] = Path(source).name
    if isinstance(value, Image):
        grid = value.grid
        about |= {"size": grid.size, "spacing_mm": grid.spacing, "dtype": value.dtype}
    return about if frame is None else {**about, "frame": frame}
