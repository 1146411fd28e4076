"""Evaluation of a registration by labels, landmarks, ground truth, and the transform itself.

Every measure has one definition, in the docstring of its function. Distances are in mm. A measure
whose inputs are missing, or that is undefined, is None.
"""

from hybridreg.evaluation.deformation import (
    JacobianStatistics,
    jacobian_statistics,
    non_diffeomorphic_percent,
)
from hybridreg.evaluation.distances import (
    Distances,
    inverse_consistency,
    rotation_between,
    target_registration_error,
    transform_error,
)
from hybridreg.evaluation.labels import (
    SurfaceDistance,
    dice,
    overall_dice,
    surface_distances,
)
from hybridreg.evaluation.scores import (
    DiceScores,
    LabelScore,
    LandmarkScores,
    Scores,
    SurfaceScores,
    TruthScores,
    evaluate,
    evaluated_region,
)

__all__ = [
    "DiceScores",
    "Distances",
    "JacobianStatistics",
    "LabelScore",
    "LandmarkScores",
    "Scores",
    "SurfaceDistance",
    "SurfaceScores",
    "TruthScores",
    "dice",
    "evaluate",
    "evaluated_region",
    "inverse_consistency",
    "jacobian_statistics",
    "non_diffeomorphic_percent",
    "overall_dice",
    "rotation_between",
    "surface_distances",
    "target_registration_error",
    "transform_error",
]
