"""How surely `brain-ct-mr` aligns CT and MR of one person, compared with alternatives.

Stacks: the test persons of harvard_aanlib, aligned by the atlas, 14 to 20 slices of 1 x 1 x 5 mm.
The moving one is turned by up to 15 degrees about each axis and shifted by up to 20 mm along each,
about the middle of the head and in its header alone. Every alignment that is found is compared with
the one found without that, mean distance over the voxels of the head: within 2 mm it was recovered.
And so with 30 % of the CT's slices cut off below or above. Phantom: against the exact truth.

Verdicts: what hybridreg says of the atlas's own alignment and of the same perturbed as above, either
image fixed, and of another person's MR on a CT.

Times are from arrays in memory to a transform in memory (ANTs: from files it has read), warm, on 2
threads, medians. ANTs runs in the Python that ANTS_PYTHON names, by default in this one.

It does not run by `hybridreg compare`: an alignment counts as recovered by the distance to the one that the
same method found without perturbation, and verdicts are given to alignments that no method made.

    HYBRIDREG_DATA=... python examples/benchmarks/brain_ct_mr.py [--cases 20 37] [--repeats 20]
    HYBRIDREG_DATA=... python examples/benchmarks/brain_ct_mr.py --verdicts
    HYBRIDREG_DATA=... python examples/benchmarks/brain_ct_mr.py --times
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from peers import AntsProcess, elastix_default
from sections import table, write_section
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.config import load_intent, load_method, with_settings
from hybridreg.decomposition import decompose
from hybridreg.images import Image
from hybridreg.io.images import read_image, write_image
from hybridreg.methods.base import RegistrationError
from hybridreg.phantoms import head_case
from hybridreg.preprocessing import foreground
from hybridreg.quality import judge, similarity
from hybridreg.transforms import IDENTITY, AffineTransform, Transform, rigid

THREADS = 2
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
        *__doc__.split("\n\n")[1:4],
        """\
*Unperturbed to atlas*: how far the alignment found without perturbation is from the atlas's own,
which is not exact itself; in a line for all cases the largest. *Median*, *95 %*, *max*: of the
perturbed ones, from the unperturbed one.""",
    ]
)

Arm = Callable[[ImagePair], Transform]  # fixed to moving

ANTS = """
done = ants.registration(fixed, moving, type_of_transform="Rigid", random_seed=1)
seconds = time.perf_counter() - start
found = ants.read_transform(done["fwdtransforms"][0])
print(json.dumps([seconds, *map(list, (found.parameters, found.fixed_parameters))]), flush=True)
"""


@dataclass(frozen=True)
class Found:
    """One alignment: mm from the one without perturbation and from the truth."""

    from_run_mm: float
    from_truth_mm: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """All alignments of one case by one arm; the first is the one without perturbation."""

    arm: str
    fixed: str
    crop: str
    case: str
    found: tuple[Found, ...]

    @property
    def perturbed_mm(self) -> list[float]:
        return [found.from_run_mm for found in self.found[1:]]


def ours(method) -> Arm:
    return lambda pair: method.register(pair).transform


def simpleitk(pair: ImagePair) -> Transform:
    """SimpleITK as in its own example of mutual information, rigid and at three levels."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)
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


class Ants(AntsProcess):
    """ANTs' rigid registration; knows how long it took itself."""

    seconds = 0.0

    def __call__(self, pair: ImagePair) -> Transform:
        write_image(self.folder / "fixed.nii.gz", pair.fixed)
        write_image(self.folder / "moving.nii.gz", pair.moving)
        self.seconds, parameters, center = self.ask()
        matrix = np.reshape(parameters[:9], (3, 3))
        return AffineTransform.from_parts(matrix, parameters[9:], center)


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


def attempt(arm: Arm, pair: ImagePair) -> tuple[Transform, float]:
    """The alignment and its seconds; an arm that gives up leaves the images where they lie."""
    start = time.perf_counter()
    try:
        found = arm(pair)
    except (RegistrationError, RuntimeError) as error:
        print(f"    gave up: {str(error)[:200]}", flush=True)
        found = IDENTITY
    seconds = time.perf_counter() - start
    return found, arm.seconds if isinstance(arm, Ants) else seconds


def run_stack(
    name: str, arm: Arm, case: int, *, fixed: str, crop: str, repeats: int, folder: Path
) -> Row:
    """One person's stacks, as they are and perturbed."""
    images = {side: read_image(folder / f"case{case}_{side}.nii.gz") for side in ("ct", "mr")}
    # The MR shows the scalp too; CT windowed for brain does not. Both lie on one grid.
    head = foreground(images["mr"]).data != 0
    points = images["mr"].grid.points()[head][::97]
    images["ct"] = cropped(images["ct"], *CROPS[crop])
    moving = images["mr" if fixed == "ct" else "ct"]
    nothing = ([0.0] * 3, [0.0] * 3)
    found, backs = [], []
    for angles, shift in [nothing, *perturbations(repeats, case)]:
        perturbation = rigid(angles, shift, points.mean(0))
        pair = ImagePair(images[fixed], placed(moving, perturbation))
        transform, seconds = attempt(arm, pair)
        back = perturbation.inverse()(transform(points))
        backs.append(back)
        from_run, from_truth = (
            (back - there).norm(dim=-1).mean().item() for there in (backs[0], points)
        )
        found.append(Found(from_run, from_truth, seconds))
    return Row(name, fixed, crop, str(case), tuple(found))


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


def phantom_errors(arm: Arm, seeds: range) -> Iterator[tuple[str, float]]:
    """Mean distance in mm to the truth over the head: each variant, each role."""
    for seed in seeds:
        angles, shift = perturbations(1, seed)[0]
        case = head_case(angles_deg=angles, translation_mm=shift, seed=seed)
        fixed, moving = case.pair.fixed, case.pair.moving
        points = fixed.grid.points()[case.fixed_labels.data != 0][::97]
        for name, change in VARIANTS.items():
            for pair in (ImagePair(change(fixed), moving), ImagePair(moving, change(fixed))):
                found = arm(pair)
                found = found if pair.moving is moving else found.inverse()
                yield name, distance_mm(found, case.true_transform, points)


def stack_table(rows: list[Row]) -> str:
    """A line for each row, and one for all of an arm, role and crop."""
    names = "method|fixed|slices|case|unperturbed to atlas mm|within 2 mm|median mm|95 % mm|max mm"
    lines = []
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.arm, row.fixed, row.crop), []).append(row)
    for (arm, fixed, crop), members in groups.items():
        for case, part in [*((row.case, [row]) for row in members), ("**all**", members)]:
            errors = [error for row in part for error in row.perturbed_mm]
            fraction = np.mean(np.array(errors) <= RECOVERED_MM)
            atlas = max(row.found[0].from_truth_mm for row in part)
            spread = [f"{value:.2f}" for value in np.percentile(errors, [50, 95, 100])]
            shown = (f"{atlas:.2f}", f"{fraction:.0%} of {len(errors)}", *spread)
            lines.append([arm, fixed.upper(), crop, case, *shown])
    return table(names.split("|"), lines)


def times_table(rows: list[Row]) -> str:
    lines = []
    for arm, fixed in dict.fromkeys((row.arm, row.fixed) for row in rows):
        chosen = [row for row in rows if (row.arm, row.fixed) == (arm, fixed)]
        seconds = [found.seconds for row in chosen for found in row.found]
        shown = [f"{value:.1f}" for value in (statistics.median(seconds), max(seconds))]
        lines.append([arm, fixed.upper(), len(seconds), *shown])
    return table(["method", "fixed", "runs", "median s", "longest s"], lines)


def evaluated(case: int, folder: Path, repeats: int) -> Iterator[tuple[str, str]]:
    """The verdicts for one person: the atlas's alignment, and wrong ones."""
    images = {side: read_image(folder / f"case{case}_{side}.nii.gz") for side in ("ct", "mr")}
    points = images["mr"].grid.points()[foreground(images["mr"]).data != 0][::97]
    others = {other: read_image(folder / f"case{other}_mr.nii.gz") for other in TEST}
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


def phantom_table(errors: dict[str, list[float]]) -> str:
    lines = [
        [name, len(values), f"{statistics.median(values):.3f}", f"{max(values):.3f}"]
        for name, values in errors.items()
    ]
    return table(["phantom CT", "alignments", "median mm", "max mm"], lines)


def plan(method, options, folder: Path) -> Iterator[tuple[str, Arm, str, str, int]]:
    """Name, arm, fixed image, crop and repeats of everything to be done on the stacks."""
    arm = ours(method)
    for fixed in ("ct", "mr"):
        yield PRESET, arm, fixed, "whole", options.repeats
    for crop in list(CROPS)[1:] if options.crop_repeats else ():
        for fixed in ("ct", "mr"):
            yield PRESET, arm, fixed, crop, options.crop_repeats
    default = ours(elastix_default("rigid", folder, THREADS))
    yield "elastix default", default, "ct", "whole", options.peer_repeats
    yield "SimpleITK", simpleitk, "ct", "whole", options.peer_repeats
    ants = Ants(ANTS, folder, THREADS)
    if ants.version:
        yield "ANTs Rigid", ants, "ct", "whole", options.peer_repeats
    else:
        print("ANTs Rigid: not installed", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="+", default=TEST)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--peer-repeats", type=int, default=8, help="of the first of the same")
    parser.add_argument("--crop-repeats", type=int, default=3)
    parser.add_argument("--phantoms", type=int, default=3)
    parser.add_argument("--verdicts", action="store_true", help="judge only, register nothing")
    parser.add_argument("--times", action="store_true", help="two repeats of whole stacks only")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    stacks = Path(os.environ["HYBRIDREG_DATA"]) / "harvard_aanlib" / "stacks_ct_mr"
    if options.verdicts:
        said = [pair for case in options.cases for pair in evaluated(case, stacks, options.repeats)]
        write_section(TABLE, "Verdicts", verdict_table(said), head=HEAD)
        return
    if options.times:
        options.repeats = options.peer_repeats = 2
        options.crop_repeats = options.phantoms = 0
    with tempfile.TemporaryDirectory() as name:
        registered(options, stacks, Path(name))


def registered(options: argparse.Namespace, stacks: Path, folder: Path):
    """Registers everything and writes the tables as they grow: a run may be interrupted."""
    method = with_settings(load_method(PRESET), threads=THREADS)
    errors: dict[str, list[float]] = {}
    for variant, error in phantom_errors(ours(method), range(options.phantoms)):
        errors.setdefault(variant, []).append(error)
        write_section(TABLE, "Phantom", phantom_table(errors), head=HEAD)
    rows: list[Row] = []
    for arm_name, arm, fixed, crop, repeats in plan(method, options, folder):
        how = {"fixed": fixed, "crop": crop, "repeats": repeats, "folder": stacks}
        for case in options.cases:
            rows.append(run_stack(arm_name, arm, case, **how))
            print(stack_table(rows[-1:]).splitlines()[2], flush=True)
            section = ("Times", times_table) if options.times else ("Stacks", stack_table)
            write_section(TABLE, section[0], section[1](rows), head=HEAD)


if __name__ == "__main__":
    main()
