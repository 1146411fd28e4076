"""Seconds of each kernel beside the torch code that it replaces, and its share of memory bandwidth.

One volume of 160 x 190 x 150 voxels, float32, 2 threads, warm, median of 5, nothing else running;
of torch one call.
Bandwidth: of what a kernel must read and write at least, every array once, in its time, relative to
a copy of 256 MB on this machine. Inputs are smooth random images and a smooth displacement of some
voxels.

    python examples/benchmarks/kernels.py [--side 160 190 150]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from sections import table, write_section

from hybridreg.kernels.compiled import torch_only
from hybridreg.kernels.inversion import inverted
from hybridreg.kernels.jacobians import determinants
from hybridreg.kernels.sampling import Placement, composed, gradients, sample
from hybridreg.kernels.smoothing import downsampled, smoothed
from hybridreg.similarity import LNCC, MI, SSD

THREADS, REPEATS = 2, 5
SPACING = (1.0, 1.0, 1.0)
HEAD = "Kernels\n\n" + __doc__.split("\n\n")[1]


def inputs(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two images (1, *shape) in [0, 1] and a displacement (3, *shape) of up to some voxels."""
    random = torch.Generator().manual_seed(0)
    values = torch.rand((5, *shape), generator=random)
    coarse = smoothed(values, (3.0,) * 3)
    coarse = (coarse - coarse.amin()) / (coarse.amax() - coarse.amin())
    fine = smoothed(values, (1.0,) * 3)
    return fine[:1].contiguous(), fine[1:2].contiguous(), 8 * (coarse[2:] - 0.5)


def kernels(shape: tuple[int, ...]) -> Iterator[tuple[str, float, Callable[[], object]]]:
    """Name, volumes that are read or written at least, and the call."""
    fixed, moving, field = inputs(shape)
    moved = sample(moving, field, Placement.of_spacing(SPACING))
    adjoint = torch.ones_like(moved)

    def graded(measure) -> Callable[[], object]:
        def call():
            given = moved.clone().requires_grad_()
            measure(fixed, given).backward()
            return given.grad

        return call

    yield "local correlation, radius 2, and gradient", 3, graded(LNCC(radius=2))
    yield "local correlation, radius 4, and gradient", 3, graded(LNCC(radius=4))
    yield "squared differences and gradient", 3, graded(SSD())
    yield "mutual information and gradient", 3, graded(MI())
    place = Placement.of_spacing(SPACING)
    yield "sampling at displaced voxels", 5, lambda: sample(moving, field, place)
    pull = lambda: gradients(moving, field, place, adjoint)  # noqa: E731
    yield "spatial gradient at displaced voxels", 8, pull
    yield "smoothing of vectors, 1 voxel", 6, lambda: smoothed(field, (1.0,) * 3)
    yield "smoothing of vectors, 3 voxels", 6, lambda: smoothed(field, (3.0,) * 3)
    yield "composition", 9, lambda: composed(field, field, SPACING)
    yield "inversion", 6, lambda: inverted(field, SPACING)
    yield "Jacobian determinants", 4, lambda: determinants(field, SPACING)
    yield "downsampling by 2", 1.125, lambda: downsampled(moving, (2.0,) * 3)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median; a single call is not preceded by another."""
    if repeats > 1:
        call()
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def bandwidth() -> float:
    """Bytes a second, read and written, of a copy."""
    source = torch.rand(64 << 20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), REPEATS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", nargs=3, type=int, default=(160, 190, 150))
    parser.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    shape, rate = tuple(reversed(options.side)), bandwidth()
    voxels = shape[0] * shape[1] * shape[2]
    rows = []
    for name, volumes, call in kernels(shape):
        ours = seconds(call, REPEATS)
        with torch_only():
            theirs = seconds(call, 1)
        share = volumes * voxels * 4 / ours / rate
        rows.append([name, f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.0f}", f"{share:.0%}"])
        print(rows[-1], flush=True)
    names = ("Kernel", "s", "torch, s", "times as fast", "of the bandwidth")
    section = f"Seconds; a copy moves {rate / 1e9:.1f} GB/s"
    write_section(options.table, section, table(names, rows), head=HEAD)


if __name__ == "__main__":
    main()
