"""How well `cardiac-2d` follows the heart from diastole to systole, compared with alternatives.

The test persons of sunnybrook_2d: every slice level has one frame at the end of diastole and one at
the end of systole (frames are numbered 20 to a level; the one with more blood is the former). Blood
pool of the left ventricle, Dice and surface distance, before and after. The files have no pixel
spacing: 1 pixel is taken as 1 mm, about 1.3 to 1.4 mm in truth. Folds are counted over the foreground.

`cardiac-2d` in both directions, everyone else onto systole from diastole only, by `hybridreg compare`:
finished registrations, records and the page are in the folder of --out. ANTs runs in the Python that
ANTS_PYTHON names, by default in this one.

Times are of the registration, from arrays in memory to a transform in memory (ANTs: its start and files
included), medians over the pairs onto systole.

    HYBRIDREG_DATA=... python examples/benchmarks/cardiac_2d.py [--patients HF-I-40] [--workers 1]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from comparisons import HEARTS, frame_pairs
from peers import elastix_default
from sections import table, write_section

from hybridreg.cases import ImagePair
from hybridreg.cluster import Limits, Local
from hybridreg.comparison import compare
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers.ants import AntsSyn
from hybridreg.records import Record
from hybridreg.transforms import IDENTITY, DisplacementField, Transform

TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["`cardiac-2d` compared with alternatives", *__doc__.split("\n\n")[1:3]])
OURS = "cardiac-2d"


@dataclass(frozen=True)
class Demons:
    """SimpleITK's diffeomorphic demons at three levels, each from the field of the one before."""

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        fixed, moving = (
            sitk.GetImageFromArray(image.data[0].numpy()) for image in (pair.fixed, pair.moving)
        )
        moving = sitk.HistogramMatching(moving, fixed, 1024, 7)
        method = sitk.DiffeomorphicDemonsRegistrationFilter()
        method.SetNumberOfIterations(100)
        method.SetStandardDeviations(1.5)
        field = None
        for factor in (4, 2, 1):
            small = [_shrunk(image, factor) for image in (fixed, moving)]
            given = [] if field is None else [sitk.Resample(field, small[0])]
            field = method.Execute(*small, *given)
        vectors = torch.from_numpy(sitk.GetArrayFromImage(field)).movedim(-1, 0)
        return RegistrationResult(DisplacementField(vectors, pair.fixed.grid))


def _shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    if factor == 1:
        return image
    return sitk.BinShrink(image, [factor] * image.GetDimension())


def methods_of(folder: Path, threads: int) -> dict[str, Any]:
    """What is compared; ANTs where it is installed."""
    ants = AntsSyn(stages="SyN", affine="", python=os.environ.get("ANTS_PYTHON", ""))
    methods = {
        OURS: OURS,
        "elastix default": elastix_default("bspline", folder, threads),
        "bspline": "bspline",
        "SimpleITK demons": Demons(),
    }
    return methods if ants.missing() else {**methods, "ANTs SyN": ants}


def method_table(records: dict[str, Sequence[Record]]) -> str:
    """One line for each direction and method."""
    rows = []
    for onto, found in records.items():
        for method in dict.fromkeys(record.method for record in found):
            scores = [r.scores for r in found if r.method == method and r.status == "done"]
            overlap = [s["dice"] for s in scores]
            far = [np.nan if s["hd95_mm"] is None else s["hd95_mm"] for s in scores]
            rough, folds = ([s[n] for s in scores] for n in ("log_jacobian_sd", "folding_percent"))
            numbers = (np.mean(overlap), np.median(overlap), min(overlap))
            cells = [f"{n:.4f}" for n in numbers] + [
                f"{np.nanmean(far):.2f}",
                f"{np.mean(rough):.3f}",
            ]
            rows.append([method, onto, len(scores), *cells, f"{np.mean(folds):.4f}"])
    names = ["method", "onto", "pairs", "mean Dice", "median", "least", "mean HD95 mm"]
    return table([*names, "SD log J", "folds %"], rows)


def patient_table(records: Sequence[Record]) -> str:
    """Mean Dice of each person."""
    methods = list(dict.fromkeys(record.method for record in records))
    lines = []
    for patient in dict.fromkeys(record.subject for record in records):
        groups = [
            [r.scores["dice"] for r in records if (r.subject, r.method) == (patient, method)]
            for method in methods
        ]
        lines.append([patient, *(f"{np.mean(group):.4f}" for group in groups)])
    return table(["person", *methods], lines)


def time_table(records: Sequence[Record]) -> str:
    rows = []
    for method in dict.fromkeys(record.method for record in records):
        seconds = [r.register_s for r in records if r.method == method and r.register_s]
        rows.append([method, f"{statistics.median(seconds):.2f}"])
    return table(["method", "s"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", nargs="+", default=list(HEARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=Path("cardiac-2d"))
    options = parser.parse_args()
    how = {
        "report": False,
        "place": Local(options.workers),
        "limits": Limits(threads=options.threads),
        "callback": lambda ended: print(ended.name, ended.reason, flush=True),
    }
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "sunnybrook_2d"
    options.out.mkdir(exist_ok=True)
    methods = methods_of(options.out.absolute(), options.threads)
    systole, diastole = (
        [pair for person in options.patients for pair in frame_pairs(folder, person, onto=onto)]
        for onto in ("systole", "diastole")
    )
    there = compare(systole, methods, options.out / "onto systole", **how)
    back = compare(diastole, {OURS: OURS}, options.out / "onto diastole", **how)
    records = {"systole": there.records, "diastole": back.records}
    write_section(TABLE, "All pairs", method_table(records), head=HEAD)
    write_section(TABLE, "Mean Dice onto systole", patient_table(there.records), head=HEAD)
    write_section(TABLE, "Times", time_table(there.records), head=HEAD)


if __name__ == "__main__":
    main()
