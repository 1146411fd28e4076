"""How well `lung-ct` aligns two breathing states of one person, beside what one would use instead.

Real pair: lung_ct_elastix, follow-up onto baseline, judged by the 51 checked points (they lie on
voxels and half voxels of 1.4 x 1.4 x 2.5 mm, and one of them no method brings nearer than 13 mm), the
overlap of the lung masks and the folds inside the lung. The preset was tuned on this very pair, the
only one at hand, and on known deformations of other seeds.

Known deformations: the baseline bent by up to 15 mm near the diaphragm and by up to 4 mm finer
elsewhere, turned, shifted by up to 30 mm, with 25 HU of noise and a density of the lung that follows
its volume. Mean distance to the truth over the voxels of the lung whose true place the moving image
shows.

Everyone but `lung-ct` and `bspline` starts from the same rigid and affine stage (`affine` with both
masks) and is given both masks. Times are from arrays in memory to a transform in memory (ANTs: from
files it has read), warm, on 2 threads, without the affine stage where it is shared. ANTs runs in the
Python that ANTS_PYTHON names, by default in this one.

    HYBRIDREG_DATA=... python examples/benchmarks/lung_ct.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.config import load_method, with_settings
from hybridreg.evaluation import dice, target_registration_error, transform_error
from hybridreg.geometry import Grid
from hybridreg.images import Image, LandmarkSet
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.tables import read_landmarks
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.methods.elastix import Elastix, warm_up
from hybridreg.phantoms import smooth_deformation
from hybridreg.transforms import IDENTITY, DisplacementField, Transform, compose, rigid
from hybridreg.warping import jacobian_determinant, warp

THREADS = 2
OUTSIDE_HU = -2048.0  # of the field of view
NOISE_HU = 25.0
TABLE = Path(__file__).with_suffix(".md")

Arm = Callable[[ImagePair, Transform], tuple[Transform, float]]  # from an affine start; seconds

DEFAULT_MAP = """
import sys
from itk import elxParameterObjectPython as pm
maps = pm.elastixParameterObject.New()
maps.AddParameterMap(pm.elastixParameterObject.GetDefaultParameterMap("bspline", 4))
maps.WriteParameterFile(sys.argv[1])
"""

ANTS = """
import json, sys, time
import ants
print(json.dumps(ants.__version__), flush=True)
for line in sys.stdin:
    f = line.strip()
    images = [ants.image_read(f"{f}/{n}.nii.gz") for n in ("fixed", "moving", "fm", "mm")]
    start = time.perf_counter()
    done = ants.registration(
        *images[:2], type_of_transform="SyNOnly", initial_transform=f"{f}/affine.tfm",
        mask=images[2], moving_mask=images[3], mask_all_stages=True, random_seed=1,
        outprefix=f"{f}/out_",
    )
    print(json.dumps([time.perf_counter() - start, done["fwdtransforms"]]), flush=True)
"""


@dataclass(frozen=True)
class Row:
    """What one method reached on one pair; error_mm at the points or against the truth."""

    arm: str
    error_mm: Tensor
    dice: float
    folding_percent: float
    seconds: float | None = None


def read_pair(folder: Path) -> tuple[ImagePair, LandmarkSet, LandmarkSet]:
    """Baseline as fixed and follow-up as moving image, with masks, and the points of both."""
    images = [read_image(folder / f"3DCT_lung_{t}.mha") for t in ("baseline", "followup")]
    masks = [read_labels(folder / f"3DCT_lung_{t}_mask.mha") for t in ("baseline", "followup")]
    points = [
        read_landmarks(folder / f"CT_3D_lung_{side}_point_set_corrected.txt")
        for side in ("fixed", "moving")
    ]
    return ImagePair(*images, *masks), *points


def known_pair(pair: ImagePair, seed: int) -> tuple[ImagePair, Transform]:
    """The fixed image onto itself through a known breath, and that transform, fixed to moving."""
    grid, lung = pair.fixed.grid, pair.fixed.grid.points()[pair.fixed_mask.data != 0]
    center = lung.mean(0)
    low = [*center[:2].tolist(), lung[:, 2].min().item() + 40]
    breath = smooth_deformation(15.0, center=low, wavelength_mm=180, radius_mm=200, seed=seed)
    fine = smooth_deformation(
        4.0, center=center.tolist(), wavelength_mm=60, radius_mm=140, seed=seed + 1000
    )
    random = torch.Generator().manual_seed(seed)
    angles_deg = 6 * torch.rand(3, generator=random) - 3
    shift_mm = 20 * torch.rand(3, generator=random) - torch.tensor([10.0, 10.0, -10.0])
    truth = compose(rigid(angles_deg.tolist(), shift_mm.tolist(), center.tolist()), breath, fine)
    origin = [o + s for o, s in zip(grid.origin, shift_mm.tolist(), strict=True)]
    onto = Grid(grid.shape, grid.spacing, origin, grid.direction)
    return ImagePair(pair.fixed, *breathed(pair, truth, onto, random)), truth


def breathed(pair: ImagePair, truth: Transform, onto: Grid, random: torch.Generator) -> Iterator:
    """The moving image, the fixed mask, and the moving mask that the truth makes of the fixed one."""
    back = DisplacementField.sampled(truth.inverse(), onto)
    mask = warp(pair.fixed_mask, back, onto=onto)
    moved = warp(pair.fixed, back, onto=onto, interpolation="cubic", default=OUTSIDE_HU).data[0]
    volume = jacobian_determinant(back, onto).data[0]  # of the fixed lung by that of the moving one
    thinned = (moved + 1000) * volume - 1000
    data = torch.where((mask.data != 0) & (moved < -300), thinned, moved)
    data = (data + NOISE_HU * torch.randn(onto.shape, generator=random)).clamp(OUTSIDE_HU, 3000)
    data = data.masked_fill(moved < -1500, OUTSIDE_HU)
    yield Image(data, onto)
    yield pair.fixed_mask
    yield mask


def elastix(method, *, whole: bool = False) -> Arm:
    """A method of ours: one stage from the affine start, or the whole of it from nothing."""

    def arm(pair: ImagePair, affine: Transform) -> tuple[Transform, float]:
        start = time.perf_counter()
        found = method.register(pair, IDENTITY if whole else affine).transform
        return found, time.perf_counter() - start

    return arm


def elastix_default(folder: Path) -> Arm:
    """The B-spline map that elastix itself proposes, untouched."""
    path = folder / "default_bspline.txt"
    subprocess.run([sys.executable, "-c", DEFAULT_MAP, str(path)], check=True)
    return elastix(Elastix((str(path),), schedule="elastix", threads=THREADS))


class Ants:
    """ANTs' SyN with its own settings, in a process that has it loaded."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._child = subprocess.Popen(
            [os.environ.get("ANTS_PYTHON", sys.executable), "-c", ANTS],
            env={**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(THREADS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._child.stdout.readline().strip()  # empty where ants is not installed

    def __call__(self, pair: ImagePair, affine: Transform) -> tuple[Transform, float]:
        for name in ("fixed", "moving"):
            write_image(self._folder / f"{name}.nii.gz", getattr(pair, name))
        write_image(self._folder / "fm.nii.gz", pair.fixed_mask)
        write_image(self._folder / "mm.nii.gz", pair.moving_mask)
        write_transform(self._folder / "affine.tfm", affine)
        self._child.stdin.write(f"{self._folder}\n")
        self._child.stdin.flush()
        seconds, files = json.loads(self._child.stdout.readline())
        field = next(file for file in files if file.endswith("Warp.nii.gz"))
        return compose(affine, read_transform(field)), seconds


def score(arm: str, pair: ImagePair, transform: Transform, error_mm: Tensor, seconds) -> Row:
    grid, lung = pair.fixed.grid, pair.fixed_mask
    field = DisplacementField.sampled(transform, grid)
    determinant = jacobian_determinant(field, grid).data[0][lung.data != 0]
    folded = 100 * (determinant <= 0).double().mean().item()
    overlap = dice(lung, warp(pair.moving_mask, field, onto=grid))
    return Row(arm, error_mm, float(np.mean(list(overlap.values()))), folded, seconds)


def judged(pair: ImagePair, truth: Transform | tuple[LandmarkSet, LandmarkSet]):
    """What tells the error of a transform, from corresponding points or from the truth."""
    if isinstance(truth, tuple):
        return lambda transform: target_registration_error(transform, *truth)
    lung = pair.fixed.grid.points()[pair.fixed_mask.data != 0][::37]
    seen = lung[pair.moving.grid.contains(truth(lung))]
    return lambda transform: transform_error(transform, truth, seen)


def rows_of(pair: ImagePair, truth, arms: dict[str, Arm]) -> Iterator[Row]:
    """Before, after the affine stage, and by every arm."""
    error = judged(pair, truth)
    yield score("before", pair, IDENTITY, error(IDENTITY), None)
    method = with_settings(load_method("affine"), threads=THREADS)
    affine, seconds = elastix(method, whole=True)(pair, IDENTITY)
    yield score("rigid and affine", pair, affine, error(affine), seconds)
    for name, arm in arms.items():
        seen = pair
        if "without" in name:
            seen = replace(pair, moving_mask=None)
            seen = replace(seen, fixed_mask=None) if "masks" in name else seen
        found, seconds = arm(seen, affine)
        row = score(name, pair, found, error(found), seconds)
        print(line(cells(row)), flush=True)
        yield row


def cells(row: Row) -> list[str]:
    spread = np.percentile(row.error_mm.numpy(), [50, 95, 100])
    numbers = [f"{value:.2f}" for value in (row.error_mm.mean().item(), *spread)]
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    return [row.arm, *numbers, f"{row.dice:.4f}", f"{row.folding_percent:.3f}", seconds]


def line(cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(title: str, rows: list[list[str]]) -> str:
    errors = ["mean mm", "median mm", "95 % mm", "max mm"]
    names = [title, *errors, "Dice of the lung", "folds in the lung %", "s"]
    lines = [line(names), "|---" * len(names) + "|", *map(line, rows)]
    return "\n".join(lines)


def over_seeds(rows: list[Row]) -> list[list[str]]:
    """A line for each arm: the means over the deformations, and the largest error of all."""
    lines = []
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        errors = [row.error_mm.numpy() for row in mine]
        means = [e.mean() for e in errors]
        spread = [np.mean([np.percentile(e, p) for e in errors]) for p in (50, 95)]
        numbers = [f"{np.mean(means):.2f} ({min(means):.2f} to {max(means):.2f})"]
        numbers += [f"{value:.2f}" for value in (*spread, max(e.max() for e in errors))]
        quality = [
            f"{np.mean([r.dice for r in mine]):.4f}",
            f"{np.mean([r.folding_percent for r in mine]):.3f}",
        ]
        known = [row.seconds for row in mine if row.seconds is not None]
        lines.append([arm, *numbers, *quality, f"{np.median(known):.1f}" if known else ""])
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="known deformations, from seed 1")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    warm_up(THREADS)
    pair, *points = read_pair(Path(os.environ["HYBRIDREG_DATA"]) / "lung_ct_elastix")
    ours = elastix(with_settings(load_method("lung-ct"), threads=THREADS), whole=True)
    general = elastix(with_settings(load_method("bspline"), threads=THREADS), whole=True)
    with tempfile.TemporaryDirectory() as name:
        arms = {"lung-ct, whole preset": ours, "elastix default": elastix_default(Path(name))}
        ants = Ants(Path(name))
        if ants.version:
            arms["ANTs SyN"] = ants
        without = {"lung-ct without moving mask": ours, "lung-ct without masks": ours}
        tried = {**arms, "bspline, whole preset": general, **without}
        real = [cells(row) for row in rows_of(pair, tuple(points), tried)]
        known = []
        for seed in range(1, options.seeds + 1):
            print(f"known deformation {seed}", flush=True)
            known += rows_of(*known_pair(pair, seed), arms)
    tables = [table("follow-up onto baseline", real)]
    tables.append(table(f"{options.seeds} known deformations", over_seeds(known)))
    TABLE.write_text("\n\n".join(tables) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
