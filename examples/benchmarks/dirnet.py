"""How well trained networks (DIRNet, DLIR) register, and how fast, compared with methods that optimize.

`cardiac`: the test persons of sunnybrook_2d as in `cardiac_2d.py`, diastole onto systole, one pair
per slice level, by `hybridreg.compare`, which keeps finished registrations in the folder of
--records. The interval of a difference of Dice is that of 10,000 bootstrap samples of persons, of
the mean over all their pairs.
`brain`: the 12 pairs of test persons of oasis_malf35 (`brain_mr.py`), 1 mm, mean Dice of all labels
of the fixed image, resampled once.
`mnist`: as de Vos 2017, pairs of one digit each, of the 10,000 test digits of MNIST: the first 8000
for training, the next 1000 for validation, the last 1000 for the test; the overlap of what is
brighter than half, before and after; and a figure.
`times`: of the registration, from arrays in memory to a transform in memory, warm, medians over one
person's pairs.

    HYBRIDREG_DATA=... python examples/benchmarks/dirnet.py cardiac|brain|mnist|times [--persons N-02]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from brain_mr import TEST as BRAIN_PAIRS
from cardiac_2d import cases_of, method_table, patient_table
from comparisons import HEARTS
from peers import elastix_default
from sections import table, write_section

from hybridreg.case_files import read_case
from hybridreg.cases import Case, ImagePair
from hybridreg.cluster import Limits
from hybridreg.comparison import compare
from hybridreg.config import load_method, load_training, with_settings
from hybridreg.evaluation import dice
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.tables import CaseRow
from hybridreg.methods.base import RegistrationMethod
from hybridreg.records import Record
from hybridreg.transforms import IDENTITY, DisplacementField, Transform
from hybridreg.warping import jacobian_determinant, warp

TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(
    ["Trained networks compared with methods that optimize", *__doc__.split("\n\n")[1:2]]
)
CARDIAC = ("dirnet-cardiac-2d", "cardiac-2d", "deformable-2d")
BRAIN = ("dirnet-brain", "bspline")
DIGITS = {"train": (0, 8000), "validation": (8000, 9000), "test": (9000, 10_000)}
PAIRS = {"train": 2000, "validation": 100, "test": 200}
"""Pairs per part of MNIST, the same number of each digit."""
MNIST = """
cases = "train.csv"
validation = "validation.csv"
size = [32, 32]
spacing_mm = 1.0
intensity = "8bit"
batch_size = 32
data = "MNIST, the 10,000 test digits: 0 to 7999, validation 8000 to 8999"
data_licence = "CC BY-SA 3.0"
stage = { spacing = 8, width = 16, layers = 5 }
"""


def cardiac(cases: list[CaseRow], names: Sequence[str], out: Path, threads: int):
    done = compare(cases, list(names), out, seed=0, report=False, limits=Limits(threads=threads))
    found = [r for r in done.records if r.status == "done" and r.method != "rigid"]
    write_section(TABLE, "Heart, all pairs", method_table(found), head=HEAD)
    write_section(TABLE, "Heart, mean Dice", patient_table(found), head=HEAD)
    write_section(TABLE, "Heart, differences", difference_table(found), head=HEAD)


def read_cases(folder: Path, person: str) -> Iterator[Case]:
    """Every slice level of a person, onto systole."""
    for row in cases_of(folder, [person], "systole"):
        labels = {"fixed_labels": row.fixed_labels, "moving_labels": row.moving_labels}
        yield replace(read_case(row.fixed, row.moving, **labels), name=row.name)


def difference_table(records: list[Record]) -> str:
    """Mean Dice of the network minus that of the others, with its 95 % interval over persons."""
    score = {(r.subject, r.name, r.method): r.scores["dice"] for r in records}
    rows = []
    for other in dict.fromkeys(record.method for record in records):
        by_person: dict[str, list[float]] = {}
        for person, case, method in score:
            if method == other and (person, case, CARDIAC[0]) in score:
                less = score[person, case, CARDIAC[0]] - score[person, case, other]
                by_person.setdefault(person, []).append(less)
        if other != CARDIAC[0]:
            mean, low, high = bootstrapped(list(by_person.values()))
            rows.append([other, len(by_person), f"{mean:+.4f}", f"{low:+.4f} to {high:+.4f}"])
    return table([f"`{CARDIAC[0]}` minus", "persons", "Dice", "95 %"], rows)


def bootstrapped(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean of all values, and the 2.5th and 97.5th percentile over samples of groups."""
    random = np.random.default_rng(0)
    totals, counts = (np.array([f(group) for group in groups]) for f in (sum, len))
    drawn = random.integers(len(groups), size=(10_000, len(groups)))
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    return (totals.sum() / counts.sum(), *np.percentile(means, [2.5, 97.5]))


def brain(folder: Path, names: Sequence[str], persons: list[str]):
    """Rows are added to dirnet.csv as they come and not computed again."""
    path = Path(__file__).with_suffix(".csv")
    known = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(row["fixed"], row["moving"], row["method"]) for row in known}
    for fixed, moving in BRAIN_PAIRS:
        for name in names:
            wanted = str(fixed), str(moving), name
            if wanted not in done and (not persons or str(fixed) in persons):
                known.append(dict(zip(("fixed", "moving", "method"), wanted)))
                known[-1] |= brain_scores(folder / "oasis_malf35/subjects", *wanted)
                print(known[-1], flush=True)
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(known[-1]), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(known)
    write_section(TABLE, "Brain", brain_table(known), head=HEAD)


def brain_table(known: list[dict[str, str]]) -> str:
    """Of all rows; affine and elastix's default after it are those of brain_mr.csv,
    for the same pairs.
    """
    pairs = {(row["fixed"], row["moving"]) for row in known}
    with (TABLE.parent / "brain_mr.csv").open() as file:
        others = [row for row in csv.DictReader(file) if (row["fixed"], row["moving"]) in pairs]
    rows = []
    for arm in ("affine", "elastix default"):
        values = [float(row["dice"]) for row in others if row["arm"] == arm]
        cells = (f"{statistics.mean(values):.3f}", f"{min(values):.3f}", "", "")
        rows.append([f"{arm} (brain_mr.csv)", len(values), *cells])
    for name in dict.fromkeys(row["method"] for row in known):
        of = [row for row in known if row["method"] == name]
        values = [float(row["dice"]) for row in of]
        spread = statistics.mean(float(row["log_jacobian_sd"]) for row in of)
        folds = statistics.mean(float(row["folded_percent"]) for row in of)
        cells = (
            f"{statistics.mean(values):.3f}",
            f"{min(values):.3f}",
            f"{spread:.2f}",
            f"{folds:.4f}",
        )
        rows.append([name, len(of), *cells])
    names = ["method", "pairs", "Dice, mean", "worst", "SD log J", "folded %"]
    return table(names, rows)


def brain_scores(folder: Path, fixed: str, moving: str, name: str) -> dict[str, str]:
    images = [read_image(folder / f"{person}_SS.nii.gz") for person in (fixed, moving)]
    labels = [read_labels(folder / f"{person}_glm.nii.gz") for person in (fixed, moving)]
    total = load_method(name).register(ImagePair(*images)).transform
    found = DisplacementField.sampled(total, images[0].grid)
    overlap = dice(labels[0], warp(labels[1], found, onto=images[0].grid))
    inside = images[0].data[0] > 0
    determinants = jacobian_determinant(found, images[0].grid).data[0][inside]
    return {
        "dice": f"{statistics.mean(overlap.values()):.4f}",
        "log_jacobian_sd": f"{determinants.clamp(min=1e-3).log().std():.3f}",
        "folded_percent": f"{100 * (determinants <= 0).double().mean():.4f}",
    }


def mnist(data: Path, folder: Path, minutes: float):
    from hybridreg.training import train

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {part: digit_table(data, folder, part) for part in DIGITS}
    (folder / "dirnet.toml").write_text(MNIST, encoding="utf-8")
    task = load_training("dirnet", folder / "dirnet.toml").task()
    weights = train(task, folder / "run", max_time_s=60 * minutes, resume=True)
    methods = {"DIRNet": load_method({"name": "dirnet", "weights": str(weights)})}
    rows, shown = [], []
    for name, method in {"before": None, **methods}.items():
        overlaps, correlations, folds = [], [], []
        for fixed, moving in pairs["test"]:
            pair = ImagePair(read_image(fixed), read_image(moving))
            found = IDENTITY if method is None else method.register(pair).transform
            moved = warp(pair.moving, found, onto=pair.fixed.grid)
            overlaps.append(overlap(pair.fixed.data[0], moved.data[0]))
            both = torch.stack([pair.fixed.data.flatten(), moved.data.flatten()])
            correlations.append(torch.corrcoef(both)[0, 1].item())
            determinants = jacobian_determinant(found, pair.fixed.grid).data
            folds.append(100 * (determinants <= 0).double().mean().item())
            if method is not None and len(shown) < 20:
                shown.append(torch.cat([i.data[0] for i in (pair.fixed, pair.moving, moved)]))
        means = [f"{statistics.mean(v):.3f}" for v in (overlaps, correlations, folds)]
        rows.append([name, len(overlaps), means[0], f"{min(overlaps):.3f}", *means[1:]])
    names = ["", "pairs", "Dice of digits, mean", "worst", "correlation", "folded %"]
    write_section(TABLE, "MNIST", table(names, rows), head=HEAD)
    figure = torch.cat(shown, 1).clamp(0, 255).repeat_interleave(3, 0).repeat_interleave(3, 1)
    save(folder / "mnist.png", figure)


def overlap(fixed: torch.Tensor, moved: torch.Tensor) -> float:
    a, b = fixed > 127.5, moved > 127.5
    return 2 * (a & b).sum().item() / max((a.sum() + b.sum()).item(), 1)


def digit_table(data: Path, folder: Path, part: str) -> list[tuple[Path, Path]]:
    """Random pairs of the same digit as pictures with a case table, PART.csv."""
    with gzip.open(data / "mnist/t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    digits = labels_of(data)
    random = np.random.default_rng(0)
    start, stop = DIGITS[part]
    pairs = []
    for number in range(PAIRS[part]):
        same = start + np.flatnonzero(digits[start:stop] == number % 10)
        pairs.append(random.choice(same, 2, replace=False))
    paths = {i: folder / f"digits/{i}.png" for i in np.unique(pairs)}
    (folder / "digits").mkdir(exist_ok=True)
    for i, path in paths.items():
        if not path.exists():
            save(path, torch.from_numpy(np.pad(images[i], 2)).float())
    with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "fixed", "moving"])
        writer.writerows([f"{k}", paths[a], paths[b]] for k, (a, b) in enumerate(pairs))
    return [(paths[a], paths[b]) for a, b in pairs]


def labels_of(data: Path) -> np.ndarray:
    with gzip.open(data / "mnist/t10k-labels-idx1-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=8)


def save(path: Path, data: torch.Tensor):
    write_image(path, Image(data, Grid(tuple(data.shape)), dtype="uint8"))


def times(folder: Path, persons: list[str], threads: int) -> str:
    """Seconds per pair, medians without the first, of some levels of a heart and of a brain."""
    heart = [case.pair for case in read_cases(folder / "sunnybrook_2d", persons[0])]
    brains = folder / "oasis_malf35/subjects"
    whole = ImagePair(*(read_image(brains / f"{p}_SS.nii.gz") for p in BRAIN_PAIRS[0]))
    affine, network = load_method("dirnet-brain").stages
    start = affine.register(whole).transform
    with TemporaryDirectory() as scratch:
        elastix = elastix_default("bspline", Path(scratch), threads)
        by_name = {name: with_settings(load_method(name), threads=threads) for name in CARDIAC}
        after_affine = {
            "dirnet-brain after the affine": network,
            "elastix default after it": elastix,
        }
        rows = [
            *time_rows(by_name, [(pair, IDENTITY) for pair in heart[:4]]),
            *time_rows(after_affine, [(whole, start)] * 2),
            ["the affine alone", f"{seconds_of(affine, [(whole, IDENTITY)] * 2):.3f}", ""],
        ]
    return table(["method", "s", "times the network"], rows)


def time_rows(methods: dict[str, RegistrationMethod], pairs: Sequence[tuple]) -> list[list[str]]:
    medians = {name: seconds_of(method, pairs) for name, method in methods.items()}
    first = next(iter(medians.values()))
    return [[name, f"{found:.3f}", f"{found / first:.0f}"] for name, found in medians.items()]


def seconds_of(method: RegistrationMethod, pairs: Sequence[tuple[ImagePair, Transform]]) -> float:
    found = []
    for pair, initial in pairs:
        start = time.perf_counter()
        method.register(pair, initial)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("cardiac", "brain", "mnist", "times"))
    parser.add_argument("--persons", nargs="+", default=[])
    parser.add_argument(
        "--methods", nargs="+", default=[], help="of heart or brain, by default all"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=5, help="of training, mnist")
    parser.add_argument("--records", type=Path, default=Path("dirnet-records"))
    parser.add_argument("--out", type=Path, default=Path("dirnet-mnist"), help="folder of mnist")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = Path(os.environ["HYBRIDREG_DATA"])
    if options.part == "cardiac":
        names = options.methods or CARDIAC
        cases = [*cases_of(folder / "sunnybrook_2d", options.persons or HEARTS, "systole")]
        cardiac(cases, names, options.records, options.threads)
    elif options.part == "brain":
        brain(folder, options.methods or BRAIN, options.persons)
    elif options.part == "mnist":
        mnist(folder, options.out, options.minutes)
    else:
        text = times(folder, options.persons or HEARTS[-1:], options.threads)
        write_section(TABLE, "Times", text, head=HEAD)


if __name__ == "__main__":
    main()
