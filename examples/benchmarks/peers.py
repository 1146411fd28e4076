"""What the tables compare with: elastix's own default maps, and MIND as a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridreg.methods.elastix import Elastix

_DEFAULT_MAP = """
import sys
from itk import elxParameterObjectPython as pm
maps = pm.elastixParameterObject.New()
maps.AddParameterMap(pm.elastixParameterObject.GetDefaultParameterMap(sys.argv[1], 4))
maps.WriteParameterFile(sys.argv[2])
"""


def elastix_default(kind: str, folder: Path, threads: int) -> Elastix:
    """The map of this kind ("rigid", "bspline") that elastix itself proposes, untouched."""
    path = folder / f"default_{kind}.txt"
    if not path.exists():
        subprocess.run([sys.executable, "-c", _DEFAULT_MAP, kind, str(path)], check=True)
    return Elastix((str(path),), schedule="elastix", threads=threads)


class Mind(torch.nn.Module):
    """MIND-SSC (Heinrich 2013) of a volume, (1, 1, z, y, x) to one map (1, 12, z, y, x); as
    `hybridreg.descriptors.mind`, in TorchScript's Python and without scaling to unit norm."""

    def forward(self, volume: Tensor) -> list[Tensor]:
        around = F.pad(volume, [2] * 6, mode="replicate")
        neighbors: list[Tensor] = []
        for axis in range(3):
            for start in (0, 4):
                part = around
                for other in range(3):
                    first = start if other == axis else 2
                    part = part.narrow(other + 2, first, volume.shape[other + 2])
                neighbors.append(part)
        distances: list[Tensor] = []
        for i in range(6):
            for j in range(i + 1, 6):
                if i // 2 != j // 2:
                    squares = (neighbors[i] - neighbors[j]).square()
                    distances.append(F.avg_pool3d(squares, 3, 1, 1, count_include_pad=False))
        found = torch.cat(distances, 1)
        found = found - found.amin(1, keepdim=True)
        variance = found.mean(1, keepdim=True)
        mean = variance.mean()
        return [torch.exp(-found / variance.clamp(min=1e-30).maximum(1e-3 * mean).minimum(1e3 * mean))]


def mind_network(path: Path) -> Path:
    """The path, with MIND-SSC as a TorchScript network there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.jit.script(Mind()).save(str(path))
    return path
