"""How descriptors compare as the similarity of one method, and what the presets built on them reach.

Persons of oasis_malf35, 1 mm; mean Dice of all labels of the fixed image, resampled once. All arms
follow the same affine, the first stage of `brain-fast`, found once and kept in HYBRIDREG_SCRATCH.
Of the deformable part's determinants in the fixed brain, the standard deviation of their logarithm;
folds of the total map on the whole grid; how far the inverse of a mapped point is from it.

Contrasts: the moving image as it is, with its tissues remapped to those of T2 ("t2") or inverted
("inverted"). Parameters are chosen on the validation persons.

It does not run by `hybridreg compare`: contrasts are exchanged in memory, and all arms share an
affine found once.

Rows are added to features.csv as they come and not computed again; `--most` ends after so many.

Presets start from nothing and keep their own smoothness with --smoothness 0.

    HYBRIDREG_DATA=... python examples/benchmarks/features.py --arms lncc mind [--persons test] | table | times
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from brain_mr import TEST
from lddmm import DESCENT_PAIRS, SHARED, THREADS, add, brain, folder, images, known, rows

from hybridreg.cases import ImagePair
from hybridreg.comparison.statistics import mean_interval
from hybridreg.config import build, load_method, with_settings
from hybridreg.evaluation import dice, jacobian_statistics
from hybridreg.images import Image
from hybridreg.io.images import read_labels
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.parameter_folder import parameter_folder
from hybridreg.phantoms import blobs
from hybridreg.registry import DESCRIPTORS
from hybridreg.transforms import IDENTITY, DisplacementField, Transform, parts_of
from hybridreg.warping import jacobian_determinant, warp

AFFINE, _ = load_method("brain-fast").stages
VALIDATION = [(1013, 1014), (1014, 1013)]
TRAIN = [(1000, 1001), (1006, 1009)]
SIX = [*DESCENT_PAIRS, (1015, 1036), (1017, 1128)]  # every test person in three
PERSONS = {
    "ring": DESCENT_PAIRS,
    "six": SIX,
    "test": TEST,
    "validation": VALIDATION,
    "train": TRAIN,
}
NAME = "features.csv"

INSTANCE = {"name": "instance", "iterations": [50, 50, 50, 50, 20]}
TWO_MM = {"name": "instance", "iterations": [50, 50, 50, 50], "spacing_mm": 2.0}


def on(descriptor: dict | str, method: dict, **similarity) -> dict:
    similarity = similarity or {"name": "ssd"}
    return {
        "name": "on-features",
        "descriptor": descriptor,
        "method": {**method, "similarity": similarity},
    }


def _to_1_mm(table: dict) -> dict:
    if table["name"] == "instance":
        return {**table, **INSTANCE, "spacing_mm": 1.0}
    return {**table, "method": _to_1_mm(table["method"])}


def beside(descriptor: dict | str, weight: float, method: dict = INSTANCE) -> dict:
    """Local correlation of intensities plus so many times the distance of descriptors."""
    stacked = {"name": "stacked", "descriptors": ["intensity", descriptor]}
    return on(stacked, method, name="mixed", weight=weight)


# a folder of weights to try before they are packaged
WEIGHTS = os.environ.get("HYBRIDREG_WEIGHTS", "")


def trained(name: str, weights: str) -> dict:
    path = Path(WEIGHTS) / f"{weights}.safetensors"
    return {"name": name, "weights": str(path) if WEIGHTS and path.is_file() else weights}


PCA = trained("pca", "pca-brain")
SAE, SAE_ANY = trained("autoencoder", "sae-brain"), trained("autoencoder", "sae-any-contrast")
ANATOMY, ANATOMY_ANY = (
    trained("anatomy", "anatomy-brain"),
    trained("anatomy", "anatomy-any-contrast"),
)
LNCC = {"name": "lncc", "radius": 2}
ARMS = {
    "lncc": {**TWO_MM, "similarity": LNCC},
    "mi": {**TWO_MM, "similarity": "mi"},
    "ssd": {**TWO_MM, "similarity": "ssd"},
    "pca": on(PCA, TWO_MM),
    "mind": on("mind", TWO_MM),
    "autoencoder": on(SAE, TWO_MM),
    "autoencoder any": on(SAE_ANY, TWO_MM),
    "anatomy": on(ANATOMY, TWO_MM),
    "anatomy any": on(ANATOMY_ANY, TWO_MM),
    **{f"lncc + {w} mind": beside("mind", w, TWO_MM) for w in (10, 30, 100)},
    **{f"lncc + {w} pca": beside(PCA, w, TWO_MM) for w in (10, 30, 100)},
    **{f"lncc + {w} autoencoder": beside(SAE, w, TWO_MM) for w in (10, 30, 100)},
    **{f"lncc + {w} anatomy": beside(ANATOMY, w, TWO_MM) for w in (10, 30, 100, 300)},
}


def in_elastix(descriptor: dict | str, **overrides) -> dict:
    """The last stage of `features-elastix` on other descriptors, without its penalty."""
    path = parameter_folder() / "features-elastix.toml"
    stage = tomllib.loads(path.read_text(encoding="utf-8"))["stages"][1]
    preset = {k: v for k, v in stage["method"]["overrides"].items() if not k.startswith("Metric")}
    overrides = {**preset, "Metric": "AdvancedMeanSquares", **overrides}
    method = {**stage["method"], "overrides": overrides}
    return {**stage, "descriptor": descriptor, "method": method}


ARMS |= {f"{name}, 1 mm": _to_1_mm(table) for name, table in ARMS.items()}
ONE_CHANNEL = {"NumberOfSpatialSamples": 8000, "MaximumNumberOfIterations": 500}
ARMS |= {
    "elastix, autoencoder": in_elastix(SAE),
    "elastix, mind": in_elastix("mind"),
    "elastix, pca": in_elastix(PCA),
    "elastix, intensity": in_elastix("intensity", **ONE_CHANNEL),
    "elastix, mi": in_elastix("intensity", **ONE_CHANNEL, Metric="AdvancedMattesMutualInformation"),
    "elastix, ncc": in_elastix("intensity", **ONE_CHANNEL, Metric="AdvancedNormalizedCorrelation"),
}


def bending(weight: float) -> dict:
    metrics = ["AdvancedMeanSquares", "TransformBendingEnergyPenalty"]
    return {"Metric": metrics, "Metric0Weight": 1.0, "Metric1Weight": weight}


ARMS |= {
    f"elastix, autoencoder, bending {w:g}": in_elastix(SAE, **bending(w)) for w in (0.1, 0.3, 1, 3)
}

# The model is made by scripted_mind.py; IMPACT_PYTHON is a Python with itk-impact and its torch.
IMPACT = {"name": "impact", "affine": "", "weights": os.environ.get("IMPACT_MODEL", "mind.pt")}
IMPACT["python"] = os.environ.get("IMPACT_PYTHON", "")
ARMS |= {
    "impact, mind": {**IMPACT, "distance": "L2"},
    "impact, mind, NCC": {**IMPACT, "distance": "NCC"},
}


def affine(fixed: int, moving: int) -> Transform:
    path = SHARED / f"linear_{fixed}_{moving}.h5"
    if not path.exists():
        write_transform(path, AFFINE.register(images(fixed, moving)).transform)
    return read_transform(path)


def tissues(person: int) -> torch.Tensor:
    return read_labels(folder() / f"{person}_tissues.nii.gz").data


def as_t2(image: Image, person: int) -> Image:
    """Tissue by tissue to the brightness of T2: CSF brightest, white matter darkest."""
    data, of = image.data[0], tissues(person)
    out = torch.zeros_like(data)
    for tissue, (middle, spread) in {
        1: (900.0, -60.0),
        2: (480.0, -60.0),
        3: (300.0, -40.0),
    }.items():
        inside = of == tissue
        values = data[inside]
        out[inside] = middle + spread * (values - values.mean()) / values.std()
    return Image(out.clamp(min=0), image.grid)


def inverted(image: Image, _: int) -> Image:
    shown = image.data > 0
    return Image(torch.where(shown, image.data.max() - image.data, 0.0), image.grid)


CONTRASTS: dict[str, Callable[[Image, int], Image]] = {
    "same": lambda image, _: image,
    "t2": as_t2,
    "inverted": inverted,
}


def evaluated(
    pair: ImagePair, persons: tuple[int, int], method, start: Transform
) -> dict[str, str]:
    before = time.process_time(), time.perf_counter()
    result = method.register(pair, start)
    processor, wall = time.process_time() - before[0], time.perf_counter() - before[1]
    onto, inside = pair.fixed.grid, brain(pair.fixed)
    total = DisplacementField.sampled(result.transform, onto)
    labels = [read_labels(folder() / f"{p}_glm.nii.gz") for p in persons]
    overlap = dice(labels[0], warp(labels[1], total, onto=onto))
    jacobian = jacobian_determinant(total, onto)
    # T = A o phi: the determinant of phi is that of T over A's
    linear = parts_of(result.transform)[0]
    deformable = Image(jacobian.data / torch.linalg.det(linear.linear).float(), onto)
    found = jacobian_statistics(deformable, mask=inside)
    points = onto.points()[inside.data != 0][::20]
    there = torch.full((1,), torch.nan)
    if result.inverse is not None:
        there = (result.inverse(result.transform(points)) - points).norm(dim=-1)
    return {
        "dice": f"{statistics.mean(overlap.values()):.4f}",
        "log_sd": f"{found.log_sd:.3f}",
        "least": f"{found.minimum:.3f}",
        "folded_voxels": int((jacobian.data <= 0).sum()),
        "inverse_mean_mm": f"{there.mean():.4f}",
        "processor_seconds": f"{processor:.1f}",
        "wall_seconds": f"{wall:.1f}",
    }


def todo(options: argparse.Namespace) -> Iterator[tuple[dict, tuple[int, int]]]:
    for persons, arm in itertools.product(PERSONS[options.persons], options.arms):
        for smoothness in options.smoothness:
            key = {
                "fixed": persons[0],
                "moving": persons[1],
                "contrast": options.contrast,
                "arm": arm,
                "smoothness": f"{smoothness:g}",
            }
            if not known(NAME, **key):
                yield key, persons


def run(options: argparse.Namespace):
    for key, persons in itertools.islice(todo(options), options.most):
        arm, smoothness = key["arm"], float(key["smoothness"])
        method = load_method(arm) if arm not in ARMS else build(ARMS[arm])
        method = with_settings(method, smoothness=smoothness or None, threads=THREADS)
        pair, start = images(*persons), affine(*persons) if arm in ARMS else IDENTITY
        pair = replace(pair, moving=CONTRASTS[options.contrast](pair.moving, persons[1]))
        add(NAME, {**key, **evaluated(pair, persons, method, start)})


def table():
    print("| persons | contrast | arm | smoothness | pairs | Dice | worst | SD log J | folds "
          "| inverse, mm "
          "| processor s |\n" + "|---" * 11 + "|")  # fmt: skip
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows(NAME):
        pair = int(row["fixed"]), int(row["moving"])
        persons = next(name for name, pairs in PERSONS.items() if pair in pairs)
        groups.setdefault((persons, row["contrast"], row["arm"], row["smoothness"]), []).append(row)
    for key, found in sorted(groups.items()):
        of = {k: [float(row[k]) for row in found] for k in list(found[0])[5:]}
        mean = {k: statistics.mean(values) for k, values in of.items()}
        print(
            f"| {' | '.join(key)} | {len(found)} | {mean['dice']:.3f} | {min(of['dice']):.3f} "
            f"| {mean['log_sd']:.2f} | {sum(of['folded_voxels']):.0f} | "
            f"{mean['inverse_mean_mm']:.3f} "
            f"| {statistics.median(of['processor_seconds']):.0f} |"
        )


def paired(options: argparse.Namespace):
    """Differences of Dice between arms on the same pairs: means of fixed persons,
    and their interval.
    """
    print(
        "| arm less other | pairs | Dice | 95 % of fixed persons | SD log J |\n" + "|---" * 5 + "|"
    )
    found = {}
    for row in rows(NAME):
        pair = int(row["fixed"]), int(row["moving"])
        if pair in PERSONS[options.persons] and row["contrast"] == options.contrast:
            arm = row["arm"], float(row["smoothness"])
            found.setdefault(arm, {})[pair] = float(row["dice"]), float(row["log_sd"])
    arms = [(a, s) for a in options.arms for s in options.smoothness if (a, s) in found]
    for one, other in itertools.combinations(arms, 2):
        common = sorted(found[one].keys() & found[other].keys())
        if not common:
            continue
        apart = {pair: np.subtract(found[one][pair], found[other][pair]) for pair in common}
        fixed = sorted({pair[0] for pair in common})
        means = [np.mean([apart[p] for p in common if p[0] == person], 0) for person in fixed]
        dice, spread = np.mean(means, 0)
        interval = mean_interval(np.array(means)[:, 0])
        within = f"{interval.low:+.4f} to {interval.high:+.4f}" if interval else ""
        print(
            f"| {one[0]} less {other[0]} | {len(common)} | {dice:+.4f} | {within} | {spread:+.3f} |"
        )


def times(presets: list[str]):
    """Seconds of presets for the first test pair, warm; without any those of every descriptor,
    best of 2.
    """
    pair = images(*TEST[0])
    image = pair.fixed
    for name in presets:
        method = with_settings(load_method(name), threads=THREADS)
        method.register(blobs().pair)
        begin = time.perf_counter()
        method.register(pair)
        print(f"| {name} | {time.perf_counter() - begin:.1f} s |", flush=True)
    if presets:
        return
    for name in ("intensity", "gradient", "mind", "pca", "autoencoder", "anatomy"):
        descriptor, seconds = build({"name": name}, DESCRIPTORS), []
        for _ in range(3):
            begin = time.perf_counter()
            descriptor(image)
            seconds.append(time.perf_counter() - begin)
        print(f"| {name} | {min(seconds[1:]):.2f} s |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "what", nargs="?", choices=["run", "table", "paired", "times"], default="run"
    )
    parser.add_argument("--arms", nargs="+", default=[])
    parser.add_argument("--persons", choices=list(PERSONS), default="test")
    parser.add_argument("--contrast", choices=list(CONTRASTS), default="same")
    parser.add_argument("--smoothness", type=float, nargs="+", default=[1.1])
    parser.add_argument("--most", type=int, help="rows, then end")
    options = parser.parse_args()
    if options.what == "table":
        return table()
    if options.what == "paired":
        return paired(options)
    if options.what == "times":
        torch.set_num_threads(THREADS)
        return times(options.arms)
    torch.set_num_threads(THREADS)
    run(options)


if __name__ == "__main__":
    main()
