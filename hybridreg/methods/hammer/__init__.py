"""Registration by matching critical points through their attribute vectors (HAMMER, Shen 2002)."""

from hybridreg.methods.hammer.method import Hammer

__all__ = ["Hammer"]
