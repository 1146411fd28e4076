"""Pose estimation by hierarchical regression of local image residuals (PEHL, Miao 2016)."""

from hybridreg.methods.pehl.method import Pehl

__all__ = ["Pehl"]
