"""Projections: time per frame, and the error against closed forms.

Times are the shortest of ten, on warm code, of one call that gives the image, or the image and its
derivatives by six pose parameters; every ray crosses a cubic CT. Processor time is summed over the
threads, and all that means something on a busy machine. Errors are in % of the longest chord, for
solids on voxels of 1 mm whose surfaces are blurred over one voxel; rays that graze a surface are
left out, those whose chord shrinks by more than 4 mm when the solid loses a voxel all around.

    python examples/benchmarks/drr.py [--threads 2] [--device cuda]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hybridreg.drr import Projector
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.kernels.compiled import torch_only
from hybridreg.poses import pose
from hybridreg.radiographs import Detector

REPEATS = 10
TURNED = (10.0, 20.0, 30.0, 0.0, 0.0, 0.0)
SIZES = [(128, 128), (128, 256), (192, 128), (192, 256), (192, 512), (256, 256)]  # CT, detector


def view(pixels: int, extent_mm: float) -> Detector:
    """Narrow enough that every ray crosses a cube of this extent."""
    spacing = extent_mm / pixels
    distances = {"source_to_detector": 1000.0, "source_to_isocenter": 700.0}
    return Detector.of_c_arm((pixels, pixels), (spacing, spacing), **distances)


def cube(voxels: int) -> Grid:
    return Grid((voxels,) * 3, (1.0,) * 3, (-(voxels - 1) / 2,) * 3)


def shortest_ms(call: Callable, repeats: int = REPEATS) -> str:
    """Of the wall and, in parentheses, of the processor."""
    walls, processors = [], []
    for _ in range(repeats + 1):
        start, busy = time.perf_counter(), time.process_time()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - start)
        processors.append(time.process_time() - busy)
    return f"{1000 * min(walls[1:]):.0f} ({1000 * min(processors[1:]):.0f})"


def times(device: str):
    print("| CT | detector | image ms | with derivatives ms | by torch ms |\n|---|---|---|---|---|")
    for voxels, pixels in SIZES:
        data = torch.rand(1, voxels, voxels, voxels).to(device)
        projector, detector = Projector(Image(data, cube(voxels))), view(pixels, 0.8 * voxels)
        parameters = torch.tensor(TURNED)
        numbers = [
            shortest_ms(lambda: projector(detector, pose(TURNED))),
            shortest_ms(lambda: projector.with_derivatives(detector, parameters)),
        ]
        by_torch = "-"
        if (voxels, pixels) == (128, 128):
            with torch_only():
                by_torch = shortest_ms(lambda: projector(detector, pose(TURNED)), 2)
        row = [f"{voxels}^3", f"{pixels}^2", *numbers, by_torch]
        print("| " + " | ".join(row) + " |", flush=True)


def errors(device: str):
    print("\n| solid | pose | worst % | RMS % |\n|---|---|---|---|")
    grid, detector = cube(96), view(64, 80.0)
    axis = torch.nn.functional.normalize(torch.tensor([0.5, -0.4, 0.75]).double(), dim=0)
    across = grid.points() - (grid.points() @ axis)[..., None] * axis
    solids = {
        "sphere, radius 25 mm": (25 - grid.points().norm(dim=-1), sphere),
        "tilted cylinder, radius 15 mm": (15 - across.norm(dim=-1), partial(cylinder, axis)),
        "cube, side 40 mm": (20 - grid.points().abs().amax(-1), cube_of_40),
    }
    for name, (depth, chords) in solids.items():
        projector = Projector(Image((0.5 + depth).clamp(0, 1).float().to(device), grid))
        for turn, numbers in (("straight", (0.0,) * 6), ("turned", TURNED)):
            at = pose(numbers)
            source = at(torch.tensor(detector.source)[None].double())[0]
            along = torch.nn.functional.normalize(at(detector.grid.points()[0]) - source, dim=-1)
            expected, found = chords(source, along, 0.0), projector(detector, at)[0].cpu()
            smaller = chords(source, along, 1.0)
            sound = (expected - smaller < 4) & (smaller > 0)
            off = 100 * (found - expected)[sound] / expected.max()
            print(f"| {name} | {turn} | {off.abs().max():.2f} | {off.square().mean().sqrt():.2f} |")


def sphere(source: Tensor, along: Tensor, lost: float) -> Tensor:
    offset = torch.linalg.cross(along, source.expand_as(along)).norm(dim=-1)
    return 2 * ((25.0 - lost) ** 2 - offset**2).clamp(min=0).sqrt()


def cylinder(axis: Tensor, source: Tensor, along: Tensor, lost: float) -> Tensor:
    normal = torch.linalg.cross(along, axis.expand_as(along))
    distance = (normal @ source).abs() / normal.norm(dim=-1)
    return 2 * ((15.0 - lost) ** 2 - distance**2).clamp(min=0).sqrt() / normal.norm(dim=-1)


def cube_of_40(source: Tensor, along: Tensor, lost: float) -> Tensor:
    ends = torch.stack([(side * (20 - lost) - source) / along for side in (-1, 1)])
    return (ends.amax(0).amin(-1) - ends.amin(0).amax(-1)).clamp(min=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    times(options.device)
    errors(options.device)
