"""Whether two versions of hybridreg find the same transforms, for every packaged preset.

Each preset registers a phantom and a pair of real images of the kind it is meant for, on 1 thread
and with a fixed seed, so that each version repeats its own transforms exactly. The transforms are
compared in float64 at 1000 points drawn evenly over the fixed field of view.

Phantoms start from the identity. Brains start from their centers of mass, CT and MR of one head
turned by 8 to 12 degrees about every axis and shifted by 9 to 15 mm from the atlas's alignment. The
real pairs are of train persons, brains averaged over blocks of voxels to keep runs short.

`write` uses only what versions have had since 0.1.0, so the same file runs on both. Without
`--data` it registers the phantoms alone. `--torch` computes with torch what the version has
compiled loops for. What is in the folder already is not computed again.

    python examples/benchmarks/presets.py write OUT [--data FOLDER] [--presets NAME ...] [--torch]
    python examples/benchmarks/presets.py compare A B [--title TITLE]
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):  # read where torch and numba are imported
    os.environ[_name] = "1"

import argparse
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sections import table, write_section

import hybridreg
from hybridreg.cases import ImagePair
from hybridreg.config import load_method, presets, with_settings
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.initialization import initialize
from hybridreg.io.images import read_image, read_labels
from hybridreg.phantoms import head_case
from hybridreg.transforms import IDENTITY, Transform, rigid

POINTS = 1000
SEED = 0
TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["The presets' transforms in two versions", *__doc__.split("\n\n")[1:3]])
COLUMNS = (
    "preset",
    "pair",
    "same images",
    "moves points by up to, mm",
    "largest difference, mm",
    "median difference, mm",
    "seconds",
)


@dataclass(frozen=True)
class Problem:
    """One pair to register, and where the registration starts."""

    name: str
    pair: ImagePair
    initial: Transform = IDENTITY


def phantom(**settings) -> Problem:
    bent = {"deformation_mm": 6.0} if settings["fixed"] == settings["moving"] else {}
    turned = {"angles_deg": (6.0, -5.0, 8.0), "translation_mm": (5.0, -4.0, 6.0)}
    if settings.get("dimension") == 2:
        turned = {}
    return Problem("phantom", head_case(seed=SEED, **turned, **bent, **settings).pair)


def brains(folder: Path, block: int) -> Iterator[Problem]:
    yield phantom(fixed="t1", moving="t1", spacing_mm=float(block + 1))
    if folder:
        paths = (folder / f"oasis_malf35/subjects/{n}_SS.nii.gz" for n in (1000, 1001))
        pair = ImagePair(*(averaged(read_image(path), block) for path in paths))
        yield Problem(f"oasis 1000, 1001, {block} mm", pair, initialize(pair, "mass"))


def heads_ct_mr(folder: Path) -> Iterator[Problem]:
    yield phantom(fixed="ct", moving="t1", spacing_mm=3.0)
    if folder:
        stacks = folder / "harvard_aanlib/stacks_ct_mr"
        pair = ImagePair(*(read_image(stacks / f"case2_{kind}.nii.gz") for kind in ("ct", "mr")))
        start = rigid((10.0, -8.0, 12.0), (12.0, -9.0, 15.0), pair.fixed.grid.center)
        yield Problem("atlas case 2, CT and MR", pair, start)


def lungs(folder: Path) -> Iterator[Problem]:
    yield phantom(fixed="ct", moving="ct", spacing_mm=4.0)
    if folder:
        paths = [folder / f"lung_ct_elastix/3DCT_lung_{when}" for when in ("baseline", "followup")]
        images = [read_image(path.with_suffix(".mha")) for path in paths]
        masks = [read_labels(path.with_name(f"{path.name}_mask.mha")) for path in paths]
        yield Problem("lung, no masks", ImagePair(*images))
        yield Problem("lung, masks", ImagePair(*images, *masks))


def hearts(folder: Path) -> Iterator[Problem]:
    yield phantom(dimension=2, fixed="t1", moving="t1")
    if folder:
        names = (f"sunnybrook_2d/images/SC-HF-I-01-IM-0001-{n}.dcm.png" for n in ("0088", "0099"))
        yield Problem("HF-I-01, one level", ImagePair(*(read_image(folder / n) for n in names)))


KINDS: dict[str, Callable[[Path | None], Iterator[Problem]]] = {
    "rigid": lambda folder: brains(folder, 2),
    "affine": lambda folder: brains(folder, 2),
    "bspline": lambda folder: brains(folder, 2),
    "brain-mr-rigid": lambda folder: brains(folder, 2),
    "brain-mr": lambda folder: brains(folder, 2),
    "brain-lddmm": lambda folder: brains(folder, 3),
    "brain-ct-mr": heads_ct_mr,
    "lung-ct": lungs,
    "cardiac-2d": hearts,
}


def averaged(image: Image, block: int) -> Image:
    """Means of blocks of voxels; done here, so that no change of resampling changes the images."""
    data = torch.nn.functional.avg_pool3d(image.data, block)
    grid, spacing = image.grid, np.array(image.grid.spacing)
    origin = np.array(grid.origin) + np.array(grid.direction) @ (spacing * (block - 1) / 2)
    return Image(data, Grid(tuple(data.shape[1:]), spacing * block, origin, grid.direction))


def points_in(grid: Grid) -> np.ndarray:
    """LPS mm, shape (POINTS, D)."""
    size = np.array(grid.shape[::-1])
    index = np.random.default_rng(SEED).uniform(0, size - 1, (POINTS, len(size)))
    return np.array(grid.origin) + (index * np.array(grid.spacing)) @ np.array(grid.direction).T


def fingerprint(problem: Problem) -> str:
    """Of all that the method sees: where it differs, so may the transforms."""
    pair, digest = problem.pair, hashlib.sha256()
    for image in (pair.fixed, pair.moving, pair.fixed_mask, pair.moving_mask):
        if image is not None:
            grid = image.grid
            places = [grid.spacing, grid.origin, np.ravel(np.array(grid.direction))]
            digest.update(np.concatenate([np.float64(place) for place in places]).tobytes())
            digest.update(image.data.double().numpy().tobytes())
    digest.update(problem.initial(torch.from_numpy(points_in(pair.fixed.grid))).numpy().tobytes())
    return digest.hexdigest()


def commit() -> str:
    """Of the checkout that the package lies in; empty where it is installed otherwise."""
    command = ["git", "-C", str(Path(hybridreg.__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    return done.stdout.strip()


def computing(torch_only: bool) -> AbstractContextManager:
    if not torch_only:
        return nullcontext()
    from hybridreg.kernels import compiled  # not in every version

    return compiled.torch_only()


def write(out: Path, folder: Path | None, chosen: list[str] | None):
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    about = {"version": version("hybridreg"), "commit": commit(), "presets": sorted(presets())}
    (out / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    for preset in chosen or [name for name in KINDS if name in presets()]:
        method = with_settings(load_method(preset), threads=1, seed=SEED)
        for problem in KINDS[preset](folder):
            path = out / f"{preset} - {problem.name}.npz"
            if path.exists():
                continue
            points = points_in(problem.pair.fixed.grid)
            start = time.perf_counter()
            found = method.register(problem.pair, problem.initial).transform
            seconds = time.perf_counter() - start
            np.savez(
                path,
                points=points,
                moved=found(torch.from_numpy(points)).numpy(),
                images=fingerprint(problem),
                seconds=seconds,
                version=f"{about['version']} {about['commit']}",
            )
            print(f"{preset}, {problem.name}: {seconds:.1f} s", flush=True)


def preset_of(stem: str) -> str:
    return stem.partition(" - ")[0]


def row(name: str, a: np.lib.npyio.NpzFile, b: np.lib.npyio.NpzFile) -> tuple[str, ...]:
    preset, _, pair = name.partition(" - ")
    if not np.array_equal(a["points"], b["points"]):
        return preset, pair, "no", "-", "other grid", "-", "-"
    moves = np.linalg.norm(a["moved"] - a["points"], axis=1).max()
    apart = np.linalg.norm(a["moved"] - b["moved"], axis=1)
    same = "yes" if a["images"] == b["images"] else "no"
    measured = f"{moves:.1f}", f"{apart.max():.2g}", f"{np.median(apart):.2g}"
    return preset, pair, same, *measured, f"{a['seconds']:.0f}, {b['seconds']:.0f}"


def compare(a: Path, b: Path, title: str):
    about = [json.loads((f / "about.json").read_text(encoding="utf-8")) for f in (a, b)]
    names = [f"{each['version']} at {each['commit']}" for each in about]
    order = list(KINDS)
    files = [{path.stem: path for path in folder.glob("*.npz")} for folder in (a, b)]
    common = sorted(files[0].keys() & files[1].keys())
    both = sorted(common, key=lambda name: order.index(preset_of(name)))
    rows = [row(name, np.load(files[0][name]), np.load(files[1][name])) for name in both]
    notes = [f"A is {names[0]}, B is {names[1]}; seconds of A, B.", table(COLUMNS, rows)]
    for here, there, label in ((0, 1, "A"), (1, 0, "B")):
        if only := sorted(set(about[here]["presets"]) - set(about[there]["presets"])):
            notes.append(f"Presets only in {label}: {', '.join(f'`{name}`' for name in only)}.")
        if alone := sorted(set(map(preset_of, files[here].keys() - files[there].keys()))):
            notes.append(f"Registered, or with more pairs, only in {label}: {', '.join(alone)}.")
    write_section(TABLE, title, "\n\n".join(notes), head=HEAD)
    print("\n\n".join(notes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("out", type=Path)
    writing.add_argument("--data", type=Path)
    writing.add_argument("--presets", nargs="+", choices=list(KINDS))
    writing.add_argument("--torch", action="store_true")
    comparing = commands.add_parser("compare")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    comparing.add_argument("--title", default="Transforms")
    options = parser.parse_args()
    if options.command == "write":
        with computing(options.torch):
            write(options.out, options.data, options.presets)
    else:
        compare(options.a, options.b, options.title)
