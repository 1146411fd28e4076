"""How good the fusion rules are, beside trivial fusions, on persons that nothing was tuned on.

Slices: the test cases of harvard_aanlib, CT, PET or SPECT (the luma of its colors) as the fixed
image and MR as the moved one. Every score of ``fusion_scores``, and three figures of what a reader
looks for in CT and MR. Bone is where CT is white, above 0.95 (these CT are windowed for brain):

- bone edges kept: ``edge_recall`` of CT up to 2 pixels around bone;
- tissue edges kept: ``edge_recall`` of MR further than that from bone;
- solid bone: fraction of bone where the fused image has at least 4/5 of CT's value.

Slices of one person are alike, so a score is the mean of the cases' means, and its interval is of a
bootstrap over cases. Rows are added to a file as they come and not computed again, so the run can
be interrupted; the tables are of what is there.

    HYBRIDREG_DATA=... python examples/benchmarks/fusion.py [--rows FILE] [--every 4] [--kinds CT-MRI]
    HYBRIDREG_DATA=... python examples/benchmarks/fusion.py --pipeline
    HYBRIDREG_DATA=... python examples/benchmarks/fusion.py --times

``--pipeline``: CT and MR stacks, the one's header perturbed, registered by `brain-ct-mr` and fused,
against the fusion of the stacks as the atlas aligned them. ``--times``: 2 threads, warm, medians of
5, with nothing else running.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from brain_ct_mr import perturbations, placed
from scipy import ndimage
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.config import load_method, with_settings
from hybridreg.fusion import fuse
from hybridreg.fusion.color import luminance
from hybridreg.fusion.focus import accuracies, trained_network
from hybridreg.fusion_files import BASELINES, network_of
from hybridreg.fusion_scores import SCORES, edge_recall, fused_pair, fusion_scores
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.images import read_image
from hybridreg.io.photographs import read_photographs
from hybridreg.preprocessing import foreground
from hybridreg.registry import DEFAULT_RULE
from hybridreg.transforms import rigid
from hybridreg.warping import warp

TEST = {"CT-MRI": ("20", "37", "41"), "PET-MRI": ("25",), "SPECT-MRI": ("10", "11", "21")}
PHOTOGRAPHS = ("camera", "clock_motion", "coins")
RULE_NAMES = ("fixed", "moved", "mean", "maximum", "laplacian", "energy", "liu-2017")
RULE_NAMES += ("liu-2017-fast", DEFAULT_RULE)
TASK = ("bone_edges", "tissue_edges", "solid_bone")
FAST_DIFFERS = ("gray_mean", "gray_95")  # of the distilled network from the published one, of 255
COLUMNS = ("kind", "case", "slice", "rule", *SCORES, *TASK, *FAST_DIFFERS)
BONE, NEAR_PIXELS, SOLID = 0.95, 2, 0.8
STACKS, REPEATS = (20, 37, 41), 2
BOOTSTRAPS = 10_000

Row = dict[str, str]


def slices(folder: Path, kinds: list[str], every: int) -> Iterator[tuple[str, str, Path, Path]]:
    """Kind, case, fixed and moved file, of one slice in ``every``."""
    for kind in kinds:
        for case in TEST[kind]:
            names = sorted((folder / kind / "MRI").glob(f"{case}[0-9][0-9][0-9].png"))
            for mr in names[every // 2 :: every]:
                yield kind, case, folder / kind / kind.split("-")[0] / mr.name, mr


def pair_of(fixed: Path, moved: Path) -> tuple[Image, Image]:
    """Both gray, in [0, 1]."""
    images = (read_image(path, color=True) for path in (fixed, moved))
    gray = [luminance(Image(image.data / 255, image.grid)) for image in images]
    return gray[0], gray[1]


def task_scores(fused: Image, fixed: Image, moved: Image) -> dict[str, float]:
    """What a reader looks for in CT and MR; empty where there is no bone."""
    ct, image = fixed.data[0], fused.data[0]
    bone = ct >= BONE
    if not bone.any():
        return {}
    near = ndimage.binary_dilation(bone.numpy(), iterations=NEAR_PIXELS)
    head = fused_pair(fused, fixed, moved).inside
    places = {"bone_edges": ("fixed", head & near), "tissue_edges": ("moved", head & ~near)}
    kept = {
        name: edge_recall(fused_pair(fused, fixed, moved, mask=mask), side)
        for name, (side, mask) in places.items()
        if mask.any()
    }
    solid = (image[bone] >= SOLID * ct[bone]).float().mean().item()
    return {**kept, "solid_bone": solid}


def rows_of(kind: str, fixed: Image, moved: Image, networks: dict) -> Iterator[dict]:
    """All rules on one slice."""
    published = None
    for rule in RULE_NAMES:
        fused = fuse(fixed, moved, rule=rule, network=networks[rule]).image
        found = dict(fusion_scores(fused, fixed, moved).values)
        if kind == "CT-MRI":
            found |= task_scores(fused, fixed, moved)
        if rule == "liu-2017":
            published = fused
        if rule == "liu-2017-fast":
            inside = fused_pair(fused, fixed, moved).inside
            difference = 255 * (fused.data - published.data).abs()[0].numpy()[inside]
            found |= {"gray_mean": difference.mean(), "gray_95": np.percentile(difference, 95)}
        yield {"rule": rule, **{n: f"{v:.5g}" for n, v in found.items() if v is not None}}


def add_rows(data: Path, path: Path, kinds: list[str], every: int):
    """Every slice that the file has not yet."""
    done = {(row["kind"], row["case"], row["slice"]) for row in read_rows(path)}
    networks = {rule: network_of(rule) for rule in RULE_NAMES}
    for kind, case, fixed, moved in slices(data / "harvard_aanlib", kinds, every):
        key = (kind, case, moved.stem)
        if key in done:
            continue
        rows = [
            {"kind": kind, "case": case, "slice": moved.stem, **row}
            for row in rows_of(kind, *pair_of(fixed, moved), networks)
        ]
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerows(rows)
        print(*key, flush=True)


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def case_means(rows: list[Row], kind: str, rule: str, score: str) -> dict[str, float]:
    """The mean over a case's slices, by case."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if (row["kind"], row["rule"]) == (kind, rule) and row[score]:
            values.setdefault(row["case"], []).append(float(row[score]))
    return {case: statistics.fmean(found) for case, found in values.items()}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of a bootstrap over the values."""
    generator = np.random.default_rng(0)
    means = generator.choice(values, (BOOTSTRAPS, len(values))).mean(1)
    return float(np.mean(values)), *np.percentile(means, [2.5, 97.5]).tolist()


def line(cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(rows: list[Row], kind: str) -> list[str]:
    """A line for each score, a column for each rule; its mean over cases."""
    scores = [*SCORES, *(TASK if kind == "CT-MRI" else ())]
    lines = [line(["score", "better", *RULE_NAMES]), "|---" * (len(RULE_NAMES) + 2) + "|"]
    for score in scores:
        better = SCORES[score].better if score in SCORES else "higher"
        means = [case_means(rows, kind, rule, score).values() for rule in RULE_NAMES]
        shown = [f"{statistics.fmean(m):.3f}" if m else "-" for m in means]
        lines.append(line([score, better, *shown]))
    return lines


def differences(rows: list[Row], kind: str) -> list[str]:
    """The recommended rule less the trivial ones, case by case, with the interval."""
    lines = [line(["score", "less", "mean", "95 % over cases", "each case"]), "|---" * 5 + "|"]
    for score in ("QABF", "VIF", *(TASK if kind == "CT-MRI" else ())):
        ours = case_means(rows, kind, DEFAULT_RULE, score)
        for rule in BASELINES:
            theirs = case_means(rows, kind, rule, score)
            each = {case: ours[case] - theirs[case] for case in ours}
            mean, low, high = interval(list(each.values()))
            shown = ", ".join(f"{case}: {value:+.3f}" for case, value in each.items())
            lines.append(line([score, rule, f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}", shown]))
    return lines


def fast_table(rows: list[Row]) -> list[str]:
    """How far the distilled network's images are from the published one's."""
    names = ("kind", "gray levels, mean", "95 % of pixels below", "QABF published", "QABF fast")
    lines = [line(names), "|---" * len(names) + "|"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        gray = [case_means(rows, kind, "liu-2017-fast", score) for score in FAST_DIFFERS]
        quality = [case_means(rows, kind, rule, "QABF") for rule in ("liu-2017", "liu-2017-fast")]
        shown = [f"{statistics.fmean(m.values()):.2f}" for m in gray]
        shown += [f"{statistics.fmean(m.values()):.4f}" for m in quality]
        lines.append(line([kind, *shown]))
    return lines


def print_tables(rows: list[Row]):
    for kind in TEST:
        found = [row for row in rows if row["kind"] == kind and row["rule"] == DEFAULT_RULE]
        if not found:
            continue
        print(f"\n{kind}: {len(found)} slices of cases {', '.join(TEST[kind])}\n")
        print("\n".join([*table(rows, kind), "", *differences(rows, kind)]))
    print("\n" + "\n".join(fast_table(rows)))


def print_network(data: Path):
    """How often the published network is right on patches of photographs it never saw."""
    paths = [data / "natural_skimage" / f"{name}.png" for name in PHOTOGRAPHS]
    for name, fraction in accuracies(trained_network(), read_photographs(paths)).items():
        print(f"right on unseen patches, {name}: {fraction:.2%}")


def print_pipeline(data: Path, threads: int):
    """Scores after perturbation, registration and fusion, over those of the aligned stacks.

    Run 0 is registered without perturbation: it is resampled as the others are, which smooths MR,
    the more so by linear interpolation, so the others are compared with it as well.
    """
    method = with_settings(load_method("brain-ct-mr"), threads=threads)
    names = ("QABF", "VIF")
    print(
        line(
            [
                "case",
                "run",
                "by",
                *names,
                *(f"{n} over {o}" for o in ("atlas", "run 0") for n in names),
            ]
        )
    )
    for case in STACKS:
        ct, mr = (
            read_image(data / f"harvard_aanlib/stacks_ct_mr/case{case}_{side}.nii.gz")
            for side in ("ct", "mr")
        )
        aligned = stack_scores(ct, mr)
        center = mr.grid.points()[foreground(mr).data != 0].mean(0)
        print(
            line([case, "atlas", "-", *(f"{aligned[n]:.4f}" for n in names), *["-"] * 4]),
            flush=True,
        )
        nothing = ([0.0] * 3, [0.0] * 3)
        unperturbed: dict[str, dict[str, float]] = {}
        for number, (angles, shift) in enumerate([nothing, *perturbations(REPEATS, case)]):
            moving = placed(mr, rigid(angles, shift, center))
            found = method.register(ImagePair(ct, moving)).transform
            for how in ("linear", "cubic"):
                scores = stack_scores(ct, warp(moving, found, onto=ct.grid, interpolation=how))
                others = aligned, unperturbed.setdefault(how, scores)
                shown = [f"{scores[n]:.4f}" for n in names]
                shown += [f"{scores[n] / o[n] - 1:+.1%}" for o in others for n in names]
                print(line([case, number, how, *shown]), flush=True)


def stack_scores(ct: Image, mr: Image) -> dict[str, float]:
    fixed, moved = (Image((image.data / 255).clamp(0, 1), image.grid) for image in (ct, mr))
    fused = fuse(fixed, moved, rule=DEFAULT_RULE, slices=0).image
    found = fusion_scores(fused, fixed, moved).values
    return {name: found[name] for name in ("QABF", "VIF")}


def seconds_of(job: Callable[[], object], repeats: int = 5) -> float:
    """Median, after one run that warms up."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        job()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def random_pair(*shape: int) -> tuple[Image, Image]:
    """Noise without any background, which would cost less."""
    images: Tensor = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    return Image(images[0], Grid(shape)), Image(images[1], Grid(shape))


def print_times(threads: int):
    """Seconds of fusion, of its scores, and the peak memory of one 3D fusion of its own process."""
    torch.set_num_threads(threads)
    flat, head = random_pair(256, 256), random_pair(181, 217, 181)
    print(line(["what", "rule", "seconds"]))
    for rule in ("liu-2017", "liu-2017-fast", DEFAULT_RULE):
        how = {"rule": rule, "network": network_of(rule)}
        taken = seconds_of(lambda: fuse(*flat, **how))
        print(line(["256 x 256", rule, f"{taken:.3f}"]), flush=True)
        slow = {"repeats": 1} if rule == "liu-2017" else {"repeats": 3}
        taken = seconds_of(lambda: fuse(*head, slices=0, **how), **slow)
        print(line(["181 x 217 x 181 slice by slice", rule, f"{taken:.1f}"]), flush=True)
        if rule == "liu-2017":
            continue
        for shape in ((181, 217, 45), (181, 217, 90), (181, 217, 181)):
            pair = random_pair(*shape)
            name = " x ".join(map(str, shape)) + " in 3D"
            taken = seconds_of(lambda: fuse(*pair, **how))
            print(line([name, rule, f"{taken:.2f}"]), flush=True)
        peak = peak_memory_gb(rule)
        print(line(["peak memory of the latter, GB", rule, f"{peak:.2f}"]), flush=True)
    fused = fuse(*head, rule="maximum").image
    taken = seconds_of(lambda: fusion_scores(fused, *head), 1)
    print(line(["all scores of 181 x 217 x 181 voxels", "-", f"{taken:.1f}"]))


def peak_memory_gb(rule: str) -> float:
    """Of a process that fuses one volume in 3D and does nothing else."""
    call = [sys.executable, __file__, "--memory", rule]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def print_memory(rule: str):
    fuse(*random_pair(181, 217, 181), rule=rule, network=network_of(rule))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)  # kB


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=Path("fusion.csv"), help="kept and added to")
    parser.add_argument("--kinds", nargs="+", choices=TEST, default=list(TEST))
    parser.add_argument("--every", type=int, default=4, help="one slice in so many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pipeline", action="store_true")
    parser.add_argument("--network", action="store_true", help="right on unseen patches")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.memory:
        return print_memory(asked.memory)
    if asked.times:
        return print_times(asked.threads)
    data = Path(os.environ["HYBRIDREG_DATA"])
    if asked.network:
        return print_network(data)
    if asked.pipeline:
        return print_pipeline(data, asked.threads)
    add_rows(data, asked.rows, asked.kinds, asked.every)
    print_tables(read_rows(asked.rows))


if __name__ == "__main__":
    main()
