"""How well `lung-ct` aligns two breathing states of one person, compared with alternatives.

Real pair: lung_ct_elastix, follow-up onto baseline, evaluated by the 51 checked points (they lie on
voxels and half voxels of 1.4 x 1.4 x 2.5 mm, and one of them no method brings nearer than 13 mm), the
overlap of the lung masks and the folds inside the lung. The preset was tuned on this very pair, the
only one at hand, and on known deformations of other seeds.

Known deformations: the baseline deformed by up to 15 mm near the diaphragm and by up to 4 mm finer
elsewhere, turned, shifted by up to 30 mm, with 25 HU of noise and a density of the lung that follows
its volume. Mean distance to the truth over the voxels of the lung whose true place the moving image
shows.

Everyone but `lung-ct` and `bspline` starts from the same rigid and affine stage (`affine` with both
masks) and is given both masks. ANTs runs in the Python that ANTS_PYTHON names, by default in this.

Rows are printed as they come, tables at the end. `--times` measures times instead: of the real pair,
all methods in turn, from arrays in memory to a transform in memory (ANTs: from files it has read),
warm, on 2 threads, median of 3, without the affine stage where it is shared.

It does not run by `hybridreg compare`: the methods share one affine stage, and folds count inside the
lung. The preset against others from the images' positions is in comparisons.md.

    HYBRIDREG_DATA=... python examples/benchmarks/lung_ct.py [--seeds 5] [--threads 1] [--times]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peers import AntsProcess, elastix_default
from sections import line, table, write_section
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.config import load_method, with_settings
from hybridreg.evaluation import dice, target_registration_error, transform_error
from hybridreg.geometry import Grid
from hybridreg.images import Image, LandmarkSet
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.landmarks import read_landmarks
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.methods.elastix import warm_up
from hybridreg.phantoms import smooth_deformation
from hybridreg.transforms import IDENTITY, DisplacementField, Transform, compose, rigid
from hybridreg.warping import jacobian_determinant, warp

OUTSIDE_HU = -2048.0  # of the field of view
NOISE_HU = 25.0
TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["`lung-ct` compared with alternatives", *__doc__.split("\n\n")[1:4]])
ERRORS = ("mean mm", "median mm", "95 % mm", "max mm")
MEASURES = (*ERRORS, "Dice of the lung", "folds in the lung %")

Arm = Callable[[ImagePair, Transform], tuple[Transform, float]]  # from an affine start; seconds

ANTS = """
masks = {name: ants.image_read(f"{f}/{name}.nii.gz") for name in ("mask", "moving_mask")}
start = time.perf_counter()
done = ants.registration(
    fixed, moving, type_of_transform="SyNOnly", initial_transform=f"{f}/affine.tfm", **masks,
    mask_all_stages=True, random_seed=1, outprefix=f"{f}/out_",
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


class Ants(AntsProcess):
    """ANTs' SyN with its own settings."""

    def __call__(self, pair: ImagePair, affine: Transform) -> tuple[Transform, float]:
        images = {"fixed": pair.fixed, "moving": pair.moving}
        images |= {"mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
        for name, image in images.items():
            write_image(self.folder / f"{name}.nii.gz", image)
        write_transform(self.folder / "affine.tfm", affine)
        seconds, files = self.ask()
        field = next(file for file in files if file.endswith("Warp.nii.gz"))
        return compose(affine, read_transform(field)), seconds


def score(arm: str, pair: ImagePair, transform: Transform, error_mm: Tensor) -> Row:
    grid, lung = pair.fixed.grid, pair.fixed_mask
    field = DisplacementField.sampled(transform, grid)
    determinant = jacobian_determinant(field, grid).data[0][lung.data != 0]
    folded = 100 * (determinant <= 0).double().mean().item()
    overlap = dice(lung, warp(pair.moving_mask, field, onto=grid))
    return Row(arm, error_mm, float(np.mean(list(overlap.values()))), folded)


def evaluated(pair: ImagePair, truth: Transform | tuple[LandmarkSet, LandmarkSet]):
    """What tells the error of a transform, from corresponding points or from the truth."""
    if isinstance(truth, tuple):
        return lambda transform: target_registration_error(transform, *truth)
    lung = pair.fixed.grid.points()[pair.fixed_mask.data != 0][::37]
    seen = lung[pair.moving.grid.contains(truth(lung))]
    return lambda transform: transform_error(transform, truth, seen)


def rows_of(pair: ImagePair, truth, arms: dict[str, Arm], affine_arm: Arm) -> Iterator[Row]:
    """Before, after the affine stage, and by every arm; each is printed at once."""
    error = evaluated(pair, truth)
    affine, _ = affine_arm(pair, IDENTITY)
    for name, arm in {"before": None, "rigid and affine": None, **arms}.items():
        if arm is None:
            found = IDENTITY if name == "before" else affine
        else:
            found, _ = arm(without_masks(pair, name), affine)
        row = score(name, pair, found, error(found))
        print(line(cells(row)), flush=True)
        yield row


def without_masks(pair: ImagePair, arm: str) -> ImagePair:
    """What an arm is shown: its name says which masks it goes without."""
    if "without" in arm:
        pair = replace(pair, moving_mask=None)
    return replace(pair, fixed_mask=None) if "without masks" in arm else pair


def times(pair: ImagePair, arms: dict[str, Arm], affine_arm: Arm) -> str:
    """Seconds of each arm on one pair, median of 3; they take turns, the first warms up."""
    affine, _ = affine_arm(pair, IDENTITY)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(4):
        for name, arm in arms.items():
            seconds[name].append(arm(without_masks(pair, name), affine)[1])
    rows = [[name, f"{np.median(values[1:]):.1f}"] for name, values in seconds.items()]
    return table(["method", "s"], rows)


def cells(row: Row) -> list[str]:
    spread = np.percentile(row.error_mm.numpy(), [50, 95, 100])
    numbers = [f"{value:.2f}" for value in (row.error_mm.mean().item(), *spread)]
    return [row.arm, *numbers, f"{row.dice:.4f}", f"{row.folding_percent:.3f}"]


def reached(real: list[Row], known: list[Row]) -> str:
    """The requirements, and the results of `lung-ct` with both masks."""
    ours = "lung-ct, whole preset"
    (row,) = [row for row in real if row.arm == ours]
    errors = [each.error_mm.mean().item() for each in known if each.arm == ours]
    rows = [
        ["51 points within 1.5 mm (mean)", f"{row.error_mm.mean():.2f} mm"],
        ["known deformations within 1 mm (mean)", f"{min(errors):.2f} to {max(errors):.2f} mm"],
        ["Dice of the lungs at least .97", f"{row.dice:.3f}"],
    ]
    return table(["requirement", "result"], rows)


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
        lines.append([arm, *numbers, *quality])
    return lines


def arms_of(threads: int, folder: Path) -> dict[str, Arm]:
    """What is compared everywhere; ANTs where it is installed."""
    ours = elastix(with_settings(load_method("lung-ct"), threads=threads), whole=True)
    default = elastix(elastix_default("bspline", folder, threads))
    arms = {"lung-ct, whole preset": ours, "elastix default": default}
    ants = Ants(ANTS, folder, threads)
    return {**arms, "ANTs SyN": ants} if ants.version else arms


def more_arms(threads: int) -> dict[str, Arm]:
    """What is tried on the real pair besides."""
    ours, general = (
        elastix(with_settings(load_method(name), threads=threads), whole=True)
        for name in ("lung-ct", "bspline")
    )
    without = {"lung-ct without moving mask": ours, "lung-ct without masks": ours}
    return {"bspline, whole preset": general, **without}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="known deformations, from seed 1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", action="store_true", help="measure times, not accuracy")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warm_up(options.threads)
    pair, *points = read_pair(Path(os.environ["HYBRIDREG_DATA"]) / "lung_ct_elastix")
    affine = elastix(with_settings(load_method("affine"), threads=options.threads), whole=True)
    with tempfile.TemporaryDirectory() as name:
        arms = arms_of(options.threads, Path(name))
        if options.times:
            found = times(pair, arms | more_arms(options.threads), affine)
            write_section(TABLE, "Times", found, head=HEAD)
            return
        real = [*rows_of(pair, tuple(points), arms | more_arms(options.threads), affine)]
        known = []
        for seed in range(1, options.seeds + 1):
            print(f"known deformation {seed}", flush=True)
            known += rows_of(*known_pair(pair, seed), arms, affine)
    write_section(TABLE, "Requirements", reached(real, known), head=HEAD)
    found = table(["method", *MEASURES], map(cells, real))
    write_section(TABLE, "Follow-up onto baseline", found, head=HEAD)
    found = table([f"{options.seeds} deformations", *MEASURES], over_seeds(known))
    write_section(TABLE, "Known deformations", found, head=HEAD)


if __name__ == "__main__":
    main()
