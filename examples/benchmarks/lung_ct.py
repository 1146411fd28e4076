"""How well `lung-ct` aligns two breathing states of one person, compared with alternatives.

Real pair: lung_ct_elastix, follow-up onto baseline, evaluated by the 51 checked points (they lie on
voxels and half voxels of 1.4 x 1.4 x 2.5 mm, and one of them no method brings nearer than 13 mm),
the overlap of the lung masks and the folds inside the lung. The preset was tuned on this very pair,
the only one at hand, and on known deformations of other seeds.

Known deformations: the baseline deformed by up to 15 mm near the diaphragm and by up to 4 mm finer
elsewhere, turned, shifted by up to 30 mm, with 25 HU of noise and a density of the lung that
follows its volume. Mean distance to the truth over the voxels of the lung.

Everyone but `lung-ct` and `bspline` follows the same rigid and affine stage (`affine`) and is given
both masks. ANTs runs in the Python that ANTS_PYTHON names, by default in this.

Everything is run by `hybridreg.compare`: finished registrations are kept in the folder of --out
with their pages. Times are of the registration, images in memory to a transform in memory, the
affine included, of the machine as loaded as it was; for those of the table give `--workers 1
--threads 2`.

    HYBRIDREG_DATA=... python examples/benchmarks/lung_ct.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparisons import lung
from peers import elastix_default
from sections import table, write_section

from hybridreg.cases import ImagePair
from hybridreg.cluster import Limits, Local
from hybridreg.comparison import Settings, compare
from hybridreg.comparison.entries import folder_of
from hybridreg.comparison.results import Comparison
from hybridreg.config import load_method
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.images import read_image, read_labels, write_image
from hybridreg.io.output import RESULT
from hybridreg.io.tables import CaseRow
from hybridreg.io.transforms import write_transform
from hybridreg.methods.combine import Chain
from hybridreg.methods.peers.ants import AntsSyn
from hybridreg.phantoms import smooth_deformation
from hybridreg.transforms import DisplacementField, Transform, compose, rigid
from hybridreg.warping import jacobian_determinant, warp

OUTSIDE_HU = -2048.0  # of the field of view
NOISE_HU = 25.0
TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["`lung-ct` compared with alternatives", *__doc__.split("\n\n")[1:4]])
OURS = "lung-ct"
ERRORS = ("mean_mm", "median_mm", "p95_mm", "max_mm")
MEASURES = ("mean mm", "median mm", "95 % mm", "max mm", "Dice of the lung", "folds in the lung %")


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
    """The moving image, the fixed mask, and the moving mask that the truth makes of the fixed
    one.
    """
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


def known_case(folder: Path, real: CaseRow, seed: int) -> CaseRow:
    """The baseline onto itself through a known breath, written into a folder once."""
    files = {"moving": "moving.nii.gz", "moving_mask": "mask.nii.gz", "truth": "truth.h5"}
    files = {key: folder / f"{seed} {name}" for key, name in files.items()}
    files["moving_labels"] = files["moving_mask"]
    if not files["truth"].exists():
        folder.mkdir(parents=True, exist_ok=True)
        fixed, mask = read_image(real.fixed), read_labels(real.fixed_mask)
        pair, truth = known_pair(ImagePair(fixed, fixed, mask), seed)
        write_image(files["moving"], pair.moving)
        write_image(files["moving_mask"], pair.moving_mask)
        write_transform(files["truth"], DisplacementField.sampled(truth, fixed.grid))
    without = dict.fromkeys(("fixed_landmarks", "moving_landmarks"))
    return replace(real, name=f"deformation {seed}", **{**files, **without})


def methods_of(folder: Path, threads: int) -> dict[str, Any]:
    """What is compared everywhere; ANTs where it is installed."""
    affine = load_method("affine")
    ants = AntsSyn(affine="", python=os.environ.get("ANTS_PYTHON", ""))
    after = {"elastix default": elastix_default("bspline", folder, threads)}
    after |= {} if ants.missing() else {"ANTs SyN": ants}
    chains = {name: Chain((affine, method)) for name, method in after.items()}
    return {OURS: OURS, "affine": affine, **chains}


def lines(found: Comparison) -> Iterator[list[str]]:
    """A line for each method: means over the cases, and the largest error of all."""
    for method in dict.fromkeys(record.method for record in found.records):
        done = [r for r in found.records if r.method == method and r.status == "done"]
        paths = [folder_of(found.folder, record.name, method) / RESULT for record in done]
        scores = [json.loads(path.read_text())["scores"]["after"] for path in paths]
        errors = np.array([[(s["truth"] or s["landmarks"])[key] for key in ERRORS] for s in scores])
        if len(errors):
            means = [*errors.mean(0)[:3], errors[:, 3].max()]
            cells = [f"{value:.2f}" for value in means]
            if len(errors) > 1:
                cells[0] += f" ({errors[:, 0].min():.2f} to {errors[:, 0].max():.2f})"
            overlap = np.mean([s["dice"]["mean"] for s in scores])
            folds = np.mean([s["jacobian"]["folding_percent"] for s in scores])
            yield [method, *cells, f"{overlap:.4f}", f"{folds:.3f}"]


def reached(real: Comparison, known: Comparison) -> str:
    """The requirements, and the results of `lung-ct` with both masks."""
    (ours,) = [record.scores for record in real.records if record.method == OURS]
    errors = [r.scores["truth_mean_mm"] for r in known.records if r.method == OURS]
    rows = [
        ["51 points within 1.5 mm (mean)", f"{ours['tre_mean_mm']:.2f} mm"],
        ["known deformations within 1 mm (mean)", f"{min(errors):.2f} to {max(errors):.2f} mm"],
        ["Dice of the lungs at least .97", f"{ours['dice']:.3f}"],
    ]
    return table(["requirement", "result"], rows)


def times(found: Comparison) -> str:
    rows = [(r.method, f"{r.register_s:.1f}") for r in found.records if r.register_s]
    return table(["method", "s"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="known deformations, from seed 1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=Path("comparisons/lung_ct"))
    parser.add_argument("--table", type=Path, default=TABLE, help="file of the tables")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    (case,) = lung(Path(os.environ["HYBRIDREG_DATA"])).cases
    methods = methods_of(options.out.absolute(), options.threads)

    def compared(name: str, cases: Sequence[CaseRow], methods: dict[str, Any]) -> Comparison:
        return compare(
            cases,
            methods,
            options.out / name,
            settings=Settings(score="tre_mean_mm" if cases[0].fixed_landmarks else "truth_mean_mm"),
            seed=0,
            place=Local(options.workers),
            limits=Limits(threads=options.threads),
            callback=lambda ended: print(ended.name, ended.reason, flush=True),
        )

    def write(title: str, text: str):
        write_section(options.table, title, text, head=HEAD)

    real = compared("real pair", [case], {**methods, "bspline": "bspline"})
    found = [*lines(real)]
    for what, masks in (("moving mask", ["moving_mask"]), ("masks", ["fixed_mask", "moving_mask"])):
        fewer = replace(case, **dict.fromkeys(masks))
        without = compared(f"real pair without {what}", [fewer], {OURS: OURS})
        found += [[f"{OURS} without {what}", *row[1:]] for row in lines(without) if row[0] == OURS]
    write("Follow-up onto baseline", table(["method", *MEASURES], found))
    write("Times", times(real))
    seeds = range(1, options.seeds + 1)
    cases = [known_case(options.out / "deformed", case, seed) for seed in seeds]
    known = compared("known deformations", cases, methods)
    write("Known deformations", table([f"{options.seeds} deformations", *MEASURES], lines(known)))
    write("Requirements", reached(real, known))


if __name__ == "__main__":
    main()
