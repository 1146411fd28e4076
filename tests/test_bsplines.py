"""B-splines at scattered points: compiled loops and torch agree with SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as Reference
from torch import Generator

from hybridreg.bsplines import BSpline
from hybridreg.kernels.compiled import torch_only


def basis(places: np.ndarray, count: int, order: int) -> np.ndarray:
    """Of each of ``count`` centered B-splines at places, (places, count)."""
    spline = Reference.basis_element(np.arange(order + 2) - (order + 1) / 2, extrapolate=False)
    return np.nan_to_num(spline(places[:, None] - np.arange(count)))


@pytest.mark.parametrize("shape", [(7, 9, 8), (9, 7)])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_spline_is_the_sum_of_its_basis_also_at_the_far_edge(shape, order):
    generator = Generator().manual_seed(order)
    coefficients = torch.randn(len(shape), *shape, generator=generator, dtype=torch.float64)
    lowest = (order - 1) / 2
    room = torch.tensor(shape[::-1], dtype=torch.float64) - order
    index = lowest + room * torch.rand(300, len(shape), generator=generator, dtype=torch.float64)
    index[0], index[1] = lowest, lowest + room * (1 - 1e-9)
    per_axis = [basis(x.numpy(), n, order) for x, n in zip(index.T, shape[::-1])]
    letters = "zyx"[-len(shape) :]
    weights = [per_axis[len(shape) - 1 - k] for k in range(len(shape))]  # array order
    terms = ",".join(f"n{letter}" for letter in letters)
    wanted = np.einsum(f"c{letters},{terms}->nc", coefficients.numpy(), *weights)
    spline = BSpline(coefficients, order)
    np.testing.assert_allclose(spline(index).numpy(), wanted, atol=1e-7)
    with torch_only():
        np.testing.assert_allclose(spline(index).numpy(), wanted, atol=1e-7)
    assert len(spline(index[:0])) == 0
