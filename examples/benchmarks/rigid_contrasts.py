"""Rigid alignment of T1, T2 and FLAIR of one person by descriptors and by mutual information.

mr_multiseq_pgbm003_dicom: series of .7 x .7 x 6.5 mm that their publisher has registered to one
frame, so the truth is that of the headers, to about a millimeter. T1 before contrast is the fixed
image, on voxels of 2 mm; every start is turned by up to 10 degrees about each axis and shifted by
up to 10 mm along each. The error is the mean over the corners of the box around the head.

    HYBRIDREG_DATA=... python examples/benchmarks/rigid_contrasts.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sections import table

from hybridreg.cases import ImagePair
from hybridreg.config import load_method
from hybridreg.images import Image
from hybridreg.io.images import read_image
from hybridreg.preprocessing import foreground
from hybridreg.transforms import IDENTITY, AffineTransform, rigid
from hybridreg.warping import warp

FIXED, MOVING = "T1prereg", ("T2reg", "FLAIRreg", "T1post")
SPACING_MM = 2.0
TURN_DEG, SHIFT_MM = 10.0, 10.0
LINEAR = {"name": "linear", "transform": "rigid", "similarity": "ssd"}


def twice(descriptor: str | dict) -> dict:
    """Descriptors depend on rotation, so the moving image is described again once it is nearly
    aligned.
    """
    stage = {"name": "on-features", "descriptor": descriptor, "method": LINEAR}
    return {"name": "chain", "stages": [stage, stage]}


METHODS: dict[str, str | dict] = {
    "mutual information (`rigid-fast`)": "rigid-fast",
    "`mind`": twice("mind"),
    "`sae-any-contrast`": twice({"name": "autoencoder", "weights": "sae-any-contrast"}),
}


def series(name: str) -> Image:
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "mr_multiseq_pgbm003_dicom"
    (found,) = folder.glob(f"*-{name}-*")
    image = read_image(found)
    return warp(image, IDENTITY, onto=image.grid.with_spacing([SPACING_MM] * 3))


def corners(image: Image) -> torch.Tensor:
    inside = foreground(image).data.nonzero()
    low, high = inside.amin(0), inside.amax(0)
    box = image.grid.crop(low.tolist(), (high + 1).tolist())
    return box.corners()


def start(image: Image, number: int) -> AffineTransform:
    generator = torch.Generator().manual_seed(number)
    turns, shifts = (2 * torch.rand(2, 3, generator=generator) - 1).unbind()
    return rigid((TURN_DEG * turns).tolist(), (SHIFT_MM * shifts).tolist(), image.grid.center)


def errors(table_or_preset: str | dict, pair: ImagePair, repeats: int) -> tuple[list[float], float]:
    method, points, found, before = (
        load_method(table_or_preset),
        corners(pair.fixed),
        [],
        time.process_time(),
    )
    for number in range(repeats):
        transform = method.register(pair, start(pair.fixed, number)).transform
        found.append((transform(points) - points).norm(dim=-1).mean().item())
    return found, (time.process_time() - before) / repeats


def main(printed: Callable = print):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    fixed, lines = series(FIXED), []
    points = corners(fixed)
    starts = [
        (start(fixed, n)(points) - points).norm(dim=-1).mean().item()
        for n in range(options.repeats)
    ]
    for moving in MOVING:
        pair = ImagePair(fixed, series(moving))
        for name, method in METHODS.items():
            found, seconds = errors(method, pair, options.repeats)
            lines.append(
                [
                    moving,
                    name,
                    f"{statistics.median(found):.2f}",
                    f"{max(found):.2f}",
                    f"{seconds:.1f}",
                ]
            )
            printed(*lines[-1], flush=True)
    printed(f"\nStarts: {min(starts):.1f} to {max(starts):.1f} mm off.\n")
    printed(table(["moving", "by", "median, mm", "largest, mm", "processor s"], lines))


if __name__ == "__main__":
    main()
