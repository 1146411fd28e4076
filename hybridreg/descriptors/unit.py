"""Descriptors as centered vectors of unit norm: then their squared distance is one metric for all."""

from __future__ import annotations

from torch import Tensor

_FLAT = 1e-6  # norms below it are rounding errors: such a voxel shows no structure


def unit(vectors: Tensor, *, flat: float = _FLAT) -> Tensor:
    """Vectors (C, *shape), less the mean of their components, scaled to norm 1 at every voxel.

    The squared distance of two is then 2 - 2 times their correlation (Wu 2016). flat: shorter
    vectors are scaled by its inverse only, so they become shorter than 1, and 0 where nothing is
    seen.
    """
    vectors = vectors - vectors.mean(0)
    return vectors / vectors.norm(dim=0).clamp(min=flat)
