"""Projections of a head CT: their error against the exact integral, and what registration makes of them.

The exact integral of the linearly interpolated voxels takes two Gauss points in each cell that a
ray crosses. Radiographs of 128 x 128 pixels of 2.4 mm are registered from 7 degrees and 11 mm away.

    HYBRIDREG_DATA=... python examples/benchmarks/drr_head.py
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.drr import Projector, attenuation
from hybridreg.exposure import Exposure
from hybridreg.geometry import apply_matrix
from hybridreg.images import Image
from hybridreg.io.images import read_image
from hybridreg.methods.combine import Chain
from hybridreg.methods.projection import CASCADE, Projection
from hybridreg.poses import pose, pose_error, projection_error
from hybridreg.projection_pair import ProjectionPair
from hybridreg.radiographs import Detector
from hybridreg.transforms import AffineTransform, interpolate, rigid

RAYS, BRIGHT = 150, 1.0
VIEWS = {"from the back": (0, 0), "from the side": (90, 0), "askew": (40, 20)}


def view(pixels: int, spacing: float, primary: float, secondary: float = 0.0) -> Detector:
    return Detector.of_c_arm(
        (pixels, pixels),
        (spacing, spacing),
        source_to_detector=1000,
        source_to_isocenter=700,
        primary_deg=primary,
        secondary_deg=secondary,
    )


def exact(image: Image, source: Tensor, end: Tensor) -> float:
    """In mm; the volume falls to 0 within a voxel beyond its border."""
    grid = image.grid.crop((-1,) * 3, [n + 1 for n in image.grid.shape])
    first, last = apply_matrix(grid.physical_to_voxel(), torch.stack([source, end]))
    planes = [
        (torch.arange(n) - a) / (b - a) for n, a, b in zip(grid.size, first, last, strict=True)
    ]
    cuts = torch.cat(planes).clamp(0, 1).unique()
    middle, half = (cuts[1:] + cuts[:-1]) / 2, (cuts[1:] - cuts[:-1]) / 2
    places = torch.cat([middle - half / math.sqrt(3), middle + half / math.sqrt(3)])
    points = source + places[:, None] * (end - source)
    values, _ = interpolate(F.pad(image.data, (1,) * 6), grid, points)
    return ((values[0] * half.repeat(2)).sum() * (end - source).norm()).item()


def errors(mu: Image):
    print("| view | worst % | RMS % |\n|---|---|---|")
    projector = Projector(mu)
    for name, angles in VIEWS.items():
        detector = view(256, 2.0, *angles)
        turn = (5, -5, 10, 0, 0, 0) if name == "askew" else (0,) * 6
        at = pose(turn, mu.grid.center.tolist())
        found = projector(detector, at)[0]
        source, ends = (
            at(torch.tensor([detector.source]).double())[0],
            at(detector.grid.points()[0]),
        )
        places = (found > BRIGHT).nonzero()
        generator = torch.Generator().manual_seed(1)
        chosen = places[torch.randperm(len(places), generator=generator)[:RAYS]]
        off = [found[i, j].item() - exact(mu, source, ends[i, j]) for i, j in chosen]
        off = 100 * torch.tensor(off) / found.max()
        print(f"| {name} | {off.abs().max():.3f} | {off.square().mean().sqrt():.4f} |", flush=True)


def registrations(ct: Image, mu: Image):
    print("\n| method | radiographs | views | degrees | mm | mTREproj mm | processor s |")
    print("|---|---|---|---|---|---|---|")
    isocenter = (ct.grid.center + torch.tensor([0.0, 0.0, 40.0])).tolist()  # the head
    true = pose((5, -8, 12, 3, -4, 6), isocenter)
    start = AffineTransform(true.matrix @ rigid([4, -3, 5], [6, -8, 5], (0, 0, 0)).matrix)
    corners = torch.cartesian_prod(*[torch.tensor([-80.0, 80.0]).double()] * 3)
    corners += torch.tensor(isocenter)
    projector = Projector(mu)
    clean = [projector.radiograph(view(128, 2.4, primary), true) for primary in (0, 90)]
    kinds = {
        "clean": clean,
        "noise": [Exposure(photons=20_000)(r, torch.Generator().manual_seed(0)) for r in clean],
        "scatter": [Exposure(photons=0, scatter=0.5)(r) for r in clean],
    }
    methods = {
        "GC (gradient)": Projection(optimizer="l-bfgs", pixels=(8.0, 4.0, 2.0)),
        "MI, then GC (Powell)": Chain(tuple(replace(stage, iterations=5) for stage in CASCADE)),
    }
    for name, method in methods.items():
        for kind, radiographs in kinds.items():
            for count in (1, 2):
                busy = time.process_time()
                found = method.register(ProjectionPair(radiographs[:count], ct), start).transform
                busy = time.process_time() - busy
                error = pose_error(found, true)
                shown = projection_error(found, true, corners, clean[0].detector).mean()
                numbers = f"{error.rotation_deg:.2f} | {error.translation_mm:.2f} | {shown:.2f}"
                print(f"| {name} | {kind} | {count} | {numbers} | {busy:.0f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(2)
    (path,) = (Path(os.environ["HYBRIDREG_DATA"]) / "ct_head_neck_pycerr").glob("*.nii.gz")
    ct = read_image(path)
    mu = attenuation(ct)
    errors(mu)
    registrations(ct, mu)
