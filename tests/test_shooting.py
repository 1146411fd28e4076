"""Geodesic shooting: conservation, inverses, orders of accuracy and gradients, away from zero."""

import math

import pytest
import torch

from hybridreg import shooting
from hybridreg.geodesics import GeodesicTransform, Kernel, as_fields
from hybridreg.lattice import Lattice, sample
from hybridreg.shooting import INTEGRATORS, Diverged, Operator, Shooter, energy
from hybridreg.transforms import AffineTransform, DisplacementField, compose

KERNELS = [Kernel(), Kernel(a=2.0, b=1.5, c=0.3, power=1.5), Kernel(a=9.0, b=0.0, c=1.0, power=2.0)]


def lattice(dimension: int, scale: int = 1) -> Lattice:
    shape = tuple(n * scale for n in (14, 12, 10)[-dimension:])
    return Lattice(shape, tuple(s / scale for s in (1.3, 0.9, 2.0)[:dimension]), (0.0,) * dimension)


def bump(lattice: Lattice, largest_mm: float = 1.5, *, width: float = 1.0) -> torch.Tensor:
    """A smooth velocity (D, *shape), one and the same function on every lattice over one box."""
    parts = []
    for axis, count in enumerate(lattice.size):
        x = (torch.arange(count, dtype=torch.float64) + 0.5) / count  # of the box
        where = [1] * lattice.dimension
        where[lattice.dimension - 1 - axis] = -1
        parts.append(x.reshape(where))
    # Periodic, like the operator.
    hill = math.prod(((2 * math.pi * (p - 0.45)).cos() - 1).div(width).exp() for p in parts)
    swirl = [
        hill * (2 * math.pi * parts[(i + 1) % len(parts)] + i).sin() for i in range(len(parts))
    ]
    velocity = torch.stack([s.expand(lattice.shape) for s in swirl])
    return velocity * (largest_mm / velocity.norm(dim=0).max())


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_flat_and_sharp_are_inverse_and_powers_compose(kernel, dimension):
    operator = Operator(kernel, lattice(dimension), torch.float64)
    m = torch.randn(dimension, *operator.lattice.shape, dtype=torch.float64)
    assert torch.allclose(operator.flat(operator.sharp(m)), m, atol=1e-10)
    half = operator.power(operator.power(m, -0.5), -0.5)
    assert torch.allclose(half, operator.sharp(m), atol=1e-10 * half.abs().max().item())
    damped = operator.damped(m + 7.0 * operator.sharp(m), 7.0)
    assert torch.allclose(damped, m, atol=1e-10)


def test_the_operator_is_its_formula_on_waves():
    """L v = -a Laplacian v - b grad div v + c v, differentiated by hand;
    any power of it repeats it.
    """
    kernel, box = Kernel(a=0.7, b=1.3, c=0.4), lattice(3)
    lengths = [n * s for n, s in zip(box.size, box.spacing)]
    waves = [2 * math.pi * n / length for n, length in zip((1, -2, 1), lengths)]
    k = torch.tensor(waves, dtype=torch.float64)
    phase = sum(
        k[axis] * box.positions(axis).reshape([-1 if i == 2 - axis else 1 for i in range(3)])
        for axis in range(3)
    )
    polarization = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64)
    v = polarization[:, None, None, None] * phase.cos()
    along = kernel.b * k * (k @ polarization)
    factor = (kernel.a * k.square().sum() + kernel.c) * polarization + along
    expected = factor[:, None, None, None] * phase.cos()
    found = Operator(kernel, box, torch.float64).flat(v)
    assert torch.allclose(found, expected, atol=1e-10)
    squared = Operator(Kernel(a=0.7, b=1.3, c=0.4, power=2), box, torch.float64)
    again = Operator(kernel, box, torch.float64).flat(found)
    assert torch.allclose(squared.flat(v), again, atol=1e-10)


def test_the_kernel_is_in_mm_whatever_the_voxels():
    kernel, velocities = Kernel(a=2.0, b=1.0, c=0.5, power=2), []
    for scale in (2, 4):
        box = lattice(2, scale)
        smooth = Operator(kernel, box, torch.float64).sharp(bump(box))
        velocities.append(smooth[:, :: scale // 2, :: scale // 2])
    # Voxel centers of both differ by a fraction of a voxel: equal only as far as that goes.
    assert torch.allclose(*velocities, atol=0.1 * velocities[0].abs().max().item())


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_gradients_of_shooting_agree_with_finite_differences(integrator, dimension):
    box = Lattice((6, 7, 8)[-dimension:], (1.0, 1.5, 2.0)[:dimension], (0.0,) * dimension)
    operator = Operator(Kernel(a=2.0, b=1.0, c=1.0, power=1), box, torch.float64)
    m0 = operator.flat(bump(box)).requires_grad_()
    shooter = Shooter(operator, 10, integrator)  # more steps than states that are kept
    assert shooter.inverse_map(m0).norm(dim=0).max() > 0.5
    assert torch.autograd.gradcheck(shooter.inverse_map, m0, fast_mode=True, atol=1e-6)


@pytest.mark.parametrize(
    ("integrator", "steps", "least"), [("euler", 8, 1.8), ("midpoint", 4, 3.6), ("rk4", 2, 3.6)]
)
def test_twice_the_steps_come_nearer_at_the_rate_of_the_integrator(integrator, steps, least):
    """By 2 at first order and 4 at second; at fourth until interpolation in space is all that is
    left.
    """
    box = lattice(2, 8)
    operator = Operator(Kernel(a=4.0, b=1.0, c=1.0, power=2), box, torch.float64)
    m0 = operator.flat(bump(box, 1.5))
    reference = Shooter(operator, 64, "rk4").inverse_map(m0)
    errors = [
        (Shooter(operator, n, integrator).inverse_map(m0) - reference).norm(dim=0).mean().item()
        for n in (steps, 2 * steps)
    ]
    assert errors[0] > least * errors[1]


def test_energy_is_conserved_the_better_the_shorter_the_steps():
    box = lattice(2, 8)
    operator = Operator(Kernel(a=4.0, b=1.0, c=1.0, power=2), box, torch.float64)
    m0 = operator.flat(bump(box, 0.8))
    drifts = []
    for steps in (4, 8, 16):
        values = [energy(v, m).item() for m, v in Shooter(operator, steps).path(m0)]
        drifts.append(max(abs(value / values[0] - 1) for value in values))
    assert drifts[0] > 1.5 * drifts[1] > 2 * drifts[2]
    fine = [energy(v, m).item() for m, v in Shooter(operator, 16, "midpoint").path(m0)]
    assert max(abs(value / fine[0] - 1) for value in fine) < 0.01


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_both_maps_are_inverse_to_each_other(integrator):
    box = lattice(3, 2)
    operator = Operator(Kernel(a=2.0, b=0.0, c=1.0, power=2), box, torch.float64)
    shooter = Shooter(operator, 40 if integrator == "euler" else 8, integrator)
    momentum = operator.flat(bump(box, 3.0))
    (last, _) = shooter.path(momentum)[-1]
    backward, forward = shooter.inverse_map(momentum), shooter.inverse_map(-last)  # the way back
    assert forward.norm(dim=0).max() > 2
    for outer, inner in ((backward, forward), (forward, backward)):
        left = inner + sample(outer, inner, box)
        assert left.norm(dim=0).mean() < 0.02  # linear interpolation between voxels of 0.5 to 1 mm


def test_a_constant_velocity_shifts_without_an_end():
    """Only c acts on a constant: m = c v is carried along, and the map is a plain shift."""
    box = lattice(2)
    operator = Operator(Kernel(a=1.0, b=1.0, c=0.25), box, torch.float64)
    shift = torch.tensor([0.8, -1.1], dtype=torch.float64)[:, None, None].expand(2, *box.shape)
    assert torch.allclose(operator.flat(shift), 0.25 * shift)
    for integrator in INTEGRATORS:
        backward = Shooter(operator, 3, integrator).inverse_map(operator.flat(shift))
        assert torch.allclose(backward, -shift)


def test_memory_does_not_grow_with_the_number_of_steps():
    box = lattice(2)
    operator = Operator(Kernel(a=4.0, b=0.0, c=1.0, power=2), box, torch.float64)
    m0 = operator.flat(bump(box)).requires_grad_()
    kept = []
    for steps in (16, 40):
        node = Shooter(operator, steps).inverse_map(m0).grad_fn
        kept.append(len(node.saved_tensors))
    assert kept[1] <= kept[0] <= 9


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_gradient_is_the_same_whether_kept_or_computed_again(integrator, monkeypatch):
    operator = Operator(Kernel(a=4.0, b=4.0, c=1.0, power=2), lattice(3), torch.float64)
    m0 = operator.flat(bump(operator.lattice)).requires_grad_()
    shooter = Shooter(operator, 5, integrator)
    found = []
    for most in (math.inf, 0.0):
        monkeypatch.setattr(shooting, "_KEPT_BYTES", most)
        found.append(torch.autograd.grad(shooter.inverse_map(m0).square().sum(), m0)[0])
    assert found[0].norm() > 0 and torch.allclose(*found, rtol=1e-10)


def test_a_momentum_too_large_is_reported_and_not_shot():
    box = lattice(2)
    operator = Operator(Kernel(), box)
    m0 = 1e30 * operator.flat(bump(box).float())
    with pytest.raises(Diverged, match="diverged in step"):
        Shooter(operator, 5, "rk4").inverse_map(m0)


@pytest.mark.parametrize("wrong", [{"a": 0.0}, {"c": -1.0}, {"power": 0.0}, {"b": -1.0}])
def test_a_kernel_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="a kernel needs"):
        Kernel(**wrong)


def test_a_geodesic_is_evaluated_inverted_and_written_as_its_fields(grid3):
    vectors = torch.randn(2, 3, *grid3.shape)
    fields = [DisplacementField(v, grid3) for v in vectors]
    geodesic = GeodesicTransform(vectors[0], Kernel(), grid3, *fields)
    points = grid3.points()[3:6, 4:7, 5:8]
    assert torch.equal(geodesic(points), fields[0](points))
    assert torch.equal(geodesic.inverse()(points), fields[1](points))
    affine = AffineTransform(torch.eye(4))
    assert as_fields(compose(affine, geodesic)).parts == (affine, fields[0])
    with pytest.raises(ValueError, match="does not fit its grid"):
        GeodesicTransform(vectors[0][:, 1:], Kernel(), grid3, *fields)


@pytest.fixture
def grid3():
    from conftest import oblique_grid

    return oblique_grid(3)
