"""How well `brain-mr` aligns the brains of different persons, compared with alternatives.

Pairs: every test person of oasis_malf35 onto every other (12), 1 mm; mean Dice of all labels of the
fixed image (nearest neighbor), folded voxels of the fixed brain. All deformable methods follow the
same affine: the linear stages of `brain-mr`. And the person scanned twice (1018, 1038), both ways.

Everything is run by `hybridreg.compare`: finished registrations are kept in the folder of --out, so
the run can be interrupted, and records, statistics and the page of both comparisons are there; its
tables are printed. For times give `--workers 1 --threads 2` with nothing else running: they are of
the registration, images in memory to a transform in memory, medians over the pairs, the affine
included.

    HYBRIDREG_DATA=... python examples/benchmarks/brain_mr.py [--arms affine,brain-mr] [--pairs 4]
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path
from typing import Any

from comparisons import BRAINS, brain_case
from peers import elastix_default

from hybridreg.cluster import Limits, Local
from hybridreg.comparison import compare
from hybridreg.comparison.tables import markdown
from hybridreg.config import load_method
from hybridreg.methods.combine import Chain
from hybridreg.methods.peers.ants import AntsSyn
from hybridreg.methods.peers.greedy import Greedy

TEST = list(itertools.permutations(BRAINS, 2))
RESCAN = [(1018, 1038), (1038, 1018)]
THREADS = 2
LINEAR = load_method("brain-lddmm").stages[0]  # the linear stages of brain-mr
DEFAULT_ARMS = ("rigid", "affine", "bspline", "brain-mr", "elastix default", "greedy NCC")


def arms(folder: Path, threads: int) -> dict[str, Any]:
    """All methods by name; peers and elastix's own default map follow the affine."""
    ants = {"affine": "", "python": os.environ.get("ANTS_PYTHON", "")}
    after = {
        "elastix default": elastix_default("bspline", folder, threads),
        "greedy NCC": Greedy(affine=""),
        "ANTs SyN MI": AntsSyn(**ants),
        "ANTs SyN CC": AntsSyn("SyNOnly", "CC", 2, (100, 70, 50, 20), **ants),
    }
    whole = {"rigid": "rigid", "affine": LINEAR, "bspline": "bspline", "brain-mr": "brain-mr"}
    return {**whole, **{name: Chain((LINEAR, method)) for name, method in after.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arms", default=",".join(DEFAULT_ARMS))
    parser.add_argument("--pairs", type=int, default=len(TEST), help="only so many of the first")
    parser.add_argument("--out", type=Path, default=Path("brain-mr"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()
    data = Path(os.environ["HYBRIDREG_DATA"])
    options.out.mkdir(exist_ok=True)
    known = arms(options.out.absolute(), options.threads)
    methods = {name: known[name] for name in options.arms.split(",")}
    for title, pairs in (
        ("Different persons", TEST[: options.pairs]),
        ("One person, scanned twice", RESCAN),
    ):
        found = compare(
            [brain_case(data, *pair) for pair in pairs],
            methods,
            options.out / title,
            report=False,
            place=Local(options.workers),
            limits=Limits(threads=options.threads),
            callback=lambda ended: print(ended.name, ended.reason, flush=True),
        )
        print(f"\n{title}\n\n{markdown(found.summary)}", flush=True)


if __name__ == "__main__":
    main()
