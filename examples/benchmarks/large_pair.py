"""What stands around the registration of two large CTs: seconds of every part, and memory.

A head-and-neck CT resampled to 512 x 512 x 256 voxels, onto itself turned by 5 degrees and shifted
by 7 mm. The method is a known rigid transform, so that all time is spent beside it.

    HYBRIDREG_DATA=... python examples/benchmarks/large_pair.py
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from hybridreg.cases import Case, ImagePair
from hybridreg.io.images import read_image
from hybridreg.methods.base import RegistrationResult
from hybridreg.pipeline import run
from hybridreg.transforms import IDENTITY, Transform, rigid
from hybridreg.warping import warp

SHAPE, THREADS = (256, 512, 512), 2


@dataclass(frozen=True)
class Known:
    """A method that has the answer."""

    transform: Transform

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        return RegistrationResult(self.transform)


def large_pair() -> tuple[ImagePair, Transform]:
    (path,) = (Path(os.environ["HYBRIDREG_DATA"]) / "ct_head_neck_pycerr").glob("*.nii.gz")
    ct = read_image(path)
    spacing = [e / n for e, n in zip(ct.grid.extent, reversed(SHAPE), strict=True)]
    grid = ct.grid.with_spacing(spacing)
    true = rigid((0.0, 0.0, 5.0), (3.0, -4.0, 5.0), grid.center)
    return ImagePair(warp(ct, IDENTITY, onto=grid), warp(ct, true.inverse(), onto=grid)), true


def main():
    torch.set_num_threads(THREADS)
    pair, true = large_pair()
    for _ in range(2):  # the first time loads the kernels
        start = time.perf_counter()
        outcome = run(Case(pair), Known(true))
        with tempfile.TemporaryDirectory() as folder:
            path = outcome.save(Path(folder) / "out")
            times = json.loads((path / "result.json").read_text())["times_s"]
        whole = time.perf_counter() - start
        del outcome
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print("| part | s |\n|---|---|")
    print("\n".join(f"| {name} | {seconds:.1f} |" for name, seconds in times.items()))
    print(f"| in no part | {whole - sum(times.values()):.1f} |\n| all | {whole:.1f} |")
    print(f"\n{memory:.1f} GB")


if __name__ == "__main__":
    main()
