"""Trained weights ready for use: from both images on the network's grid to a momentum."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.geodesics import GeodesicTransform, Kernel
from hybridreg.geometry import Grid
from hybridreg.io.checkpoints import Card, card_path, checkpoint_path, read_checkpoint
from hybridreg.io.files import sha256_of
from hybridreg.methods.quicksilver.network import (
    CORRECTION_KIND,
    KIND,
    PATCH,
    MomentumNetwork,
    momentum_network,
)
from hybridreg.methods.quicksilver.patches import STRIDE, predicted
from hybridreg.momentum import momentum_grid, shot, to_lps
from hybridreg.network_inputs import NetworkInputs, shown_box
from hybridreg.warping import warp

_MUST_AGREE = ("spacing_mm", "kernel", "shooting", "intensity_rule")


@dataclass(frozen=True, eq=False)
class Predictor:
    """A prediction network, perhaps with its correction network, and their card.

    stride: voxels from patch to patch; a smaller one averages more patches.
    """

    network: MomentumNetwork
    card: Card
    correction: MomentumNetwork | None = None
    stride: int = STRIDE
    device: str = "cpu"

    @property
    def inputs(self) -> NetworkInputs:
        return NetworkInputs(self.card.spacing_mm, self.card.intensity_rule)

    @property
    def kernel(self) -> Kernel:
        return Kernel(**self.card.kernel)

    @property
    def patch(self) -> int:
        """Voxels along each axis of the patches that it was trained on."""
        return self.card.training.get("patch", PATCH)

    def grid(self, pair: ImagePair) -> Grid:
        """The network's grid, upright, around what both images (on the fixed grid) show."""
        spacing = self.card.spacing_mm
        box = shown_box(pair)
        box = box.with_spacing([min(s, spacing) for s in box.spacing])
        return upright_grid(momentum_grid(box, spacing, spacing)[0])

    def to(self, device: str) -> Predictor:
        """The same on a device; the images stay where they are."""
        if device == "cpu":
            return self
        moved = [
            None if n is None else deepcopy(n).to(device) for n in (self.network, self.correction)
        ]
        return replace(self, network=moved[0], correction=moved[1], device=device)

    def __call__(self, seen: ImagePair, onto: Grid) -> GeodesicTransform:
        """The geodesic from both images as the network sees them, on its grid.

        onto: the fixed image's grid, see ``momentum.shot``.
        """
        momentum = self.momentum(self.network, seen.fixed.data, seen.moving.data)
        found = self.shot(momentum, seen.fixed.grid, onto)
        if self.correction is None:
            return found
        back = warp(seen.fixed, found.inverse(), onto=seen.fixed.grid)
        more = self.momentum(self.correction, back.data, seen.moving.data)
        return self.shot(momentum + more, seen.fixed.grid, onto)

    def momentum(self, network: MomentumNetwork, fixed: Tensor, moving: Tensor) -> Tensor:
        """A network's output over images (1, *shape), along the axes of their grid, (D, *shape)."""
        images = (image.to(self.device) for image in (fixed, moving))
        return predicted(network, *images, size=self.patch, stride=self.stride).cpu()

    def shot(self, momentum: Tensor, grid: Grid, onto: Grid) -> GeodesicTransform:
        """The geodesic of a momentum along the axes of its grid."""
        how = {"onto": onto, "device": self.device, **self.card.shooting}
        return shot(to_lps(momentum, grid), self.kernel, grid, **how)


def upright_grid(grid: Grid) -> Grid:
    """The grid with its axes reordered and flipped to be nearest to +x, +y and +z (LPS)."""
    return grid.with_axes(*grid.upright_axes())


def trained(weights: str | Path, correction: str | Path | None = None) -> Predictor:
    """The networks of weights, read again only if their files have changed.

    ValueError for weights of another kind or damaged ones, and for a correction that was trained
    for another prediction.
    """
    paths = [checkpoint_path(name) for name in (weights, correction) if name is not None]
    files = [file for path in paths for file in (path, card_path(path))]
    stamps = tuple(f.stat().st_mtime_ns if f.is_file() else 0 for f in files)
    return _read(tuple(paths), stamps)


@lru_cache(maxsize=4)
def _read(paths: tuple[Path, ...], stamps: tuple[int, ...]) -> Predictor:
    checkpoint = read_checkpoint(paths[0], kind=KIND)
    predictor = Predictor(checkpoint.built(momentum_network), checkpoint.card)
    if len(paths) == 1:
        return predictor
    second = read_checkpoint(paths[1], kind=CORRECTION_KIND)
    second.require(**{name: getattr(checkpoint.card, name) for name in _MUST_AGREE})
    if second.card.training.get("corrects") != sha256_of(paths[0]):
        raise ValueError(
            f"{paths[1]}: this correction was trained for other weights than {paths[0]}: give "
            "those, or train a correction for these"
        )
    return replace(predictor, correction=second.built(momentum_network))
