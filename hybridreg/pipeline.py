"""Registers and evaluates one case: called by the command line, batches and notebooks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hybridreg import progress
from hybridreg.assessment import OPTIONAL, assess
from hybridreg.case_files import describe_input, read_case, read_projections, start_of
from hybridreg.case_log import CaseLog
from hybridreg.cases import Case, ImagePair
from hybridreg.checks import check_pair, hints
from hybridreg.config import describe_method, load_intent, load_method, preset_of, with_settings
from hybridreg.fusion import RULES, WeightNetwork
from hybridreg.fusion_files import Fusion, fuse_images, network_of
from hybridreg.images import Image, LabelMap
from hybridreg.intensity import to_unit
from hybridreg.methods.base import RegistrationMethod, accepted, check_accepts
from hybridreg.outcome import Outcome
from hybridreg.projection_pair import ProjectionPair
from hybridreg.quality import Intent
from hybridreg.registry import load_pair_type
from hybridreg.transforms import IDENTITY, Transform
from hybridreg.warping import check_interpolation, warp

log = logging.getLogger(__name__)


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
    """Registers the moving image to the fixed one and evaluates the result.

    method: name of a preset or method, a TOML file, a table, or a method object.
    initial: the initial transform (or its file) fixed -> moving, "centers" or "mass". None
        starts from the positions in the headers, or from aligned centers if those are far apart.
    threads, seed, device: set on the method wherever it has such a field.
    keep_identifiers: name the input files in the result; otherwise only their hashes are stored.
    fuse: a fusion rule (a name in ``fusion.RULES``), to also fuse fixed and moved into one image.
    interpolation: of the moved image, see ``warping.warp``; "cubic" keeps thick slices sharper.
    fixed_frame, moving_frame: which image of a file with several (a time series),
        counted from 0.
    more: further inputs, each a file or a value: fixed_mask, moving_mask (the compared region;
        "auto" for the patient without the surrounding air, see ``preprocessing.foreground``),
        fixed_points, moving_points (corresponding points that guide the registration),
        fixed_labels, moving_labels, fixed_landmarks, moving_landmarks, truth (the true transform;
        for evaluation only).

    Values are those of hybridreg, images and transforms of SimpleITK, or images of nibabel; points
    may be arrays or lists in LPS mm. A bare array is not accepted as an image: give it a ``Grid``.

    A method of radiographs, such as "projection", takes a radiograph as the fixed image and a CT as
    the moving one; ``geometry`` names its file of detector and source, ``second`` another
    radiograph. Its transform is the pose, C-arm mm to CT mm.

    >>> outcome = register("fixed.nii.gz", "moving.nii.gz", "bspline")  # doctest: +SKIP
    >>> outcome.save("out")  # doctest: +SKIP

    ValueError or FileNotFoundError for bad input, before any long work; RegistrationError where the
    method fails.
    """
    intent, preset = Intent(), preset_of(method)
    if isinstance(method, (str, Path, Mapping)):
        method, intent = load_method(method), load_intent(method)
    method = with_settings(method, threads=threads, seed=seed, device=device)
    sources = {"fixed": fixed, "moving": moving, "initial": initial, **more}
    files = {k: Path(v) for k, v in sources.items() if isinstance(v, (str, Path))}
    roles = {str(path): role for role, path in files.items() if path.exists()}
    record = CaseLog({} if keep_identifiers else roles)
    with record.listening(), record.timing("read"):
        frames = {"fixed_frame": fixed_frame, "moving_frame": moving_frame}
        read = read_projections if accepted(method) is ProjectionPair else read_case
        case = read(fixed, moving, **frames, **more)
        start = start_of(initial, case.pair)
        inputs = {
            name: describe_input(
                source,
                getattr(case.pair, name, None),
                keep_identifiers=keep_identifiers,
                frame=frames.get(f"{name}_frame"),
            )
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


def run(
    case: Case,
    method: RegistrationMethod,
    *,
    initial: Transform = IDENTITY,
    intent: Intent = Intent(),
    preset: str | None = None,
    inputs: Mapping[str, Mapping[str, Any]] | None = None,
    record: CaseLog | None = None,
    fuse: str | None = None,
    interpolation: str = "linear",
    without: Collection[str] = (),
) -> Outcome:
    """Registers and evaluates one case.

    intent: the intended use of the method, for the verdict. preset: the name of the method, for the
    record. fuse: a fusion rule. interpolation: of the moved image.
    without: parts of ``assessment.OPTIONAL`` that are left out, to save time.
    """
    record = record or CaseLog()
    described = describe_method(method)
    if unknown := set(without) - set(OPTIONAL):
        raise ValueError(f"{sorted(unknown)} cannot be left out; {', '.join(OPTIONAL)} can")
    check_accepts(method, case.pair)
    check_interpolation(interpolation)
    if fuse is not None and not isinstance(case.pair, ImagePair):
        raise ValueError("radiographs and a CT cannot be fused: register without fusion")
    with record.timing("check"):
        load_pair_type(type(case.pair))
        check_pair(case.pair, initial)
        network = None if fuse is None else _fusion_network(case.pair, fuse)
    with record.listening():
        for hint in hints(case.pair):
            log.warning("%s", hint)
        with record.timing("register"), progress.within(0.0, 0.95):
            result = method.register(case.pair, initial)
        progress.report(0.95, "resampling")
        how = {"initial": initial, "intent": intent, "interpolation": interpolation}
        assessed = assess(case.pair, case, result, log=record, without=without, **how)
        fused = None
        if fuse is not None:
            with record.timing("fuse"), progress.within(0.97, 1.0):
                through = assessed.displacement or result.transform
                fused = _fused(case.pair, assessed.moved, through, fuse, network)
    return Outcome(
        case=case,
        method=described,
        initial=initial,
        result=result,
        **vars(assessed),
        times_s=record.times_s,
        interpolation=interpolation,
        fused=fused,
        preset=preset,
        inputs=inputs or {},
        warnings=tuple(record.warnings),
        log=tuple(record.lines),
    )


def _fusion_network(pair: ImagePair, rule: str) -> WeightNetwork | None:
    """The network of a fusion rule, if any; ValueError before any work if fusion is impossible."""
    RULES.find(rule)
    for side, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        if image.channels != 1:
            raise ValueError(
                f"gray images are fused and the {side} image has {image.channels} channels: "
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
    transform: Transform,
    rule: str,
    network: WeightNetwork | None,
) -> Fusion | None:
    """Fixed and moved fused and scored; None, with a warning, if they hardly overlap."""
    grid = pair.moving.grid
    field = LabelMap(torch.ones(grid.shape, dtype=torch.int32), grid)
    reached = warp(field, transform, onto=pair.fixed.grid)
    low, high = pair.moving.data.min(), pair.moving.data.max()
    moved = replace(moved, data=moved.data.clamp(low, high))  # cubic interpolation overshoots
    try:
        return fuse_images(
            pair.fixed, moved, rule=rule, network=network, moved_valid=reached, scored=True
        )
    except ValueError as error:
        # The registration is kept even if it cannot be fused.
        log.warning("fixed and moved could not be fused: %s", error)
        return None
