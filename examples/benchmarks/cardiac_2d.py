"""How well `cardiac-2d` follows the heart from diastole to systole, compared with alternatives.

The test persons of sunnybrook_2d: every slice level has one frame at the end of diastole and one at
the end of systole (frames are numbered 20 to a level; the one with more blood is the former). Blood
pool of the left ventricle, Dice and surface distance, before and after. The files have no pixel
spacing: 1 pixel is taken as 1 mm, about 1.3 to 1.4 mm in truth. Folds are counted over the foreground.

`cardiac-2d` in both directions, everyone else onto systole from diastole only. ANTs runs in the
Python that ANTS_PYTHON names, by default in this one.

Each registration leaves a record (`hybridreg.records`), all of them together records.csv and
records.json in the folder of --records; tables are made of these. Times are of the registration, from
arrays in memory to a transform in memory (ANTs: from files it has read), medians over the pairs onto
systole; `--times` measures these alone, of the first person.

    HYBRIDREG_DATA=... python examples/benchmarks/cardiac_2d.py [--patients HF-I-40] [--times]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from peers import AntsProcess, elastix_default
from sections import table, write_section

from hybridreg.cases import Case, ImagePair
from hybridreg.config import load_method, with_settings
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.transforms import read_transform
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.pipeline import run
from hybridreg.records import Record, write_records
from hybridreg.transforms import IDENTITY, DisplacementField, Transform, compose

TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["`cardiac-2d` compared with alternatives", *__doc__.split("\n\n")[1:3]])
FRAMES_A_LEVEL = 20
TEST = ["HF-I-40", "HF-NI-04", "HF-NI-31", "HF-NI-36", "HYP-01", "HYP-38", "N-02", "N-40"]

ANTS = """
done = ants.registration(
    fixed, moving, type_of_transform="SyN", random_seed=1, outprefix=f"{f}/out_"
)
print(json.dumps([time.perf_counter() - start, done["fwdtransforms"]]), flush=True)
"""


@dataclass(frozen=True)
class Frame:
    """One picture of the heart and the blood pool of its left ventricle."""

    image: Image
    pool: LabelMap


def read_cases(folder: Path, patient: str) -> Iterator[Case]:
    """Both directions of every slice level that has diastole and systole."""
    levels: dict[int, list[Frame]] = {}
    for path in sorted((folder / "images").glob(f"SC-{patient}-IM-*.png")):
        number = int(re.search(r"-(\d+)\.dcm\.png$", path.name)[1])
        frame = Frame(read_image(path), read_labels(folder / "labels" / path.name))
        levels.setdefault((number - 1) // FRAMES_A_LEVEL, []).append(frame)
    for level, frames in levels.items():
        if len(frames) == 2:
            systole, diastole = sorted(frames, key=lambda frame: int((frame.pool.data != 0).sum()))
            for onto, fixed, moving in (
                ("systole", systole, diastole),
                ("diastole", diastole, systole),
            ):
                pair = ImagePair(fixed.image, moving.image)
                name = f"{patient} {level} onto {onto}"
                yield Case(pair, name, patient, fixed_labels=fixed.pool, moving_labels=moving.pool)


@dataclass(frozen=True)
class Nothing:
    """Leaves the images where they are."""

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        return RegistrationResult(initial)


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


class Ants(AntsProcess):
    """ANTs' SyN with its own settings, affine stage included. seconds: of the last registration."""

    seconds = 0.0

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        for side in ("fixed", "moving"):
            write_image(self.folder / f"{side}.nii.gz", getattr(pair, side))
        self.seconds, (field, affine) = self.ask()
        return RegistrationResult(compose(read_transform(affine), read_transform(field)))


def records_of(
    methods: Mapping[str, RegistrationMethod], folder: Path, patients: list[str]
) -> Iterator[Record]:
    """Every case before and by every method; both directions by the first method only."""
    first = next(iter(methods))
    for patient in patients:
        for case in read_cases(folder, patient):
            onto = case.name.rpartition(" ")[2]
            for name, method in {"before": Nothing(), **methods}.items():
                if onto == "systole" or name in ("before", first):
                    outcome = run(case, method, preset=name, without=("inverse", "verdict"))
                    known = {"subject": patient, "more": {"onto": onto}}
                    record = Record.of(outcome.summary(), case.name, **known)
                    print(record.row(), flush=True)
                    yield record


def times(methods: Mapping[str, RegistrationMethod], cases: list[Case]) -> str:
    """Seconds of each method onto systole, median over the pairs; the first one warms up."""
    rows = []
    for name, method in methods.items():
        seconds = []
        for case in cases:
            start = time.perf_counter()
            method.register(case.pair)
            seconds.append(getattr(method, "seconds", 0) or time.perf_counter() - start)
        rows.append([name, f"{statistics.median(seconds[1:]):.2f}"])
    return table(["method", "s"], rows)


def method_table(records: list[Record]) -> str:
    rows = []
    for key in dict.fromkeys((record.method, record.more["onto"]) for record in records):
        scores = [r.scores for r in records if (r.method, r.more["onto"]) == key]
        overlap = [s["dice"] for s in scores]
        far = [np.nan if s["hd95_mm"] is None else s["hd95_mm"] for s in scores]
        rough, folds = ([s[name] for s in scores] for name in ("log_jacobian_sd", "folding_percent"))
        numbers = (np.mean(overlap), np.median(overlap), min(overlap))
        cells = [*(f"{n:.4f}" for n in numbers), f"{np.nanmean(far):.2f}", f"{np.mean(rough):.3f}"]
        rows.append([*key, len(scores), *cells, f"{np.mean(folds):.4f}"])
    names = ["method", "onto", "pairs", "mean Dice", "median", "least", "mean HD95 mm"]
    return table([*names, "SD log J", "folds %"], rows)


def patient_table(records: list[Record]) -> str:
    """Mean Dice of each person onto systole."""
    records = [record for record in records if record.more["onto"] == "systole"]
    methods = list(dict.fromkeys(record.method for record in records))
    lines = []
    for patient in dict.fromkeys(record.subject for record in records):
        groups = [
            [r.scores["dice"] for r in records if (r.subject, r.method) == (patient, method)]
            for method in methods
        ]
        lines.append([patient, *(f"{np.mean(group):.4f}" for group in groups)])
    return table(["person", *methods], lines)


def methods_of(threads: int, folder: Path) -> dict[str, RegistrationMethod]:
    """What is compared; ANTs where it is installed."""
    preset, general = (
        with_settings(load_method(name), threads=threads) for name in ("cardiac-2d", "bspline")
    )
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    default = elastix_default("bspline", folder, threads)
    methods = {"cardiac-2d": preset, "elastix default": default, "bspline": general}
    methods["SimpleITK demons"] = Demons()
    ants = Ants(ANTS, folder, threads)
    return {**methods, "ANTs SyN": ants} if ants.version else methods


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", nargs="+", default=TEST)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", action="store_true", help="measure times, not accuracy")
    parser.add_argument("--records", type=Path, default=Path("cardiac-2d-records"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "sunnybrook_2d"
    with tempfile.TemporaryDirectory() as name:
        methods = methods_of(options.threads, Path(name))
        if options.times:
            cases = list(read_cases(folder, options.patients[0]))[::2]
            write_section(TABLE, "Times", times(methods, cases), head=HEAD)
            return
        records = list(records_of(methods, folder, options.patients))
    options.records.mkdir(exist_ok=True)
    write_records(options.records, records)
    write_section(TABLE, "All pairs", method_table(records), head=HEAD)
    write_section(TABLE, "Mean Dice onto systole", patient_table(records), head=HEAD)


if __name__ == "__main__":
    main()
