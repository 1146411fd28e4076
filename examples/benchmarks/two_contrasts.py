"""`brain-any-contrast` and its variants beside `brain-mr`, on one contrast and on two.

Pairs of `instance.py` (persons of oasis_malf35, 1 mm). Two contrasts: the moving image looks like
T2, since its intensities are exchanged (fluid bright, then gray matter, white matter dark), whose
labels are known. Mean Dice of all labels of the fixed image, resampled once; in the fixed brain the
standard deviation of the logarithm of determinants, which an affine part does not change; folds on
the whole grid; processor seconds of this process (elastix computes in another).

It does not run by `hybridreg compare`: contrasts are exchanged in memory.

Rows are added to two_contrasts.csv as they come and not computed again.

    HYBRIDREG_DATA=... python examples/benchmarks/two_contrasts.py [--persons train] [--pairs 3]
        [--arms brain-mr lncc2] [--contrasts T1 T2] | table
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from brain_mr import TEST
from instance import TRAIN, scored
from lddmm import add, images, known, rows

from hybridreg.cases import ImagePair
from hybridreg.config import load_method
from hybridreg.descriptors.mind import Mind
from hybridreg.intensity import to_unit
from hybridreg.methods.base import RegistrationMethod
from hybridreg.methods.combine import Chain, OnFeatures
from hybridreg.methods.instance import Instance
from hybridreg.similarity import LNCC, MI, NCC, SSD

NAME = "two_contrasts.csv"
# Of brightness in [0, 1]: background, the brain's border, fluid, gray and white matter, the
# brightest.
T1, T2 = (0.0, 0.1, 0.3, 0.55, 0.89, 1.0), (0.0, 0.9, 1.0, 0.6, 0.3, 0.25)


def variant(measure, smoothness: float, *, features: bool = False) -> RegistrationMethod:
    linear = load_method("brain-any-contrast-mind").stages[0]
    deformable = Instance(similarity=measure, smoothness=smoothness)
    return Chain((linear, OnFeatures(Mind(), deformable) if features else deformable))


def method_of(arm: str) -> RegistrationMethod:
    """A preset, or a measure and a smoothness, as in lncc2-1.3."""
    if "-" not in arm or not arm.split("-")[1][:1].isdigit():
        return load_method(arm)
    name, smoothness = arm.split("-")
    measures = {"ncc": NCC(), "mi": MI(), "mind": SSD(), "lncc2": LNCC(2), "lncc4": LNCC(4)}
    return variant(measures[name], float(smoothness), features=name == "mind")


def pair_of(fixed: int, moving: int, contrast: str) -> ImagePair:
    pair = images(fixed, moving)
    if contrast == "T1":
        return pair
    unit = to_unit(pair.moving, "percentiles")[0]
    data = torch.from_numpy(np.interp(unit.data.numpy(), T1, T2).astype(np.float32))
    return replace(pair, moving=replace(unit, data=data))


def evaluated(fixed: int, moving: int, arm: str, contrast: str) -> dict[str, object]:
    before = time.process_time()
    result = method_of(arm).register(pair_of(fixed, moving, contrast))
    seconds = time.process_time() - before
    row = {"arm": arm, "contrast": contrast, **scored(fixed, moving, result, result.transform)}
    row.pop("inverse_mean_mm", None)
    return {**row, "cpu_seconds": f"{seconds:.1f}"}


def table():
    print("| persons | contrast | method | pairs | Dice, mean | worst | SD log J | folds | "
          "processor s |\n"
          + "|---" * 9 + "|")  # fmt: skip
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows(NAME):
        persons = "test" if (int(row["fixed"]), int(row["moving"])) in TEST else "train"
        groups.setdefault((persons, row["contrast"], row["arm"]), []).append(row)
    for group, found in sorted(groups.items()):
        of = {key: [float(row[key]) for row in found] for key in list(found[0])[2:]}
        print(
            f"| {' | '.join(group)} | {len(found)} | {statistics.mean(of['dice']):.3f} "
            f"| {min(of['dice']):.3f} | {statistics.mean(of['log_sd']):.2f} "
            f"| {sum(of['folded_voxels']):.0f} | {statistics.median(of['cpu_seconds']):.0f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["accuracy", "table"], default="accuracy")
    parser.add_argument("--persons", choices=["train", "test"], default="test")
    parser.add_argument("--pairs", type=int, default=3, help="the first so many")
    parser.add_argument("--arms", nargs="+", default=["brain-mr", "brain-any-contrast"])
    parser.add_argument("--contrasts", nargs="+", choices=["T1", "T2"], default=["T1", "T2"])
    given = parser.parse_args()
    if given.what == "table":
        return table()
    torch.set_num_threads(1)
    for fixed, moving in (TEST if given.persons == "test" else TRAIN)[: given.pairs]:
        for contrast in given.contrasts:
            for arm in given.arms:
                key = {"fixed": fixed, "moving": moving, "arm": arm, "contrast": contrast}
                if not known(NAME, **key):
                    add(NAME, evaluated(fixed, moving, arm, contrast))


if __name__ == "__main__":
    main()
