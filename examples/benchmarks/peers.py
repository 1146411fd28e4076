"""What the tables compare with: elastix's own default maps, and ANTs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hybridreg.methods.elastix import Elastix

_DEFAULT_MAP = """
import sys
from itk import elxParameterObjectPython as pm
maps = pm.elastixParameterObject.New()
maps.AddParameterMap(pm.elastixParameterObject.GetDefaultParameterMap(sys.argv[1], 4))
maps.WriteParameterFile(sys.argv[2])
"""

# Each line in names a folder with fixed.nii.gz and moving.nii.gz; each line out is JSON.
_ANTS = """
import json, sys, time
import ants
print(json.dumps(ants.__version__), flush=True)
for line in sys.stdin:
    f = line.strip()
    fixed, moving = (ants.image_read(f"{f}/{side}.nii.gz") for side in ("fixed", "moving"))
    start = time.perf_counter()
    ANSWER
"""


def elastix_default(kind: str, folder: Path, threads: int) -> Elastix:
    """The map of this kind ("rigid", "bspline") that elastix itself proposes, untouched."""
    path = folder / f"default_{kind}.txt"
    if not path.exists():
        subprocess.run([sys.executable, "-c", _DEFAULT_MAP, kind, str(path)], check=True)
    return Elastix((str(path),), schedule="elastix", threads=threads)


class AntsProcess:
    """ANTs in a process that has it loaded, in the Python that ANTS_PYTHON names or in this one.

    code: lines that register ``fixed`` and ``moving`` from the folder ``f``, started at ``start``,
        and print an answer in JSON.
    version: empty where ANTs is not installed.
    """

    def __init__(self, code: str, folder: Path, threads: int):
        self.folder = folder
        program = _ANTS.replace("ANSWER", code.strip().replace("\n", "\n    "))
        self._child = subprocess.Popen(
            [os.environ.get("ANTS_PYTHON", sys.executable), "-c", program],
            env={**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._child.stdout.readline().strip()

    def ask(self) -> Any:
        """The answer on the images that lie in the folder."""
        self._child.stdin.write(f"{self.folder}\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())
