"""What the tables compare with: elastix's own default maps, and MIND as a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from scripted_mind import ScriptedMind

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


def mind_network(path: Path) -> Path:
    """The path, with MIND-SSC as a TorchScript network there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.jit.script(ScriptedMind().eval()).save(str(path))
    return path
