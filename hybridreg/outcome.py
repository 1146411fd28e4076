"""Outcome: all results of one case, and writing them to its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hybridreg.case_log import CaseLog
from hybridreg.cases import Case
from hybridreg.decomposition import Decomposition
from hybridreg.evaluation import Scores
from hybridreg.fusion_files import Fusion
from hybridreg.geodesics import GeodesicTransform, momenta
from hybridreg.images import Image, LabelMap
from hybridreg.io import output
from hybridreg.io.images import write_image
from hybridreg.io.transforms import write_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.quality import Similarity, Verdict
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

_KINDS = {
    AffineTransform: "affine",
    BSplineTransform: "B-spline",
    DisplacementField: "displacement field",
    GeodesicTransform: "geodesic",
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """All results of one case; ``save`` writes them.

    moved, displacement, jacobian, affine, inverse, moved_labels, similarity, scores, verdict: see
    ``assessment.Assessment``. interpolation: how the moving image was resampled.
    fused: fixed and moved in one image, if requested.
    preset: the name of the method's preset, if it is one.
    """

    case: Case
    method: Mapping[str, Any]
    initial: Transform
    result: RegistrationResult
    moved: Image
    displacement: DisplacementField
    jacobian: Image
    affine: Decomposition
    inverse: Inverse | None
    moved_labels: LabelMap | None
    similarity: tuple[Similarity, Similarity]
    verdict: Verdict | None
    scores: tuple[Scores, Scores]
    times_s: Mapping[str, float]
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
            summary = replace(self, times_s={**self.times_s, **record.times_s}).summary(command)
            output.write_json(partial / output.RESULT, {**summary, **(about or {})})
            (partial / output.LOG).write_text(
                "\n".join([*self.log, ""]), encoding="utf-8", errors="backslashreplace"
            )
            if report:
                write_report(partial)
        return Path(folder)

    def _write_transforms(self, folder: Path):
        write_transform(folder / output.TRANSFORM, self._with_dimension(self.transform))
        if self.inverse is not None:
            write_transform(folder / output.INVERSE, self._with_dimension(self.inverse.transform))

    def _write_images(self, folder: Path):
        write_image(folder / output.MOVED, self.moved)
        write_image(folder / output.JACOBIAN, self.jacobian)
        for geodesic in momenta(self.transform)[:1]:
            write_image(folder / output.MOMENTUM, Image(geodesic.momentum, geodesic.grid))
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
            jacobian=self.jacobian,
            fixed_labels=self.case.fixed_labels,
            moved_labels=self.moved_labels,
            units=self.fused.shown() if self.fused else {},
        )

    def _motion(self) -> dict[str, Any]:
        """Statistics of the transform: its nearest affine about the fixed center, displacements."""
        parts = parts_of(self.transform)
        length = self.displacement.vectors.norm(dim=0).flatten()
        return {
            "kinds": [_KINDS.get(type(part), type(part).__name__) for part in reversed(parts)],
            **asdict(self.affine),
            "kernels": [asdict(geodesic.kernel) for geodesic in momenta(self.transform)],
            "displacement_mm": {
                "mean": length.mean().item(),
                "p95": length.kthvalue(max(1, round(0.95 * len(length)))).values.item(),
                "max": length.max().item(),
            },
        }

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
            "scores": {"before": before.to_dict(), "after": after.to_dict()},
            "verdict": self.verdict and asdict(self.verdict),
            "fusion": self.fused and self.fused.summary(),
            "warnings": list(self.warnings),
            "times_s": dict(self.times_s),
            "trace": [list(entry) for entry in self.result.trace],
        }
