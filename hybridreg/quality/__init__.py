"""Assessment of a registration without labels: similarity and a verdict."""

from hybridreg.quality.similarity import Similarity, similarity
from hybridreg.quality.verdict import Intent, Verdict, judge

__all__ = ["Intent", "Similarity", "Verdict", "judge", "similarity"]
