"""How surely `brain-ct-mr` aligns CT and MR of one person, compared with alternatives.

Stacks: the test persons of harvard_aanlib, aligned by the atlas, 14 to 20 slices of 1 x 1 x 5 mm.
The moving one is turned by up to 15 degrees about each axis and shifted by up to 20 mm along each,
about the middle of the head and in its header alone. Every alignment that is found is compared with
the one found without that, mean distance over the voxels of the head: within 2 mm it was recovered.
And so with 30 % of the CT's slices cut off below or above. Phantom: against the exact truth.

Verdicts: what hybridreg says of the atlas's own alignment and of the same perturbed as above,
either image fixed, and of another person's MR on a CT.

Registrations run by `hybridreg.compare` and are kept in the folder of --out; the true transform of
a case is the perturbation. Verdicts are given to alignments that no method made. Times are of the
registration, images in memory to a transform in memory, of the machine as loaded as it was (those
of the table: `--workers 1 --threads 2`, nothing else running). ANTs runs in the Python that
ANTS_PYTHON names, by default in this one.

    HYBRIDREG_DATA=... python examples/benchmarks/brain_ct_mr.py [--cases 20 37] [--repeats 20]
    HYBRIDREG_DATA=... python examples/benchmarks/brain_ct_mr.py --verdicts
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from peers import elastix_default
from sections import table, write_section
from torch import Tensor

from hybridreg.cases import Case, ImagePair
from hybridreg.cluster import Limits, Local
from hybridreg.comparison import compare
from hybridreg.comparison.entries import folder_of
from hybridreg.comparison.results import Comparison
from hybridreg.config import load_intent
from hybridreg.decomposition import decompose
from hybridreg.images import Image
from hybridreg.io.images import read_image, write_image
from hybridreg.io.output import TRANSFORM
from hybridreg.io.tables import CaseRow
from hybridreg.io.transforms import read_transform, write_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.peers.ants import AntsSyn
from hybridreg.phantoms import head_case
from hybridreg.preprocessing import foreground
from hybridreg.quality import judge, similarity
from hybridreg.records import Record
from hybridreg.transforms import IDENTITY, AffineTransform, Transform, rigid

TEST = [20, 37, 41]
TURN_DEG, SHIFT_MM = 15.0, 20.0
RECOVERED_MM = 2.0
WRONG_MM = 10.0  # perturbations by less than that are not counted as wrong
CROPS = {
    "whole": (0.0, 1.0),
    "lower 30 % of CT cut": (0.3, 1.0),
    "upper 30 % of CT cut": (0.0, 0.7),
}
PRESET = "brain-ct-mr"
HERE = AffineTransform(torch.eye(4))
TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(
    [
        "CT to MR of one head: `brain-ct-mr` and others",
        *__doc__.split("\n\n")[1:3],
        """\
*Unperturbed to atlas*: how far the alignment found without perturbation is from the atlas's own,
which is not exact itself; in a line for all cases the largest. *Median*, *95 %*, *max*: of the
perturbed ones, from the unperturbed one.""",
    ]
)

STACKS = Path(os.environ.get("HYBRIDREG_DATA", ".")) / "harvard_aanlib" / "stacks_ct_mr"


@dataclass(frozen=True)
class Found:
    """One alignment: mm from the one without perturbation and from the atlas's;
    infinite if it failed.
    """

    record: Record
    from_run_mm: float
    from_atlas_mm: float


@dataclass(frozen=True)
class SimpleItk:
    """SimpleITK as in its own example of mutual information, rigid and at three levels."""

    threads: int = 1

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(self.threads)
        return RegistrationResult(_by_simpleitk(pair))


def _by_simpleitk(pair: ImagePair) -> AffineTransform:
    fixed, moving = _to_sitk(pair.fixed), _to_sitk(pair.moving)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=24)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=200
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    found = sitk.Euler3DTransform(start)
    matrix = np.reshape(found.GetMatrix(), (3, 3))
    return AffineTransform.from_parts(matrix, found.GetTranslation(), found.GetCenter())


def _to_sitk(image: Image) -> sitk.Image:
    converted = sitk.GetImageFromArray(image.data[0].numpy())
    converted.SetSpacing(image.grid.spacing)
    converted.SetOrigin(image.grid.origin)
    converted.SetDirection(np.ravel(image.grid.direction).tolist())
    return converted


def perturbations(count: int, seed: int) -> list[tuple[list[float], list[float]]]:
    """Angles in degrees and shifts in mm, each uniform."""
    generator = np.random.default_rng(seed)
    limits = np.array([[TURN_DEG], [SHIFT_MM]])
    return [tuple(generator.uniform(-limits, limits, (2, 3)).tolist()) for _ in range(count)]


def placed(image: Image, transform: AffineTransform) -> Image:
    """The image, elsewhere: what was at x is at transform(x). Only the header changes."""
    grid = image.grid
    origin = transform(torch.tensor(grid.origin, dtype=torch.float64))
    axes = transform.linear @ torch.tensor(grid.direction, dtype=torch.float64)
    moved = replace(grid, origin=tuple(origin.tolist()), direction=axes.numpy())
    return Image(image.data, moved)


def cropped(image: Image, below: float, above: float) -> Image:
    """The slices from one share of the stack to another."""
    count, *plane = image.grid.shape
    first, last = round(below * count), round(above * count)
    return Image(image.data[:, first:last], image.grid.crop((first, 0, 0), (last, *plane)))


def distance_mm(a: Transform, b: Transform, points: Tensor) -> float:
    return (a(points) - b(points)).norm(dim=-1).mean().item()


def verdict(pair: ImagePair, transform: AffineTransform) -> str:
    """What hybridreg says of an alignment, knowing of no start that it should be better than."""
    place, fit = decompose(transform, pair.fixed.grid.center), similarity(pair, transform)
    return judge(
        pair,
        transform,
        similarity=(fit, fit),
        folding_percent=0.0,
        affine=place,
        start=place,
        intent=load_intent(PRESET),
    ).status


def with_metal(image: Image) -> Image:
    """A piece of metal of 1 cm in a CT of the phantom: 20000 HU."""
    place = image.grid.center + torch.tensor([30.0, -20.0, -25.0], dtype=torch.float64)
    near = (image.grid.points() - place).norm(dim=-1) < 5
    return Image(image.data.masked_fill(near, 20000.0), image.grid)


def with_padding(image: Image) -> Image:
    """-2048 outside a round field of view of 20 cm, as some scanners write."""
    grid = image.grid
    axes = torch.tensor(grid.direction, dtype=torch.float64)
    across = ((grid.points() - grid.center) @ axes)[..., :2].norm(dim=-1)
    return Image(image.data.masked_fill(across > 100, -2048.0), grid)


VARIANTS: dict[str, Callable[[Image], Image]] = {
    "as it is": lambda ct: ct,
    "metal, 20000 HU": with_metal,
    "-2048 outside the field of view": with_padding,
    "both": lambda ct: with_metal(with_padding(ct)),
}


@cache
def head_points(case: int) -> Tensor:
    """Of the head, by the MR: it shows the scalp too, CT windowed for brain does not."""
    image = read_image(STACKS / f"case{case}_mr.nii.gz")
    return image.grid.points()[foreground(image).data != 0][::97]


def perturbation(case: int, number: int) -> AffineTransform:
    """The perturbation of so many; none for 0."""
    nothing = ([0.0] * 3, [0.0] * 3)
    return rigid(*[nothing, *perturbations(number, case)][-1], head_points(case).mean(0))


def stack_case(folder: Path, case: int, fixed: str, crop: str, number: int) -> CaseRow:
    """One person's stacks, the moving one perturbed; written into a folder."""
    images = {side: read_image(STACKS / f"case{case}_{side}.nii.gz") for side in ("ct", "mr")}
    images["ct"] = cropped(images["ct"], *CROPS[crop])
    there = perturbation(case, number)
    pair = ImagePair(images[fixed], placed(images["mr" if fixed == "ct" else "ct"], there))
    name = f"case {case} {fixed} {list(CROPS).index(crop)} {number}"
    more = {"case": str(case), "fixed on": fixed, "slices": crop, "number": str(number)}
    return written(folder, name, pair, there, more)


@cache
def phantom(seed: int) -> Case:
    """A phantom head, CT onto MR."""
    angles, shift = perturbations(1, seed)[0]
    return head_case(angles_deg=angles, translation_mm=shift, seed=seed)


def phantom_case(folder: Path, seed: int, variant: str, fixed: str) -> CaseRow:
    """A phantom's CT, changed, onto its MR or the other way round."""
    case = phantom(seed)
    pair, truth = (
        ImagePair(VARIANTS[variant](case.pair.fixed), case.pair.moving),
        case.true_transform,
    )
    if fixed == "mr":
        pair, truth = ImagePair(pair.moving, pair.fixed), truth.inverse()
    name = f"phantom {seed} {list(VARIANTS).index(variant)} {fixed}"
    more = {"case": str(seed), "fixed on": fixed, "variant": variant}
    return written(folder, name, pair, truth, more)


def written(
    folder: Path, name: str, pair: ImagePair, truth: Transform, more: Mapping[str, str]
) -> CaseRow:
    paths = {side: folder / f"{name} {side}.nii.gz" for side in ("fixed", "moving")}
    for side, path in paths.items():
        write_image(path, getattr(pair, side))
    write_transform(folder / f"{name}.tfm", truth)
    return CaseRow(name, **paths, truth=folder / f"{name}.tfm", subject=more["case"], more=more)


def alignments(done: Comparison) -> Iterator[Found]:
    """Of all records; the one without perturbation comes first of its case."""
    alone: dict[tuple[str, ...], Tensor] = {}
    for record in done.records:
        if record.status != "done":
            yield Found(record, np.inf, np.inf)
            continue
        case, points = int(record.more["case"]), head_points(int(record.more["case"]))
        found = read_transform(folder_of(done.folder, record.name, record.method) / TRANSFORM)
        back = perturbation(case, int(record.more["number"])).inverse()(found(points))
        first = alone.setdefault((record.method, *group_of(record), record.more["case"]), back)
        yield Found(record, *((back - at).norm(dim=-1).mean().item() for at in (first, points)))


def group_of(record: Record) -> tuple[str, str]:
    return record.more["fixed on"], record.more["slices"]


def stack_table(found: Sequence[Found]) -> str:
    """A line for each method, role, crop and case, and one for all cases."""
    names = "method|fixed|slices|case|unperturbed to atlas mm|within 2 mm|median mm|95 % mm|max mm"
    lines = []
    groups: dict[tuple[str, ...], dict[str, list[Found]]] = {}
    for each in found:
        cases = groups.setdefault((each.record.method, *group_of(each.record)), {})
        cases.setdefault(each.record.more["case"], []).append(each)
    for (method, fixed, crop), cases in groups.items():
        for case, part in [*cases.items(), ("**all**", sum(cases.values(), []))]:
            alone = [each.from_atlas_mm for each in part if each.record.more["number"] == "0"]
            errors = [each.from_run_mm for each in part if each.record.more["number"] != "0"]
            near = f"{np.mean(np.array(errors) <= RECOVERED_MM):.0%} of {len(errors)}"
            spread = [f"{value:.2f}" for value in np.percentile(errors, [50, 95, 100])]
            lines.append([method, fixed.upper(), crop, case, f"{max(alone):.2f}", near, *spread])
    return table(names.split("|"), lines)


def times_table(found: Sequence[Found]) -> str:
    seconds: dict[tuple[str, str], list[float]] = {}
    for each in found:
        if each.record.register_s and each.record.more["slices"] == "whole":
            key = (each.record.method, each.record.more["fixed on"].upper())
            seconds.setdefault(key, []).append(each.record.register_s)
    lines = [
        [*key, len(s), f"{statistics.median(s):.1f}", f"{max(s):.1f}"] for key, s in seconds.items()
    ]
    return table(["method", "fixed", "runs", "median s", "longest s"], lines)


def evaluated(case: int, repeats: int) -> Iterator[tuple[str, str]]:
    """The verdicts for one person: the atlas's alignment, and wrong ones."""
    images = {side: read_image(STACKS / f"case{case}_{side}.nii.gz") for side in ("ct", "mr")}
    points = head_points(case)
    others = {other: read_image(STACKS / f"case{other}_mr.nii.gz") for other in TEST}
    for fixed, moving in (("ct", "mr"), ("mr", "ct")):
        pair = ImagePair(images[fixed], images[moving])
        yield "the atlas's alignment", verdict(pair, HERE)
        for angles, shift in perturbations(repeats, case):
            off = rigid(angles, shift, points.mean(0))
            if distance_mm(off, IDENTITY, points) > WRONG_MM:
                yield f"perturbed by more than {WRONG_MM:g} mm", verdict(pair, off)
    for other, image in others.items():
        if other != case:
            yield "another person's MR", verdict(ImagePair(images["ct"], image), HERE)


def verdict_table(said: list[tuple[str, str]]) -> str:
    lines = []
    for what in dict.fromkeys(what for what, _ in said):
        found = [status for kind, status in said if kind == what]
        lines.append([what, len(found), *map(found.count, ("pass", "warn", "fail"))])
    return table(["alignments", "number", "pass", "warn", "fail"], lines)


def phantom_table(done: Comparison) -> str:
    """Mean distances to the truth over the head, from the CT."""
    errors: dict[str, list[float]] = {}
    for record in done.records:
        case = phantom(int(record.more["case"]))
        points = case.pair.fixed.grid.points()[case.fixed_labels.data != 0][::97]
        found = read_transform(folder_of(done.folder, record.name, record.method) / TRANSFORM)
        found = found.inverse() if record.more["fixed on"] == "mr" else found
        mean = distance_mm(found, case.true_transform, points)
        errors.setdefault(record.more["variant"], []).append(mean)
    lines = [
        [name, len(values), f"{statistics.median(values):.3f}", f"{max(values):.3f}"]
        for name, values in errors.items()
    ]
    return table(["phantom CT", "alignments", "median mm", "max mm"], lines)


def others(folder: Path, threads: int) -> dict[str, Any]:
    ants = AntsSyn("Rigid", affine="", python=os.environ.get("ANTS_PYTHON", ""))
    default = elastix_default("rigid", folder, threads)
    methods = {"elastix default": default, "SimpleITK": SimpleItk(threads)}
    return methods if ants.missing() else {**methods, "ANTs Rigid": ants}


def registered(options: argparse.Namespace):
    """Registers everything and writes the tables as they grow: a run may be interrupted."""
    images = options.out / "images"
    images.mkdir(parents=True, exist_ok=True)

    def compared(name: str, cases: Sequence[CaseRow], methods: dict[str, Any]) -> Comparison:
        how = {"place": Local(options.workers), "limits": Limits(threads=options.threads)}
        done = compare(cases, methods, options.out / name, seed=0, report=False, **how)
        unasked = {each.name for each in done.contenders if each.added}
        return replace(done, entries=[e for e in done.entries if e.record.method not in unasked])

    phantoms = [
        phantom_case(images, seed, variant, fixed)
        for seed in range(options.phantoms)
        for variant in VARIANTS
        for fixed in ("ct", "mr")
    ]
    if phantoms:
        done = compared("phantoms", phantoms, {PRESET: PRESET})
        write_section(options.table, "Phantom", phantom_table(done), head=HEAD)
    rows = [
        stack_case(images, case, fixed, crop, number)
        for crop in (CROPS if options.crop_repeats else ["whole"])
        for fixed in ("ct", "mr")
        for case in options.cases
        for number in range(1 + (options.repeats if crop == "whole" else options.crop_repeats))
    ]
    few = [row for row in rows if (row.more["fixed on"], row.more["slices"]) == ("ct", "whole")]
    few = [row for row in few if int(row.more["number"]) <= options.peer_repeats]
    found: list[Found] = []
    for name, cases, methods in (
        (PRESET, rows, {PRESET: PRESET}),
        ("others", few, others(options.out.absolute(), options.threads)),
    ):
        found += alignments(compared(name, cases, methods))
        write_section(options.table, "Stacks", stack_table(found), head=HEAD)
        write_section(options.table, "Times", times_table(found), head=HEAD)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="+", default=TEST)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--peer-repeats", type=int, default=8, help="of the first of the same")
    parser.add_argument("--crop-repeats", type=int, default=3)
    parser.add_argument("--phantoms", type=int, default=3)
    parser.add_argument("--verdicts", action="store_true", help="judge only, register nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=Path("comparisons/brain_ct_mr"))
    parser.add_argument("--table", type=Path, default=TABLE, help="file of the tables")
    options = parser.parse_args()
    if options.verdicts:
        said = [pair for case in options.cases for pair in evaluated(case, options.repeats)]
        write_section(options.table, "Verdicts", verdict_table(said), head=HEAD)
    else:
        registered(options)


if __name__ == "__main__":
    main()
