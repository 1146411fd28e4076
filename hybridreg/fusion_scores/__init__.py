"""Quality measures of a fused image, each with one fixed definition.

The definition is in the docstring of the score's function: source, range, direction, and how
volumes are scored. All are computed over a foreground that depends on the two sources alone, since
half of a head image is air, which every score would otherwise count as fused perfectly. ``SCORES``
is the table, ``fusion_scores`` computes all of them for one image. No single score shows that a
fusion is good: compare with trivial fusions.
"""

from hybridreg.fusion_scores.fused_pairs import FusedPair, UndefinedScore, fused_pair
from hybridreg.fusion_scores.gradients import edge_recall
from hybridreg.fusion_scores.table import (
    SCORES,
    FusionScores,
    Score,
    fusion_scores,
)

__all__ = [
    "SCORES",
    "FusedPair",
    "FusionScores",
    "Score",
    "UndefinedScore",
    "edge_recall",
    "fused_pair",
    "fusion_scores",
]
