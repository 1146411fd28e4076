"""What `brain-mr` needs: stripped brains, whole heads, and one of each.

Two persons of other sites than any preset was tuned on (freesurfer_mne: sample_ecog fixed, 1 mm;
sample moving, its whole head at 3 mm), all brought to 2 mm or what they have. Mean Dice of the aseg
structures that both have.

It does not run by `hybridreg compare`: its images and masks are made in memory, and it has three
pairs.

    HYBRIDREG_DATA=... python examples/benchmarks/whole_heads.py [--threads 1]
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

import torch
from sections import table, write_section

from hybridreg.cases import Case, ImagePair
from hybridreg.config import load_intent, load_method, with_settings
from hybridreg.evaluation import dice
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, read_labels
from hybridreg.methods.base import RegistrationError
from hybridreg.pipeline import run
from hybridreg.transforms import IDENTITY
from hybridreg.warping import warp

TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["`brain-mr` on stripped brains and whole heads", __doc__.split("\n\n")[1]])


def inside(brain: Image, onto: Image) -> LabelMap:
    """The mask of a stripped brain on the grid of another image of the same person."""
    return warp(LabelMap((brain.data[0] > 0).int(), brain.grid), IDENTITY, onto=onto.grid)


def coarse(image: Image) -> Image:
    grid = image.grid.with_spacing([max(2.0, s) for s in image.grid.spacing])
    return warp(image, IDENTITY, onto=grid)


def shared_dice(fixed: LabelMap, moved: LabelMap) -> float:
    common = set(fixed.data.unique().tolist()) & set(moved.data.unique().tolist())
    return statistics.mean(value for label, value in dice(fixed, moved).items() if label in common)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "freesurfer_mne"
    fixed, moving = folder / "sample_ecog", folder / "sample"
    brains, heads = (
        [coarse(read_image(person / name)) for person in (fixed, moving)]
        for name in ("brain.mgz", "T1.mgz")
    )
    labels = read_labels(fixed / "aseg.mgz"), read_labels(moving / "aseg.mgz")
    masks = inside(brains[0], heads[0]), inside(brains[1], heads[1])
    pairs = {
        "brain ← brain": ImagePair(*brains),
        "head ← head": ImagePair(*heads),
        "head ← brain": ImagePair(heads[0], brains[1]),
        "head ← brain, fixed mask of the brain": ImagePair(heads[0], brains[1], masks[0]),
        "brain ← head": ImagePair(brains[0], heads[1]),
        "brain ← head, moving mask of the brain": ImagePair(brains[0], heads[1], None, masks[1]),
    }
    rows = []
    brain_mr = with_settings(load_method("brain-mr"), threads=threads)
    affine = with_settings(load_method("affine"), threads=threads)
    for name, pair in pairs.items():
        before = shared_dice(labels[0], warp(labels[1], IDENTITY, onto=labels[0].grid))
        values, folding, verdict = [f"{before:.3f}"], 0.0, ""
        for method in (affine, brain_mr):
            try:
                outcome = run(Case(pair), method, intent=load_intent("brain-mr"))
            except RegistrationError as error:
                values, verdict = [*values, "refused"], str(error).partition(": ")[2]
                continue
            moved = warp(labels[1], outcome.result.transform, onto=labels[0].grid)
            values.append(f"{shared_dice(labels[0], moved):.3f}")
            folding = outcome.scores[1].jacobian.folding_percent
            verdict = outcome.verdict.status
        rows.append([name, *values, f"{folding:.3f}", verdict])
        names = ["images", "Dice before", "affine", "brain-mr", "folded %", "verdict"]
        write_section(TABLE, "Pairs", table(names, rows), head=HEAD)


if __name__ == "__main__":
    main()
