"""What the methods of other packages have in common: their package, an affine before, and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.checks import check_pair
from hybridreg.geometry import Grid
from hybridreg.io.images import write_image
from hybridreg.io.transforms import read_transform
from hybridreg.io.working_folder import working_folder
from hybridreg.methods.base import RegistrationError, RegistrationResult
from hybridreg.methods.peers.process import installed, run_script
from hybridreg.registry import MEASURES, METHODS
from hybridreg.transforms import DisplacementField, Transform, compose


class Peer:
    """A method of another package, which a script of ``scripts`` runs in a Python that has it.

    package: its distribution. weights_from: where there are weights, for a network that comes
        without.
    affine: the measure of hybridreg's affine before it, such as "lncc" for one contrast or "mi" for
    any two; empty for none. python: one that has the package; empty for this one.
    """

    package: ClassVar[str]
    weights_from: ClassVar[str] = ""
    affine: str
    threads: int | None
    python: str

    def missing(self) -> str:
        """What to install or to name before it can run; empty if nothing."""
        if not installed(self.package, self.python):
            where = f" for {self.python}" if self.python else ""
            return (
                f"it needs the package {self.package}, which is not installed{where}: pip install "
                f'{self.package}, or name a Python that has it (python = "..." in its TOML file)'
            )
        return _without_weights(self.weights, self.weights_from) if self.weights_from else ""

    def versions(self) -> dict[str, str]:
        return {self.package: installed(self.package, self.python)}

    def register_by(
        self, script: str, job: Mapping[str, Any], pair: ImagePair, initial: Transform
    ) -> RegistrationResult:
        """What a script finds for a pair after the affine; its answer lists files of transforms.

        The last of them is applied first; ``.npy`` is a field in voxels.
        """
        check_pair(pair, initial)
        start = self._start(pair, initial)
        with working_folder(f"hybridreg-{script}-") as folder:
            _write_pair(warp_pair(pair, start), folder)
            answer = run_script(script, folder, job, python=self.python, threads=self.threads)
            files = [Path(name) for name in answer["transforms"]]
            found = [_read(file, pair.fixed.grid) for file in reversed(files)]
            return RegistrationResult(compose(*found)).after(start)

    def _start(self, pair: ImagePair, initial: Transform) -> Transform:
        if not self.affine:
            return initial
        measure = MEASURES.find(self.affine)()
        linear = METHODS.find("linear")(similarity=measure, threads=self.threads)
        return linear.register(pair, initial).transform


def field_in_voxels(path: Path, grid: Grid) -> DisplacementField:
    """A field (*shape, D) in voxels of the grid, components in the order of the array's axes."""
    steps = torch.from_numpy(np.load(path, allow_pickle=False)).flip(-1)  # (x, y, z) components
    if steps.shape != (*grid.shape, grid.dimension):
        raise RegistrationError(f"the tool gave a field of {tuple(steps.shape)} for {grid.shape}")
    matrix = grid.voxel_to_physical()[:-1, :-1].to(steps)
    return DisplacementField((steps @ matrix.T).movedim(-1, 0), grid)


def _read(path: Path, grid: Grid) -> Transform:
    return field_in_voxels(path, grid) if path.suffix == ".npy" else read_transform(path)


def _write_pair(pair: ImagePair, folder: Path):
    """fixed.nii.gz, moving.nii.gz, and the masks that there are,
    fixed_mask.nii.gz and the other.
    """
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        if (image := getattr(pair, name)) is not None:
            write_image(folder / f"{name}.nii.gz", image)


def _without_weights(weights: str, where: str) -> str:
    if not weights:
        return f'it needs weights: name their file (weights = "..." in its TOML file); {where}'
    return "" if Path(weights).is_file() else f"there are no weights {weights}; {where}"
