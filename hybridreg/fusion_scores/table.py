"""The table of all scores, and their computation for one fused image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from hybridreg.fusion_scores import (
    gradients,
    information,
    perception,
    sharpness,
    structure,
)
from hybridreg.fusion_scores.fused_pairs import FusedPair, UndefinedScore, fused_pair
from hybridreg.images import Image, LabelMap


@dataclass(frozen=True)
class Score:
    """One score: its function of a ``FusedPair``, which direction is better, and its range."""

    function: Callable[[FusedPair], float]
    better: Literal["higher", "lower"]
    range: tuple[float, float]
    summary: str


@dataclass(frozen=True)
class FusionScores:
    """Scores by name, and the reasons for those that are None."""

    values: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)


_ROOT_3 = math.sqrt(3)

SCORES: Mapping[str, Score] = {
    "QABF": Score(
        gradients.edge_preservation,
        "higher",
        (0, gradients.MAX_PRESERVED),
        "edges of both sources kept in strength and direction",
    ),
    "edge_recall_fixed": Score(
        gradients.fixed_edge_recall, "higher", (0, 1), "strong edges of the fixed image still there"
    ),
    "edge_recall_moved": Score(
        gradients.moved_edge_recall, "higher", (0, 1), "strong edges of the moved image still there"
    ),
    "NABF": Score(
        gradients.fusion_artifacts, "lower", (0, 1), "edges that neither source has: artifacts"
    ),
    "VIF": Score(
        perception.visual_information_fidelity,
        "higher",
        (0, math.inf),
        "visual information of both sources, summed (2 for identical images)",
    ),
    "SSIM": Score(
        structure.structural_similarity, "higher", (-1, 1), "structural similarity, mean of both"
    ),
    "QY": Score(
        structure.yang_similarity,
        "higher",
        (-1, 1),
        "similarity to both sources where they agree, to the nearer one elsewhere",
    ),
    "QCB": Score(
        perception.preserved_contrast, "higher", (0, 1), "contrast visible to the eye that was kept"
    ),
    "NMI": Score(
        information.normalized_mutual_information,
        "higher",
        (0, 2),
        "normalized mutual information with both sources, summed",
    ),
    "MI": Score(
        information.mutual_information,
        "higher",
        (0, 16),
        "mutual information with both sources in bits, summed; a copy of one source scores high",
    ),
    "FMI_pixel": Score(
        information.pixel_feature_information,
        "higher",
        (0, 1),
        "mutual information of 3x3 windows of gray values",
    ),
    "FMI_gradient": Score(
        information.gradient_feature_information,
        "higher",
        (0, 1),
        "mutual information of 3x3 windows of gradient magnitudes",
    ),
    "SCD": Score(
        structure.sum_of_correlations_of_differences,
        "higher",
        (-2, 2),
        "what was added to one source correlates with the other",
    ),
    "CC": Score(
        structure.correlation, "higher", (-1, 1), "correlation, mean of both; plain averaging wins"
    ),
    "EN": Score(information.entropy, "higher", (0, 8), "entropy in bits; rises with noise"),
    "SD": Score(
        sharpness.standard_deviation, "higher", (0, 0.5), "contrast; maximum fusion and noise win"
    ),
    "SF": Score(
        sharpness.spatial_frequency, "higher", (0, _ROOT_3), "differences of neighbors; noise wins"
    ),
    "AG": Score(sharpness.average_gradient, "higher", (0, 1), "mean gradient; rises with noise"),
}


def fusion_scores(
    fused: Image | np.ndarray,
    fixed: Image | np.ndarray,
    moved: Image | np.ndarray,
    *,
    mask: LabelMap | np.ndarray | None = None,
    data_range: float = 1.0,
) -> FusionScores:
    """Every score in ``SCORES`` of a fused image, within the mask or the foreground.

    Images and mask as for ``fused_pair``. A score that is undefined for these images is None, with
    a
    reason: no value is ever NaN. Compare scores with those of trivial fusions
    (a copy of each source, mean, maximum), several of which beat most methods on some score.
    """
    try:
        pair = fused_pair(fused, fixed, moved, mask=mask, data_range=data_range)
    except UndefinedScore as error:
        return FusionScores(dict.fromkeys(SCORES), dict.fromkeys(SCORES, str(error)))
    # Side by side, in as many threads as torch may use.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        found = {name: threads.submit(score.function, pair) for name, score in SCORES.items()}
    values, reasons = {}, {}
    for name, score in found.items():
        try:
            values[name] = float(score.result())
        except UndefinedScore as error:
            values[name], reasons[name] = None, str(error)
    return FusionScores(values, reasons)
