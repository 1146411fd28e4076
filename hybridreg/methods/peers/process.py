"""Running a script of ``scripts`` in the Python that has its package."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridreg.cases import ImagePair
from hybridreg.child_process import inherited
from hybridreg.geometry import Grid
from hybridreg.io.images import write_image
from hybridreg.methods.base import RegistrationError
from hybridreg.registry import MEASURES, METHODS
from hybridreg.transforms import DisplacementField, Transform

_SCRIPTS = Path(__file__).parent / "scripts"
_VERSION = """
import importlib.metadata as m, sys
try:
    print(m.version(sys.argv[1]))
except m.PackageNotFoundError:
    sys.exit(3)
"""


@cache
def installed(distribution: str, python: str = "") -> str:
    """The version of a package in a Python, this one if none is named; empty if it is not there."""
    try:
        done = subprocess.run(
            [python or sys.executable, "-P", "-c", _VERSION, distribution],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def not_installed(distribution: str, python: str) -> str:
    """What to install; empty where the package is there."""
    if installed(distribution, python):
        return ""
    where = f" for {python}" if python else ""
    return (
        f"it needs the package {distribution}, which is not installed{where}: pip install "
        f'{distribution}, or name a Python that has it (python = "..." in its TOML file)'
    )


def run_script(
    script: str,
    folder: Path,
    job: Mapping[str, Any],
    *,
    python: str = "",
    threads: int | None = None,
) -> dict[str, Any]:
    """What a script answers, which works in a folder; RegistrationError if it fails or crashes."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = inherited() | (_thread_limits(threads) if threads else {})
    done = subprocess.run(
        [python or sys.executable, "-P", str(_SCRIPTS / f"{script}.py"), str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    answer = folder / "answer.json"
    if done.returncode or not answer.is_file():
        raise RegistrationError(f"{script} {_ending(done)}", log=done.stdout[-4000:])
    return json.loads(answer.read_text(encoding="utf-8"))


def affine_start(
    pair: ImagePair, initial: Transform, measure: str, threads: int | None
) -> Transform:
    """The start of a tool that takes aligned images: after hybridreg's affine by a measure, such as
    "lncc" for one contrast or "mi" for any two; the initial transform itself if it is empty."""
    if not measure:
        return initial
    linear = METHODS.find("linear")(similarity=MEASURES.find(measure)(), threads=threads)
    return linear.register(pair, initial).transform


def write_pair(pair: ImagePair, folder: Path):
    """fixed.nii.gz, moving.nii.gz, and fixed_mask.nii.gz where there is one."""
    write_image(folder / "fixed.nii.gz", pair.fixed)
    write_image(folder / "moving.nii.gz", pair.moving)
    if pair.fixed_mask is not None:
        write_image(folder / "fixed_mask.nii.gz", pair.fixed_mask)


def _thread_limits(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    return dict.fromkeys(names, str(threads))


def _ending(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in (done.stdout or "").strip().splitlines() if line.strip()]
    last = f": {lines[-1][:300]}" if lines else ""
    if done.returncode < 0:
        return f"crashed ({signal.Signals(-done.returncode).name}){last}"
    return f"ended with code {done.returncode}{last}"


def field_in_voxels(path: Path, grid: Grid) -> DisplacementField:
    """A field (*shape, D) in voxels of the grid, components in the order of the array's axes."""
    steps = torch.from_numpy(np.load(path, allow_pickle=False)).flip(-1)  # (x, y, z) components
    if steps.shape != (*grid.shape, grid.dimension):
        raise RegistrationError(f"the tool gave a field of {tuple(steps.shape)} for {grid.shape}")
    matrix = grid.voxel_to_physical()[:-1, :-1].to(steps)
    return DisplacementField((steps @ matrix.T).movedim(-1, 0), grid)
