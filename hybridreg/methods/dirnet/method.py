"""Registration by a trained network in one pass (DIRNet, DLIR): B-splines of its control points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.geometry import Grid, apply_matrix
from hybridreg.io.checkpoints import Card, card_path, checkpoint_path, read_checkpoint
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.dirnet.affine import affine_parts
from hybridreg.methods.dirnet.network import Stage, StagedNetwork, multiple_of, staged_network
from hybridreg.methods.dirnet.task import KIND
from hybridreg.momentum import to_lps
from hybridreg.network_inputs import NetworkInputs
from hybridreg.training_domain import TrainingDomain
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    BSplineTransform,
    Transform,
    compose,
)
from hybridreg.warping import warp

_RING = 3  # control points of zero around, so that the spline ends smoothly where ITK ends it


@dataclass(frozen=True)
class Dirnet:
    """Registers by a trained network (de Vos 2017, 2019); unlike others it takes no similarity.

    weights: of a ``dirnet`` training, a file NAME.safetensors with its card, or a packaged name.
    repeats: how often the last stage is applied, each time to what is left; more fit more closely,
        take longer, and deform more.
    The images are seen on one grid around the fixed image, in the voxels and intensities of
    the network's training. Where a pair has a fixed mask, both images are seen inside it only.
    """

    weights: str
    repeats: int = 1
    device: str = "cpu"

    def __post_init__(self):
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, found {self.repeats}")

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform: the initial one after the network's stages, each exact.

        ValueError for weights of another kind or images that do not fit them.
        """
        check_pair(pair, initial)
        network, card = trained(self.weights, self.device)
        _check_fit(card, pair)
        domain = TrainingDomain.from_card(card.domain)
        grid = input_grid(pair.fixed.grid, card.spacing_mm, multiple_of(network.settings))
        inputs = NetworkInputs(card.spacing_mm, card.intensity_rule)
        seen = inputs(pair, initial, grid)
        doubts = () if domain is None else tuple(domain.doubts(pair, seen))
        seen = _masked(seen, pair)
        fixed, moving = (image.data[None].to(self.device) for image in (seen.fixed, seen.moving))
        with torch.no_grad():
            found = network(fixed, moving, self.repeats)
        parts = [
            _transform(stage, output[0].cpu().clone(), grid)
            for stage, output in zip(found.stages, found.outputs, strict=True)
        ]
        return RegistrationResult(compose(*parts), doubts=doubts).after(initial)


def trained(weights: str, device: str = "cpu") -> tuple[StagedNetwork, Card]:
    """The network of weights and its card; read again only if their files have changed."""
    path = checkpoint_path(weights)
    files = (path, card_path(path))
    stamps = tuple(f.stat().st_mtime_ns if f.is_file() else 0 for f in files)
    return _read(str(path), stamps, device)


@lru_cache(maxsize=4)
def _read(path: str, stamps: tuple[int, ...], device: str) -> tuple[StagedNetwork, Card]:
    checkpoint = read_checkpoint(path, kind=KIND)
    return checkpoint.built(staged_network).to(device), checkpoint.card


def input_grid(fixed: Grid, spacing_mm: float, multiple: int) -> Grid:
    """The grid that the network sees: the fixed image's, in its voxels,
    extended to whole blocks.
    """
    grid = fixed
    if set(fixed.spacing) != {spacing_mm}:
        grid = fixed.with_spacing([spacing_mm] * fixed.dimension)
    missing = [-n % multiple for n in grid.shape]
    stop = [n + less - less // 2 for n, less in zip(grid.shape, missing, strict=True)]
    return grid.crop([-(less // 2) for less in missing], stop) if any(missing) else grid


def _check_fit(card: Card, pair: ImagePair):
    wanted = card.arguments["dimension"], card.arguments["channels"]
    found = pair.dimension, pair.fixed.channels
    for what, had, needed in zip(("dimensions", "channels"), found, wanted, strict=True):
        if had != needed:
            raise ValueError(
                f"the images have {had} {what}, and these weights are for {needed}: give other "
                f"weights or images (data of the training: {card.data})"
            )


def _masked(seen: ImagePair, pair: ImagePair) -> ImagePair:
    """Both images with their lowest value outside the fixed mask, if there is one."""
    if pair.fixed_mask is None:
        return seen
    mask = warp(pair.fixed_mask, IDENTITY, onto=seen.fixed.grid).data != 0
    fixed, moving = (
        replace(image, data=torch.where(mask, image.data, image.data.min()))
        for image in (seen.fixed, seen.moving)
    )
    return replace(seen, fixed=fixed, moving=moving)


def _transform(stage: Stage, output: Tensor, grid: Grid) -> Transform:
    """A stage's output (of one pair, in voxels of the grid) as a transform in LPS mm."""
    spacing = grid.spacing[0]
    if stage.transform == "bspline":
        return spline_transform(spacing * output, stage.spacing, grid)
    matrix, shift = (part.double() for part in affine_parts(output, grid.shape))
    axes = torch.tensor(grid.direction, dtype=torch.float64)
    return AffineTransform.from_parts(axes @ matrix @ axes.T, axes @ shift * spacing, grid.center)


def spline_transform(control: Tensor, spacing: int, grid: Grid) -> BSplineTransform:
    """The B-spline of control points every ``spacing`` voxels of a grid.

    control: displacements in mm along its axes, shape (D, *control shape), see ``splines.dense``.
    """
    first = (spacing - 1) / 2 - _RING * spacing  # of the control grid, in voxels of the grid
    origin = apply_matrix(
        grid.voxel_to_physical(), torch.full((grid.dimension,), first, dtype=torch.float64)
    )
    around = torch.nn.functional.pad(to_lps(control.double(), grid), [_RING] * 2 * grid.dimension)
    steps = tuple(spacing * s for s in grid.spacing)
    return BSplineTransform(
        around, Grid(around.shape[1:], steps, tuple(origin.tolist()), grid.direction)
    )
