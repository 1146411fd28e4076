"""What a worker computes: one case with one method, and its repetitions from other starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hybridreg import pipeline
from hybridreg.case_files import BESIDE, MASKS, POINTS, read_case, start_of
from hybridreg.comparison.contenders import Contender
from hybridreg.comparison.entries import folder_of
from hybridreg.comparison.starts import perturbation
from hybridreg.config import load_method, with_settings
from hybridreg.evaluation import evaluated_region, non_diffeomorphic_percent
from hybridreg.evaluation.distances import transform_error
from hybridreg.io.output import TRANSFORM
from hybridreg.io.tables import CaseRow
from hybridreg.io.transforms import read_transform
from hybridreg.outcome import Outcome
from hybridreg.transforms import affine_of, compose

_COMPARED_POINTS = 5_000  # about, at which two results are compared


@dataclass(frozen=True)
class Job:
    """One case with one method. inputs: hashes that its result.json would not hold otherwise.

    start: the number of a perturbed start; None for the registration itself.
    """

    row: CaseRow
    contender: Contender
    inputs: Mapping[str, str]
    start: int | None = None


@dataclass(frozen=True)
class Conditions:
    """What all registrations have in common; ``report``: write the page of every case."""

    seed: int | None = None
    device: str = "cpu"
    initial: str | Path | None = None
    report: bool = True


def input_files(row: CaseRow, initial: str | Path | None = None) -> dict[str, Path]:
    """The input files of a case by their roles in its result."""
    files = {key: getattr(row, key) for key in ("fixed", "moving", *BESIDE)}
    files["initial"] = row.initial or initial
    return {key: file for key, file in files.items() if isinstance(file, Path)}


def compute(root: Path, conditions: Conditions, key: str, job: Job) -> dict[str, Any]:
    """A registration into its output folder, or from a perturbed start: what ``Ended`` returns."""
    if job.start is not None:
        return _from_start(root, conditions, job)
    row, contender = job.row, job.contender
    outcome = pipeline.register(
        row.fixed,
        row.moving,
        contender.source_for(row),
        initial=row.initial or conditions.initial,
        seed=conditions.seed,
        device=conditions.device,
        **{key: getattr(row, key) for key in BESIDE},
    )
    named = replace(outcome, case=replace(outcome.case, name=f"{row.name}, {contender.name}"))
    about = {"config": contender.config, "inputs": job.inputs}
    about["after"] = {"ndv_percent": _folded_volume(outcome)}
    folder = folder_of(root, row.name, contender.name)
    named.save(
        folder,
        overwrite=True,
        report=conditions.report,
        pictures=conditions.report,
        images=False,
        about={"preset": contender.name, "comparison": about},
    )
    return {"verdict": outcome.verdict.status}


def _folded_volume(outcome: Outcome) -> float | None:
    pair = outcome.case.pair
    affine = affine_of(outcome.transform, pair.dimension)
    if affine is not None:  # everywhere or nowhere
        return 100.0 * bool(torch.linalg.det(affine.linear) <= 0)
    _, inside = evaluated_region(pair.fixed, pair.fixed_mask)
    return non_diffeomorphic_percent(outcome.displacement, mask=inside)


def _from_start(root: Path, conditions: Conditions, job: Job) -> dict[str, Any]:
    """How far a start and the result from it are from the result without perturbation, in mm."""
    row, contender = job.row, job.contender
    inputs = {key: getattr(row, key) for key in (*MASKS, *POINTS)}
    case = read_case(row.fixed, row.moving, **inputs)
    initial = start_of(row.initial or conditions.initial, case.pair)
    source = contender.source_for(row)
    described = isinstance(source, (str, Path, Mapping))
    method = load_method(source) if described else source
    method = with_settings(method, seed=conditions.seed, device=conditions.device)
    reached = read_transform(folder_of(root, row.name, contender.name) / TRANSFORM)
    center = case.pair.fixed.grid.center
    start = compose(initial, perturbation(job.start, center, seed=conditions.seed or 0))
    found = method.register(case.pair, start).transform
    _, inside = evaluated_region(case.pair.fixed, case.pair.fixed_mask)
    points = inside.grid.points()[inside.data != 0]
    points = points[:: max(1, len(points) // _COMPARED_POINTS)]
    away = [transform_error(one, other, points).mean().item()
            for one, other in ((start, initial), (found, reached))]  # fmt: skip
    return {"start_mm": away[0], "end_mm": away[1]}
