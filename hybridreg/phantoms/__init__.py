"""Phantoms in closed form, whose true alignment is known exactly: a human head, and blobs.

A phantom is a function of points in LPS mm, so an image of it can be taken on any grid through any
transform, without resampling: with ``moving = head(g, "t1")`` and ``fixed = head(h, "ct",
transform=T)``, T is exactly the true transform from fixed to moving.
"""

from hybridreg.phantoms.blobs import blobs
from hybridreg.phantoms.deformation import SmoothDeformation, smooth_deformation
from hybridreg.phantoms.heads import head, head_case, head_grid, head_labels

__all__ = [
    "SmoothDeformation",
    "blobs",
    "head",
    "head_case",
    "head_grid",
    "head_labels",
    "smooth_deformation",
]
