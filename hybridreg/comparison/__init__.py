"""Comparison of methods on the same cases: records, statistics, and one page about all of them."""

from hybridreg.comparison.run import Comparison, Settings, compare

__all__ = ["Comparison", "Settings", "compare"]
