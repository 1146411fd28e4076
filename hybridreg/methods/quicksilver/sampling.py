"""The probabilistic network: momenta drawn by dropout, their mean, and the spread of their maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridreg import progress
from hybridreg.cases import ImagePair
from hybridreg.geodesics import GeodesicTransform
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.methods.quicksilver.prediction import Predictor
from hybridreg.transforms import IDENTITY
from hybridreg.warping import warp


def sampled(
    predictor: Predictor, seen: ImagePair, onto: Grid, samples: int, seed: int
) -> tuple[GeodesicTransform, Image]:
    """The geodesic of the mean momentum, and the deviation of the samples' maps in mm on ``onto``.

    The published network draws 50; its correction network is not used.
    """
    total, spread = None, _Spread()
    for number in range(samples):
        momentum = _drawn(predictor, seen, seed + number)
        total = momentum if total is None else total + momentum
        spread.add(predictor.shot(momentum, seen.fixed.grid, seen.fixed.grid).field.vectors)
        progress.report((number + 1) / samples, f"sample {number + 1} of {samples}")
    found = predictor.shot(total / samples, seen.fixed.grid, onto)
    deviation = Image(spread.deviation, seen.fixed.grid)
    return found, warp(deviation, IDENTITY, onto=onto)


def _drawn(predictor: Predictor, seen: ImagePair, seed: int) -> Tensor:
    """A momentum of the network with some of its features dropped, by the seed alone."""
    dropouts = [m for m in predictor.network.modules() if isinstance(m, nn.Dropout)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            for layer in dropouts:
                layer.train()
            return predictor.momentum(predictor.network, seen.fixed.data, seen.moving.data)
        finally:
            predictor.network.eval()


class _Spread:
    """The standard deviation of vectors that come one after the other (Welford)."""

    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, vectors: Tensor):
        self.count += 1
        apart = vectors - self.mean
        self.mean = self.mean + apart / self.count
        self.squares = self.squares + (apart * (vectors - self.mean)).sum(0, keepdim=True)

    @property
    def deviation(self) -> Tensor:
        """The root of the mean squared distance from the mean, (1, *shape)."""
        return (self.squares / (self.count - 1)).clamp(min=0).sqrt().float()
