"""How unlike the neighborhoods of points are to those of candidates in another image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybridreg.kernels.compiled import loops, over_slabs


def differences(
    first: Tensor,
    second: Tensor,
    points: Tensor,
    candidates: Tensor,
    around: Tensor,
    *,
    threads: int | None = None,
) -> Tensor:
    """sum_c (first(p + k) - second(p + o + k))^2, its mean over k; shape (points, candidates).

    first, second: images (C, *shape). points: p, candidates: o, around: k, whole numbers (n, D) in
    array order (z, y, x). Beyond the border values repeat.
    """
    if compiled := loops("matching", first, second):
        out = np.empty((len(points), len(candidates)), np.float32)
        arguments = [_channels_last(image) for image in (first, second)]
        arguments += [_in_volume(index) for index in (points, candidates, around)]
        if len(out):
            over_slabs(compiled.differences, out.shape, *arguments, out, threads=threads)
        return torch.from_numpy(out)
    found = first.new_zeros(len(points), len(candidates))
    for k in around:
        here = _at(first, points + k)
        for m, candidate in enumerate(candidates):
            found[:, m] += (here - _at(second, points + candidate + k)).square().sum(0)
    return found / len(around)


def _at(image: Tensor, index: Tensor) -> Tensor:
    places = [i.clamp(0, n - 1) for i, n in zip(index.T, image.shape[1:], strict=True)]
    return image[(slice(None), *places)]


def _channels_last(image: Tensor) -> np.ndarray:
    array = image.detach().movedim(0, -1).contiguous().numpy()
    return array if array.ndim == 4 else array[:, None]


def _in_volume(index: Tensor) -> np.ndarray:
    """(n, D) as (n, 3); a 2D image is a volume (y, 1, x)."""
    array = index.to(torch.int64).numpy()
    if array.shape[1] == 2:
        array = np.stack([array[:, 0], np.zeros_like(array[:, 0]), array[:, 1]], 1)
    return np.ascontiguousarray(array)
