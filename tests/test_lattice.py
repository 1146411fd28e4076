"""Lattices: sampling, differences and resampling agree with the transforms of the package."""

import pytest
import torch
from conftest import oblique_grid

from hybridreg.geometry import Grid
from hybridreg.lattice import (
    Lattice,
    Resampling,
    derivatives,
    sample,
)
from hybridreg.transforms import interpolate


def along_axes(grid: Grid, vectors: torch.Tensor) -> torch.Tensor:
    """LPS components (D, ...) of vectors given along the voxel axes."""
    axes = torch.tensor(grid.direction, dtype=torch.float64)
    return torch.einsum("ca,a...->c...", axes, vectors)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dimension", [2, 3])
def test_sampling_agrees_with_interpolation_in_space(dimension, threads):
    of = oblique_grid(dimension)
    inner = [3] * dimension, [n - 4 for n in of.shape]
    at = of.crop(*inner).with_spacing([s * 1.3 for s in of.spacing])
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, *of.shape, generator=generator, dtype=torch.float64)
    shift = torch.randn(dimension, *at.shape, generator=generator, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = sample(values, shift, Lattice.of(at, of), Lattice.of(of))
    finally:
        torch.set_num_threads(before)
    points = at.points() + along_axes(at, shift).movedim(0, -1)
    expected, inside = interpolate(values, of, points)
    assert inside.double().mean() > 0.9
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("dimension", [2, 3])
def test_derivatives_of_a_wave_that_fits_the_lattice(dimension):
    shape, spacing = (10, 12, 14)[-dimension:], (0.7, 1.1, 2.0)[:dimension]
    lattice = Lattice(shape, spacing, (0.0,) * dimension)
    for axis in range(dimension):
        length = shape[dimension - 1 - axis] * spacing[axis]
        k = 2 * torch.pi / length
        where = [1] * dimension
        where[dimension - 1 - axis] = -1
        phase = (k * lattice.positions(axis)).reshape(where).expand(shape)
        slopes = derivatives(phase.sin()[None], spacing)[0]
        exact = phase.cos() * torch.sin(torch.tensor(k * spacing[axis])) / spacing[axis]
        for other, slope in enumerate(slopes):
            expected = exact if other == axis else torch.zeros(shape)
            assert torch.allclose(slope, expected.double(), atol=1e-12)


def test_the_gradient_of_derivatives_is_exact():
    values = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: torch.stack(derivatives(v, (1.0, 2.0))[1]), values)


@pytest.mark.parametrize("dimension", [2, 3])
def test_resampling_agrees_with_sampling(dimension):
    of = oblique_grid(dimension)
    at = of.crop([-2] * dimension, [n - 3 for n in of.shape]).with_spacing([0.8] * dimension)
    lattices = Lattice.of(of), Lattice.of(at, of)
    values = torch.randn(3, *of.shape, dtype=torch.float64)
    still = torch.zeros(dimension, *at.shape, dtype=torch.float64)
    found = Resampling(*lattices, dtype=torch.float64)(values)
    assert torch.allclose(found, sample(values, still, lattices[1], lattices[0]), atol=1e-9)
