"""The layers of a network in a TorchScript file as descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

from hybridreg.descriptors.base import image_of
from hybridreg.descriptors.trained_lattice import TrainedLattice
from hybridreg.descriptors.unit import unit
from hybridreg.images import Image

_VALUES = 20_000  # voxels of an image from which components are found


@dataclass(frozen=True)
class TorchScript:
    """What a TorchScript model gives for an image, its channels reduced by PCA (as in ITKImpact).

    model: a file of ``torch.jit.save``. Such a file is a program, which can read and write files
    like any other: trusted = true states that you trust whoever made it.
    layers: if the model returns several tensors, the numbers of those to use. They are (1, C,
    *shape), scaled up to the image where coarser, each voxel's vector of every layer scaled to unit
    norm.
    channels: of the result, by PCA; the components of two images are found together. spacing_mm:
    voxels that the model was made for; None leaves the image as it is. intensity: a rule of
    ``intensity.to_unit``. multiple: sides of the input are padded to multiples of it.
    """

    model: str
    trusted: bool = False
    layers: tuple[int, ...] = (0,)
    channels: int = 12
    spacing_mm: float | None = None
    intensity: str = "percentiles"
    multiple: int = 16

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.trusted:
            raise ValueError(
                f"{self.model} is a program that can read and write your files: if you "
                "trust whoever "
                "made it, say so by trusted = true"
            )
        if not Path(self.model).is_file():
            raise ValueError(f"there is no TorchScript file {self.model}")
        if not self.layers or min(self.layers) < 0 or self.channels < 2 or self.multiple < 1:
            raise ValueError(
                "torchscript needs numbers of layers, 2 channels or more and a multiple "
                "of 1 or more, "
                f"found {self.layers}, {self.channels} and {self.multiple}"
            )

    def __call__(self, image: Image) -> Image:
        """The descriptors of one image, of components of its own: compare those of ``jointly``."""
        return self.jointly(image)[0]

    def jointly(self, *images: Image) -> list[Image]:
        """The descriptors of several images, of components found in all of them."""
        model = self._loaded()
        lattices = [self._lattice(image) for image in images]
        found = [
            lattice.described(image, lambda values: self._of_layers(model, values))
            for lattice, image in zip(lattices, images, strict=True)
        ]
        project = _components([c for channels in found for c in channels], self.channels)
        return [
            image_of([unit(project(c)) for c in channels], image)
            for channels, image in zip(found, images, strict=True)
        ]

    def _loaded(self) -> torch.jit.ScriptModule:
        try:
            return torch.jit.load(self.model, map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.model}: this is no TorchScript file ({reason})") from error

    def _lattice(self, image: Image) -> TrainedLattice:
        spacing = self.spacing_mm or min(image.grid.spacing)
        return TrainedLattice(image.grid.dimension, spacing, self.intensity)

    @torch.no_grad()
    def _of_layers(self, model: torch.jit.ScriptModule, values: Tensor) -> Tensor:
        """(1, *shape) -> (C, *shape), the vectors of all layers."""
        padding = [p for n in reversed(values.shape[1:]) for p in (0, -n % self.multiple)]
        given = F.pad(values[None], padding)
        try:
            outputs = model(given)
        except RuntimeError as error:
            reason = [line for line in str(error).splitlines() if line.strip()][-1]
            raise ValueError(
                f"{self.model} failed on an input of shape {tuple(given.shape)}: "
                f"{reason}; is it for "
                "images of this dimension and of one channel?"
            ) from error
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        inner = (slice(None), *[slice(0, n) for n in values.shape[1:]])
        return torch.cat([self._layer(outputs, n, given)[inner] for n in self.layers])

    def _layer(self, outputs: list, number: int, given: Tensor) -> Tensor:
        if number >= len(outputs):
            raise ValueError(
                f"{self.model} returns {len(outputs)} layers; there is no layer {number}"
            )
        layer = outputs[number]
        if not isinstance(layer, Tensor) or layer.ndim != given.ndim or len(layer) != 1:
            raise ValueError(
                f"{self.model}: layer {number} has to be a tensor (1, channels, *shape), found "
                f"{tuple(layer.shape) if isinstance(layer, Tensor) else type(layer).__name__}"
            )
        if not torch.isfinite(layer).all():
            raise ValueError(f"{self.model}: layer {number} has values that are not finite")
        if layer.shape[2:] != given.shape[2:]:
            mode = "bilinear" if given.ndim == 4 else "trilinear"
            layer = F.interpolate(layer.float(), given.shape[2:], mode=mode)
        return unit(layer[0].float()) if layer.shape[1] > 1 else layer[0].float()


def _components(found: list[Tensor], channels: int):
    """The projection (C, *shape) -> (channels, *shape) on the principal components of all
    vectors.
    """
    count = len(found[0])
    if count <= channels:
        return lambda vectors: vectors
    some = []
    for vectors in found:
        flat = vectors.flatten(1)
        some.append(flat[:, :: max(1, flat.shape[1] * len(found) // _VALUES)].T)
    fitted = PCA(channels, svd_solver="covariance_eigh").fit(torch.cat(some).double().numpy())
    axes, mean = (torch.from_numpy(a).float() for a in (fitted.components_, fitted.mean_))

    def project(vectors: Tensor) -> Tensor:
        flat = vectors.flatten(1)
        return (axes @ flat - (axes @ mean)[:, None]).reshape(channels, *vectors.shape[1:])

    return project
