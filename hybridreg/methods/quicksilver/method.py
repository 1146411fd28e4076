"""Registration by a predicted momentum: linear alignment in, geodesic out, nothing optimized."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch

from hybridreg import progress
from hybridreg.cases import ImagePair, warp_pair
from hybridreg.checks import check_pair
from hybridreg.geodesics import GeodesicTransform
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.methods.base import RegistrationError, RegistrationResult
from hybridreg.methods.quicksilver.patches import STRIDE
from hybridreg.methods.quicksilver.prediction import Predictor, trained
from hybridreg.methods.quicksilver.sampling import sampled
from hybridreg.shooting import Diverged
from hybridreg.training_domain import TrainingDomain
from hybridreg.transforms import IDENTITY, Transform, compose
from hybridreg.warping import warp

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quicksilver:
    """Predicts the momentum of a geodesic by a trained network (Yang 2017).

    Start it from a linear alignment, such as a first stage of a chain.

    weights: of a ``quicksilver`` training, a file NAME.safetensors with its card, or a packaged
        name.
    correction: weights of the ``quicksilver-correction`` training that follows it.
    samples: with weights trained with dropout, how many networks are drawn; the result is their
        mean momentum, and its uncertainty the deviation of their maps. 50 as published; 0 for none.
    stride: voxels from patch to patch; smaller ones average more of them, and take longer.
    spacing_mm: the voxels on which the network works; None takes those of its training, the only
        ones that are accepted.
    seed: of the samples.
    """

    weights: str
    correction: str | None = None
    samples: int = 0
    stride: int = STRIDE
    spacing_mm: float | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self):
        if self.samples < 0 or self.samples == 1:
            raise ValueError(f"samples is 0 or at least 2, found {self.samples}")
        if not 1 <= self.stride <= 15:
            raise ValueError(f"stride is 1 to 15 voxels, found {self.stride}")

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> A(phi^-1(x)), where A is the initial transform, and its inverse.

        ValueError for weights of another kind or images that do not fit them; RegistrationError if
        the predicted geodesic diverges.
        """
        check_pair(pair, initial)
        predictor = self._predictor(pair)
        grid = predictor.grid(warp_pair(pair, initial))
        seen = predictor.inputs(pair, initial, grid)
        doubts = self._doubts(predictor, pair, seen)
        seen = _masked(seen, pair)
        progress.report(0.1, "predicting the momentum")
        try:
            found, uncertainty = self._found(predictor, seen, pair.fixed.grid)
        except Diverged as error:
            raise RegistrationError(
                f"the predicted geodesic diverged ({error}): the images are unlike those that the "
                "network was trained on; use a method that is not trained"
            ) from error
        return RegistrationResult(
            compose(initial, found),
            inverse=compose(found.inverse(), initial.inverse()),
            uncertainty=uncertainty,
            doubts=doubts,
        )

    def _predictor(self, pair: ImagePair) -> Predictor:
        predictor = replace(trained(self.weights, self.correction), stride=self.stride)
        card, network = predictor.card, predictor.network
        if self.spacing_mm is not None and self.spacing_mm != card.spacing_mm:
            raise ValueError(
                f"{self.weights}: these weights were trained at {card.spacing_mm:g} mm, and "
                f"{self.spacing_mm:g} mm is requested: leave spacing_mm out, or train at that"
            )
        for what, found, needed in (
            ("dimensions", pair.dimension, network.dimension),
            ("channels", pair.fixed.channels, 1),
        ):
            if found != needed:
                raise ValueError(
                    f"the images have {found} {what}, and the weights {self.weights} are for "
                    f"{needed}: give other weights or images (they were trained on {card.data})"
                )
        if self.samples and not card.arguments.get("dropout"):
            raise ValueError(
                f"samples need a network with dropout, and {self.weights} was trained without: "
                "train with dropout = 0.2, or leave samples out"
            )
        return predictor

    def _doubts(self, predictor: Predictor, pair: ImagePair, seen: ImagePair) -> tuple[str, ...]:
        domain = TrainingDomain.from_card(predictor.card.domain)
        return () if domain is None else tuple(domain.doubts(pair, seen))

    def _found(
        self, predictor: Predictor, seen: ImagePair, onto: Grid
    ) -> tuple[GeodesicTransform, Image | None]:
        predictor = predictor.to(self.device)
        if not self.samples:
            return predictor(seen, onto), None
        return sampled(predictor, seen, onto, self.samples, self.seed)


def _masked(seen: ImagePair, pair: ImagePair) -> ImagePair:
    """Both images 0 outside the fixed mask, if there is one: a network has learned that as air."""
    if pair.fixed_mask is None:
        return seen
    mask = warp(pair.fixed_mask, IDENTITY, onto=seen.fixed.grid).data != 0
    fixed, moving = (
        replace(image, data=torch.where(mask, image.data, 0.0))
        for image in (seen.fixed, seen.moving)
    )
    return replace(seen, fixed=fixed, moving=moving)
