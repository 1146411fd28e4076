"""A matrix at every frequency applied to spectra of vectors, for ``shooting``."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
from torch import Tensor

from hybridreg.kernels.compiled import NO_WEIGHT, over_slabs


def apply(
    loops: ModuleType, spectrum: Tensor, across: Tensor, along: Tensor | None, k: Sequence[Tensor]
):
    """(across + along k k^T) s in place, of a spectrum s (D, *shape) as ``torch.fft.rfftn`` gives.

    across, along: shape (*shape). k: of the axes (x, y, z), each along its own.
    """
    s, factors = spectrum.numpy(), across.numpy()
    others = NO_WEIGHT if along is None else along.numpy()
    waves = [w.numpy() for w in k]
    if len(waves) == 2:
        s, factors = s[:, :, None], factors[:, None]
        others = others if along is None else others[:, None]
        waves.insert(1, np.zeros(1, np.float32))
    arrays = (np.ascontiguousarray(a) for a in (factors, others))
    over_slabs(loops.apply, s.shape[1:], s, *arrays, *waves)
