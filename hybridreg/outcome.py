"""Outcome: all results of one case, and writing them to its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridreg.case_log import CaseLog
from hybridreg.cases import Case
from hybridreg.decomposition import Decomposition
from hybridreg.evaluation import Scores
from hybridreg.fusion_files import Fusion
from hybridreg.geodesics import GeodesicTransform, momenta
from hybridreg.geometry import Grid, apply_matrix
from hybridreg.images import Image, LabelMap
from hybridreg.io import output
from hybridreg.io.checkpoints import provenance, weights_in
from hybridreg.io.images import write_image
from hybridreg.io.transforms import write_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.quality import Verdict
from hybridreg.report import write_report
from hybridreg.transforms import (
    AffineTransform,
    BSplineTransform,
    DisplacementField,
    Transform,
    parts_of,
)
from hybridreg.views import make_views, save_views
from hybridreg.warping import Inverse

_LIBRARIES = ("hybridreg", "itk-elastix", "itk-core", "SimpleITK", "torch", "numpy", "scipy")

_POINTS = 1e6  # at which the displacements of an affine are computed, at most about

_KINDS = {
    AffineTransform: "affine",
    BSplineTransform: "B-spline",
    DisplacementField: "displacement field",
    GeodesicTransform: "geodesic",
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """All results of one case; ``save`` writes them.

    moved, displacement, jacobian, affine, inverse, moved_labels, similarity, scores, verdict, pose:
    see ``assessment.Assessment``. interpolation: how the moving image was resampled.
    fused: fixed and moved in one image, if requested.
    preset: the name of the method's preset, if it is one.
    """

    case: Case
    method: Mapping[str, Any]
    initial: Transform
    result: RegistrationResult
    moved: Image
    displacement: DisplacementField | None
    jacobian: Image | None
    affine: Decomposition
    inverse: Inverse | None
    moved_labels: LabelMap | None
    similarity: tuple[Any, Any]
    verdict: Verdict | None
    scores: tuple[Scores, Scores]
    times_s: Mapping[str, float]
    pose: tuple[Mapping[str, float], Mapping[str, float]] | None = None
    interpolation: str = "linear"
    fused: Fusion | None = None
    preset: str | None = None
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()

    @property
    def transform(self) -> Transform:
        """The total transform, fixed LPS mm -> moving LPS mm."""
        return self.result.transform

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        report: bool = True,
        pictures: bool = True,
        images: bool = True,
        command: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Path:
        """Writes the output folder, completely or not at all, and returns its path.

        pictures: write the data of the report's pictures; without them its page has none.
        images: write the images; without them there are the transforms alone.
        command: the command line, for the record; it may contain patient file names.
        about: further entries of result.json.
        """
        record = CaseLog()
        with output.output_folder(folder, overwrite=overwrite) as partial:
            with record.timing("write"):
                self._write_transforms(partial)
                if images:
                    self._write_images(partial)
            if pictures:
                with record.timing("views"):
                    save_views(partial / output.VIEWS, self.views())
            with record.timing("summary"):
                summary = {**self.summary(command), **(about or {})}
            summary["times_s"] |= record.times_s
            output.write_json(partial / output.RESULT, summary)
            (partial / output.LOG).write_text(
                "\n".join([*self.log, ""]), encoding="utf-8", errors="backslashreplace"
            )
            if report:
                with record.timing("report"):
                    write_report(partial)
                summary["times_s"] |= record.times_s  # its own time is not in the report itself
                output.write_json(partial / output.RESULT, summary)
        return Path(folder)

    def _write_transforms(self, folder: Path):
        write_transform(folder / output.TRANSFORM, self._with_dimension(self.transform))
        if self.inverse is not None:
            write_transform(folder / output.INVERSE, self._with_dimension(self.inverse.transform))

    def _write_images(self, folder: Path):
        write_image(folder / output.MOVED, self.moved)
        if self.jacobian is not None:
            write_image(folder / output.JACOBIAN, self.jacobian)
        for geodesic in momenta(self.transform)[:1]:
            write_image(folder / output.MOMENTUM, Image(geodesic.momentum, geodesic.grid))
        if self.result.uncertainty is not None:
            write_image(folder / output.UNCERTAINTY, self.result.uncertainty)
        if self.moved_labels is not None:
            write_image(folder / output.MOVED_LABELS, self.moved_labels)
        if self.fused is not None:
            write_image(folder / output.FUSED, self.fused.image)

    def _with_dimension(self, transform: Transform) -> Transform:
        """Replaces an empty composition (the identity), which has no dimension, by an affine."""
        identity = AffineTransform(torch.eye(self.case.pair.dimension + 1))
        return transform if parts_of(transform) else identity

    def views(self) -> dict[str, Any]:
        """The reduced images of the report."""
        return make_views(
            self.case.pair,
            self.transform,
            initial=self.initial,
            moved=self.moved,
            field=self.displacement,
            jacobian=None if self.displacement is None else self.jacobian,
            fixed_labels=self.case.fixed_labels,
            moved_labels=self.moved_labels,
            units=self.fused.shown() if self.fused else {},
            **({} if self.result.uncertainty is None else {"uncertainty": self.result.uncertainty}),
            **({"matches": self.result.matches} if self.result.matches else {}),
        )

    def _motion(self) -> dict[str, Any]:
        """Statistics of the transform: its nearest affine about the fixed center, displacements."""
        parts = parts_of(self.transform)
        uncertainty = self.result.uncertainty
        found = {
            "kinds": [_KINDS.get(type(part), type(part).__name__) for part in reversed(parts)],
            **asdict(self.affine),
            "kernels": [asdict(geodesic.kernel) for geodesic in momenta(self.transform)],
            "uncertainty_mm": None if uncertainty is None else _statistics(uncertainty.data),
        }
        if self.displacement is None and self.jacobian is None:
            return found
        if self.displacement is None:
            points = _some_points(self.jacobian.grid)
            length = (self.transform(points) - points).norm(dim=-1)
            return {**found, "displacement_mm": _statistics(length)}
        first, *others = self.displacement.vectors
        length = first.square()  # in place: norm(dim=0) takes ten times as long
        for component in others:
            length.addcmul_(component, component)
        return {**found, "displacement_mm": _statistics(length.sqrt_())}

    def summary(self, command: str | None = None) -> dict[str, Any]:
        """Everything that is not an image, as in result.json."""
        before, after = self.scores
        return {
            "schema": 1,
            "case": self.case.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command,
            "versions": {name: version(name) for name in _LIBRARIES},
            "preset": self.preset,
            "method": dict(self.method),
            "weights": {Path(name).stem: provenance(name) for name in weights_in(self.method)},
            "inputs": dict(self.inputs),
            "interpolation": self.interpolation,
            "transform": self._motion(),
            "inverse": self.inverse
            and {
                "mean_residual_mm": self.inverse.mean_residual_mm,
                "max_residual_mm": self.inverse.max_residual_mm,
            },
            "similarity": {
                "before": asdict(self.similarity[0]),
                "after": asdict(self.similarity[1]),
            },
            "pose": self.pose and {"before": dict(self.pose[0]), "after": dict(self.pose[1])},
            "scores": {"before": before.to_dict(), "after": after.to_dict()},
            "verdict": self.verdict and asdict(self.verdict),
            "fusion": self.fused and self.fused.summary(),
            "warnings": list(self.warnings),
            "times_s": dict(self.times_s),
            "trace": [list(entry) for entry in self.result.trace],
        }


def _some_points(grid: Grid) -> Tensor:
    """All voxels, of more than a million a lattice with the corners, where an affine moves most."""
    step = math.ceil((math.prod(grid.shape) / _POINTS) ** (1 / grid.dimension))
    axes = [torch.cat([torch.arange(0, n - 1, step), torch.tensor([n - 1])]) for n in grid.size]
    return apply_matrix(grid.voxel_to_physical(), torch.cartesian_prod(*axes).double())


def _statistics(values: Tensor) -> dict[str, float]:
    flat = values.flatten().numpy()
    near = max(1, round(0.95 * flat.size)) - 1
    return {
        "mean": flat.mean(dtype=np.float64).item(),
        "p95": np.partition(flat, near)[near].item(),  # torch's kthvalue keeps all indices too
        "max": flat.max().item(),
    }
