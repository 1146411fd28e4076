"""One case from files to its outcome: what the command line, batches and notebooks call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hybridreg import progress
from hybridreg.cases import Case, ImagePair, check_pair, hints, overlap_of_fields
from hybridreg.config import describe_method, load_intent, load_method, preset_of, with_settings
from hybridreg.decomposition import Decomposition, decompose, fitted_affine
from hybridreg.evaluation import evaluate
from hybridreg.fusing import Fusion, fuse_images, network_of
from hybridreg.fusion import RULES, WeightNetwork
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.initialization import INITIALIZATIONS, initialize
from hybridreg.intensity import to_unit
from hybridreg.io.files import sha256_of
from hybridreg.io.objects import as_image, as_labels, as_landmarks, as_mask, as_transform
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.outcome import Outcome
from hybridreg.preprocessing import foreground
from hybridreg.quality import Intent, judge, similarity
from hybridreg.record import Record
from hybridreg.transforms import IDENTITY, DisplacementField, Transform
from hybridreg.warping import check_interpolation, invert, jacobian_determinant, measured, warp

log = logging.getLogger(__name__)

_OVERLAP_TO_START = 0.25  # of the smaller image; elastix gives up below a quarter of its samples
_MASK_ON_IMAGE = 0.5  # of the mask

MASKS = ("fixed_mask", "moving_mask")
POINTS = ("fixed_points", "moving_points")
LABELS = ("fixed_labels", "moving_labels")
LANDMARKS = ("fixed_landmarks", "moving_landmarks")

_MASK_MARGIN_MM = 2.0  # so that the outline itself is compared


def register(
    fixed: str | Path | Image,
    moving: str | Path | Image,
    method: str | Path | Mapping[str, Any] | RegistrationMethod = "rigid",
    *,
    initial: str | Path | Transform | None = None,
    threads: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    keep_identifiers: bool = False,
    fuse: str | None = None,
    interpolation: str = "linear",
    fixed_frame: int | None = None,
    moving_frame: int | None = None,
    **more,
) -> Outcome:
    """Registers the moving image to the fixed one: files or values in, everything out.

    method: name of a preset or method, a TOML file, a table, or a method object.
    initial: where to start: a transform (or its file) fixed -> moving, "centers" or "mass". None
        starts where the headers place the images, or from their centers where that is far apart.
    threads, seed, device: set on the method wherever it has such a field.
    keep_identifiers: name the input files in the result; otherwise they appear by hash only.
    fuse: a fusion rule (a name in ``fusion.RULES``), by which fixed and moved become one image too.
    interpolation: of the moved image, see ``warping.warp``; "cubic" keeps thick slices sharper.
    fixed_frame, moving_frame: which image to take of a file that holds several (a time series),
        counted from 0.
    more: the rest of the case, each a file or a value: fixed_mask, moving_mask (where to compare;
        "auto" for the patient without the air around, see ``preprocessing.foreground``),
        fixed_points, moving_points (corresponding points that guide the registration),
        fixed_labels, moving_labels, fixed_landmarks, moving_landmarks (only judge it).
    Values are ours, images and transforms of SimpleITK, or images of nibabel; points may be arrays
    or lists in LPS mm. An image that is a bare array is refused: give it a ``Grid``.

    >>> outcome = register("fixed.nii.gz", "moving.nii.gz", "bspline")  # doctest: +SKIP
    >>> outcome.save("out")  # doctest: +SKIP

    ValueError or FileNotFoundError for bad input, before any long work; RegistrationError where the
    method fails.
    """
    intent, preset = Intent(), preset_of(method)
    if isinstance(method, (str, Path, Mapping)):
        method, intent = load_method(method), load_intent(method)
    method = with_settings(method, threads=threads, seed=seed, device=device)
    record = Record()
    with record.listening(), record.timing("read"):
        frames = {"fixed_frame": fixed_frame, "moving_frame": moving_frame}
        case = read_case(fixed, moving, **frames, **more)
        start = start_of(initial, case.pair)
        sources = {"fixed": fixed, "moving": moving, "initial": initial, **more}
        inputs = {
            name: _describe(source, getattr(case.pair, name, None), keep_identifiers)
            | _frame_of(frames.get(f"{name}_frame"))
            for name, source in sources.items()
            if source is not None
        }
        if keep_identifiers and isinstance(fixed, (str, Path)):
            case = replace(case, name=Path(fixed).name.split(".")[0])
    return run(
        case,
        method,
        initial=start,
        intent=intent,
        preset=preset,
        inputs=inputs,
        record=record,
        fuse=fuse,
        interpolation=interpolation,
    )


def read_case(
    fixed: str | Path | Image,
    moving: str | Path | Image,
    *,
    fixed_frame: int | None = None,
    moving_frame: int | None = None,
    **more,
) -> Case:
    """The case of ``register``: files are read, values taken as they are."""
    unknown = set(more) - {*MASKS, *POINTS, *LABELS, *LANDMARKS}
    if unknown:
        raise ValueError(
            f"unknown input {sorted(unknown)}; besides the images there are "
            f"{', '.join([*MASKS, *POINTS, *LABELS, *LANDMARKS])}"
        )
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
    return Case(pair, **values)


def run(
    case: Case,
    method: RegistrationMethod,
    *,
    initial: Transform = IDENTITY,
    intent: Intent = Intent(),
    preset: str | None = None,
    inputs: Mapping[str, Mapping[str, Any]] | None = None,
    record: Record | None = None,
    fuse: str | None = None,
    interpolation: str = "linear",
) -> Outcome:
    """Leads one case through a method and before its judges.

    intent: what the method is meant for, against which its result is judged. preset: the name that
    the method is known by, for the record. fuse: a fusion rule. interpolation: of the moved image.
    """
    record = record or Record()
    described = describe_method(method)
    check_pair(case.pair, initial)
    check_interpolation(interpolation)
    network = None if fuse is None else _fusion_network(case.pair, fuse)
    with record.listening():
        for hint in hints(case.pair):
            log.warning("%s", hint)
        with record.timing("register"), progress.within(0.0, 0.95):
            result = method.register(case.pair, initial)
        progress.report(0.95, "resampling")
        moved = _resampled(case, result, interpolation, record)
        judged = _judged(case, initial, result.transform, moved, intent=intent, record=record)
        fused = None
        if fuse is not None:
            with record.timing("fuse"), progress.within(0.97, 1.0):
                fused = _fused(case.pair, moved["moved"], moved["displacement"], fuse, network)
    return Outcome(
        case=case,
        method=described,
        initial=initial,
        result=result,
        **moved,
        **judged,
        times_s=record.times_s,
        interpolation=interpolation,
        fused=fused,
        preset=preset,
        inputs=inputs or {},
        warnings=tuple(record.warnings),
        log=tuple(record.lines),
    )


def _resampled(
    case: Case, result: RegistrationResult, interpolation: str, record: Record
) -> dict[str, Any]:
    """What an outcome holds of the moving image, and of the transform as samples."""
    transform = result.transform
    moving, onto = case.pair.moving, case.pair.fixed.grid
    with record.timing("resample"):
        displacement = DisplacementField.sampled(transform, onto)
        moved = warp(moving, displacement, onto=onto, interpolation=interpolation)
        jacobian = jacobian_determinant(displacement, onto)
        labels = case.moving_labels
        moved_labels = None if labels is None else warp(labels, displacement, onto=onto)
    with record.timing("invert"):
        grid = _inverse_grid(moving.grid)
        if result.inverse is None:
            inverse = invert(transform, onto=grid)
        else:
            inverse = measured(result.inverse, transform, onto=grid)
    return {
        "moved": moved,
        "displacement": displacement,
        "jacobian": jacobian,
        "inverse": inverse,
        "moved_labels": moved_labels,
    }


def _judged(
    case: Case,
    initial: Transform,
    transform: Transform,
    moved: Mapping[str, Any],
    *,
    intent: Intent,
    record: Record,
) -> dict[str, Any]:
    """What an outcome holds of how good it is, before and after; ``moved``: see ``_resampled``."""
    pair, onto = case.pair, case.pair.fixed.grid
    with record.timing("evaluate"):
        before = evaluate(case, initial)
        after = evaluate(
            case,
            transform,
            inverse=moved["inverse"].transform,
            jacobian=moved["jacobian"],
            moved_labels=moved["moved_labels"],
        )
        fit = similarity(pair, initial), similarity(pair, transform)
        affine = decompose(fitted_affine(moved["displacement"]), onto.center)
    with record.timing("verdict"):
        verdict = judge(
            pair,
            transform,
            similarity=fit,
            folding_percent=after.jacobian.folding_percent,
            affine=affine,
            start=_affine_part(initial, onto),
            intent=intent,
        )
    return {"scores": (before, after), "similarity": fit, "affine": affine, "verdict": verdict}


def _fusion_network(pair: ImagePair, rule: str) -> WeightNetwork | None:
    """The network that a fusion rule needs, if any; refuses before any work what cannot be fused."""
    RULES.find(rule)
    for side, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        if image.channels != 1:
            raise ValueError(
                f"grey images are fused and the {side} image has {image.channels} channels: "
                "register without fusion"
            )
        try:
            to_unit(image)
        except ValueError as error:
            raise ValueError(f"the {side} image cannot be fused: {error}") from error
    return network_of(rule)


def _fused(
    pair: ImagePair,
    moved: Image,
    displacement: DisplacementField,
    rule: str,
    network: WeightNetwork | None,
) -> Fusion | None:
    """Fixed and moved in one, scored; None, with a warning, where so little of both is left."""
    grid = pair.moving.grid
    field = LabelMap(torch.ones(grid.shape, dtype=torch.int32), grid)
    reached = warp(field, displacement, onto=pair.fixed.grid)
    low, high = pair.moving.data.min(), pair.moving.data.max()
    moved = replace(moved, data=moved.data.clamp(low, high))  # cubic interpolation goes beyond
    try:
        return fuse_images(
            pair.fixed, moved, rule=rule, network=network, moved_valid=reached, scored=True
        )
    except ValueError as error:
        # The registration has been done, and is worth keeping whatever can be shown of it.
        log.warning("fixed and moved could not be fused: %s", error)
        return None


def start_of(initial: str | Path | Transform | None, pair: ImagePair) -> Transform:
    """Where a registration starts: as ``register`` takes it, or by the headers where that is None."""
    if initial is None:
        return _start_by_headers(pair)
    if isinstance(initial, str) and initial in INITIALIZATIONS:
        return initialize(pair, initial)
    return as_transform(initial, name="initial")


def _start_by_headers(pair: ImagePair) -> Transform:
    """Two scanners know nothing of each other's coordinates: then the centers are all there is."""
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
    """The mask on the grid of its image: header noise is dropped, other grids are resampled."""
    if mask.grid.matches(image.grid):
        return replace(mask, grid=image.grid)
    what, side = name.replace("_", " "), name.removesuffix("_mask")
    inside = mask.grid.points()[mask.data != 0]
    if mask.grid.dimension != image.grid.dimension or len(inside) == 0:
        return mask  # refused by check_pair
    share = image.grid.contains(inside).double().mean().item()
    if share < _MASK_ON_IMAGE:
        raise ValueError(
            f"the {what} lies in another place than the {side} image: only {share:.0%} of it is "
            "inside the image; draw it on this image, or resample it with the transform between"
        )
    log.warning(
        "the %s lies on another grid than the %s image (size %s, spacing %s mm); it was resampled "
        "onto the image, %.0f %% of it are inside",
        *(what, side, mask.grid.size, mask.grid.spacing, 100 * share),
    )
    return warp(mask, IDENTITY, onto=image.grid)


def _affine_part(transform: Transform, grid: Grid) -> Decomposition:
    """What a transform does as a whole over a grid, from a few samples."""
    coarse = grid.with_spacing([max(e / 16, s) for e, s in zip(grid.extent, grid.spacing)])
    return decompose(fitted_affine(DisplacementField.sampled(transform, coarse)), grid.center)


def _inverse_grid(moving: Grid) -> Grid:
    """At most about half a million samples: a deformation is smoother than the image it moves."""
    volume = 1.0
    for length in moving.extent:
        volume *= length
    step = (volume / 5e5) ** (1 / moving.dimension)
    if step <= min(moving.spacing):
        return moving
    return moving.with_spacing([max(s, step) for s in moving.spacing])


def _describe(source, value, keep_identifiers: bool) -> dict[str, Any]:
    """What the record says of an input: never its path, its name only when asked."""
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
    return about


def _frame_of(frame: int | None) -> dict[str, int]:
    return {} if frame is None else {"frame": frame}
