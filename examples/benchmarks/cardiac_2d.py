"""How well `cardiac-2d` follows the heart from diastole to systole, compared with alternatives.

The test persons of sunnybrook_2d: every slice level has one frame at the end of diastole and one at
the end of systole (frames are numbered 20 to a level; the one with more blood is the former). Blood
pool of the left ventricle, Dice and surface distance, before and after. The files have no pixel
spacing: 1 pixel is taken as 1 mm, about 1.3 to 1.4 mm in truth. Folds are counted over the
foreground.

`cardiac-2d` in both directions, everyone else onto systole from diastole only. ANTs runs in the
Python that ANTS_PYTHON names, by default in this one.

Registrations run by `hybridreg.compare` and are kept in the folder of --out with their pages;
tables are made of its records. Times are medians of the registration alone over the pairs onto
systole, of the machine as loaded as it was.

    HYBRIDREG_DATA=... python examples/benchmarks/cardiac_2d.py [--patients HF-I-40] [--cases 8]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from comparisons import HEARTS, frame_pairs, spaced
from peers import elastix_default
from sections import table, write_section

from hybridreg.cases import ImagePair
from hybridreg.cluster import Limits, Local
from hybridreg.comparison import compare
from hybridreg.io.tables import CaseRow
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
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


def cases_of(folder: Path, patients: list[str], onto: str) -> Iterator[CaseRow]:
    for patient in patients:
        for case in frame_pairs(folder, patient, onto=onto):
            yield replace(case, name=f"{case.name} onto {onto}", more={"onto": onto})


def methods_of(folder: Path) -> dict[str, str | RegistrationMethod]:
    """What is compared; ANTs, with its own affine stage, where it is installed."""
    methods = {OURS: OURS, "elastix default": elastix_default("bspline", folder, 1)}
    methods |= {"bspline": "bspline", "SimpleITK demons": Demons()}
    ants = AntsSyn(stages="SyN", affine="", python=os.environ.get("ANTS_PYTHON", ""))
    return methods if ants.missing() else {**methods, "ANTs SyN": ants}


def method_table(records: list[Record]) -> str:
    rows = []
    for key in dict.fromkeys((record.more["onto"], record.method) for record in records):
        scores = [r.scores for r in records if (r.more["onto"], r.method) == key]
        overlap = [s["dice"] for s in scores]
        far = [np.nan if s["hd95_mm"] is None else s["hd95_mm"] for s in scores]
        rough, folds = (
            [s[name] for s in scores] for name in ("log_jacobian_sd", "folding_percent")
        )
        numbers = (np.mean(overlap), np.median(overlap), min(overlap))
        cells = [*(f"{n:.4f}" for n in numbers), f"{np.nanmean(far):.2f}", f"{np.mean(rough):.3f}"]
        rows.append([key[1], key[0], len(scores), *cells, f"{np.mean(folds):.4f}"])
    names = ["method", "onto", "pairs", "mean Dice", "median", "least", "mean HD95 mm"]
    return table([*names, "SD log J", "folds %"], rows)


def patient_table(records: list[Record]) -> str:
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


def times(records: list[Record]) -> str:
    seconds: dict[str, list[float]] = {}
    for record in records:
        seconds.setdefault(record.method, []).append(record.register_s)
    return table(["method", "s"], [(name, f"{np.median(s):.2f}") for name, s in seconds.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", nargs="+", default=HEARTS)
    parser.add_argument("--cases", type=int, help="only so many, evenly spaced")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=Path("comparisons/cardiac_2d"))
    parser.add_argument("--table", type=Path, default=TABLE, help="file of the tables")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "sunnybrook_2d"
    methods = methods_of(options.out.parent)
    found: dict[str, list[Record]] = {}
    for onto, compared in (("systole", methods), ("diastole", {OURS: OURS})):
        cases = spaced([*cases_of(folder, options.patients, onto)], options.cases)
        how = {"place": Local(options.workers), "limits": Limits(threads=1)}
        done = compare(cases, compared, options.out, seed=0, **how)
        found[onto] = [r for r in done.records if r.status == "done" and r.method != "rigid"]
    everything = [record for records in found.values() for record in records]
    write_section(options.table, "All pairs", method_table(everything), head=HEAD)
    write_section(
        options.table, "Mean Dice onto systole", patient_table(found["systole"]), head=HEAD
    )
    write_section(options.table, "Times", times(found["systole"]), head=HEAD)


if __name__ == "__main__":
    main()
