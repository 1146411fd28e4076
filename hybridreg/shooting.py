"""Geodesic shooting of diffeomorphisms (LDDMM): EPDiff from an initial momentum, in mm.

Vectors are (D, *shape), components (x, y, z) along the voxel axes, in mm; maps are displacements of
voxels. The momentum is transported by the flow (Miller 2006; as integrated by Yang 2017):

    m(t) = |D phi^-1| (D phi^-1)^T m0 o phi^-1,    v = K m,    d phi / dt = v o phi

so the state is one map, phi^-1, and no differential equation of the momentum has to be solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hybridreg.geodesics import Kernel
from hybridreg.kernels import geodesics, spectra
from hybridreg.kernels.compiled import loops
from hybridreg.kernels.matrices import determinant
from hybridreg.lattice import Lattice, derivatives, jacobian, placement, sample

_KEPT = 8  # states of a flow kept as checkpoints for its gradient; the others are recomputed
_KEPT_BYTES = 2e9  # limit for keeping the intermediate fields between them as well
_FIELDS_A_STEP = {"euler": 12, "midpoint": 30, "rk4": 60}  # approximate number of those fields


@dataclass(frozen=True, eq=False)
class Operator:
    """L of a kernel on a periodic lattice, in the Fourier domain.

    At a frequency k the matrix of L is (l + b k k^T)^power, l = a |k|^2 + c: eigenvalues l + b
    |k|^2 along k and l across, so that any power of it is known in closed form. (The code of Yang 2017
    uses the symbols of finite differences instead of k; with k, L does not depend on the voxel
    size.)
    """

    kernel: Kernel
    lattice: Lattice
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def flat(self, velocity: Tensor) -> Tensor:
        """The momentum L v."""
        return self.power(velocity, 1.0)

    def sharp(self, momentum: Tensor) -> Tensor:
        """The velocity K m."""
        return self.power(momentum, -1.0)

    def power(self, vectors: Tensor, exponent: float, *, band: float = 1.0) -> Tensor:
        """L^exponent of vectors (D, *shape), band-limited.

        band: cutoff as a fraction of the Nyquist frequency along each axis; 1 keeps all.
        """
        return _Applied.apply(vectors, self, _Power(exponent), band)

    def damped(self, vectors: Tensor, weight: float) -> Tensor:
        """(1 + weight K)^-1 of vectors (D, *shape)."""
        return _Applied.apply(vectors, self, _Damping(weight), 1.0)

    def _applied(self, vectors: Tensor, function: Function, band: float) -> Tensor:
        across, along = self._factors(function, band)
        axes = tuple(range(1, vectors.ndim))
        spectrum = torch.fft.rfftn(vectors, dim=axes)
        if compiled := loops("spectra", vectors):
            waves = [k.flatten() for k in self._frequencies]
            spectra.apply(
                compiled, spectrum, across[..., 0], None if along is None else along[..., 0], waves
            )
            return torch.fft.irfftn(spectrum, s=vectors.shape[1:], dim=axes)
        spectrum = torch.view_as_real(spectrum)
        if along is None:
            spectrum.mul_(across)
        else:
            inner = sum(k * part for k, part in zip(self._frequencies, spectrum)).mul_(along)
            spectrum.mul_(across)
            for k, part in zip(self._frequencies, spectrum):
                part.addcmul_(k, inner)
        spectrum = torch.view_as_complex(spectrum)
        return torch.fft.irfftn(spectrum, s=vectors.shape[1:], dim=axes)

    def _factors(self, function: Function, band: float) -> tuple[Tensor, Tensor | None]:
        if (function, band) not in self._cache:
            kernel, h = self.kernel, self.lattice.spacing
            squares = sum((angle / h).square() for angle, h in zip(self._angles, h))
            odd = sum((angle / h).square() for angle, h in zip(self._odd_angles, h))
            lower = kernel.a * squares + kernel.c
            across = function(lower**kernel.power)
            along = function((lower + kernel.b * odd) ** kernel.power) - across
            along = torch.where(odd > 0, along / odd.clamp(min=1e-30), 0.0)
            kept = [(t * self._within(band)).to(self.dtype)[..., None] for t in (across, along)]
            self._cache[function, band] = (kept[0], kept[1] if kernel.b > 0 else None)
        return self._cache[function, band]

    def _within(self, band: float) -> Tensor:
        return math.prod((a.abs() <= band * math.pi + 1e-9).double() for a in self._angles)

    @cached_property
    def _cache(self) -> dict[tuple[Function, float], tuple[Tensor, Tensor | None]]:
        return {}

    @cached_property
    def _frequencies(self) -> list[Tensor]:
        """k for the axes (x, y, z), each along its axis of a spectrum viewed as pairs of reals."""
        angles = zip(self._odd_angles, self.lattice.spacing)
        return [(angle / h).to(self.dtype)[..., None] for angle, h in angles]

    @cached_property
    def _odd_angles(self) -> list[Tensor]:
        """Like ``_angles``, but 0 at the Nyquist frequency, whose sign is unknown."""
        return [torch.where(a.abs() < math.pi - 1e-9, a, 0.0) for a in self._angles]

    @cached_property
    def _angles(self) -> list[Tensor]:
        """For the axes (x, y, z): the phase change of a frequency over one voxel, in radians."""
        shape, angles = self.lattice.shape, []
        for axis in reversed(range(len(shape))):
            frequency = torch.fft.rfftfreq if axis == len(shape) - 1 else torch.fft.fftfreq
            angle = 2 * math.pi * frequency(shape[axis], dtype=torch.float64, device=self.device)
            where = [1] * len(shape)
            where[axis] = -1
            angles.append(angle.reshape(where))
        return angles


Function = Callable[[Tensor], Tensor]
"""A function of the eigenvalues of L, hashable by value."""


@dataclass(frozen=True)
class _Power:
    exponent: float

    def __call__(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues**self.exponent


@dataclass(frozen=True)
class _Damping:
    weight: float

    def __call__(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues / (eigenvalues + self.weight)


class _Applied(torch.autograd.Function):
    """A function of L applied to vectors; symmetric, so its own adjoint."""

    @staticmethod
    def forward(ctx, vectors: Tensor, operator: Operator, function: Function, band: float):
        ctx.operator, ctx.function, ctx.band = operator, function, band
        return operator._applied(vectors, function, band)

    @staticmethod
    def backward(ctx, adjoint: Tensor) -> tuple[Tensor, None, None, None]:
        return _Applied.apply(adjoint, ctx.operator, ctx.function, ctx.band), None, None, None


def energy(velocity: Tensor, momentum: Tensor) -> Tensor:
    """<v, m> / 2, as a mean over the voxels; constant along a geodesic."""
    return 0.5 * (velocity * momentum).sum(0).mean()


State = Tensor | None
"""The displacement of phi^-1, (D, *shape); None is the identity, the initial state."""


def coadjoint(momentum: Tensor, inverse_map: State, lattice: Lattice) -> Tensor:
    """m(t) = |D phi^-1| (D phi^-1)^T m0 o phi^-1, from m0 and the displacement of phi^-1."""
    if inverse_map is None:
        return momentum
    if loops("geodesics", momentum, inverse_map):
        return _Transported.apply(momentum, inverse_map, lattice)
    rows = jacobian(inverse_map, lattice.spacing)
    carried = sample(momentum, inverse_map, lattice)
    axes = range(lattice.dimension)
    pulled = [sum(rows[i][j] * carried[i] for i in axes) for j in axes]
    return torch.stack(pulled) * determinant(rows)


class _Transported(torch.autograd.Function):
    """``coadjoint`` by the compiled kernels."""

    @staticmethod
    def forward(ctx, momentum: Tensor, inverse_map: Tensor, lattice: Lattice) -> Tensor:
        ctx.save_for_backward(momentum, inverse_map)
        ctx.placement = placement(lattice, lattice)
        return geodesics.coadjoint(momentum, inverse_map, ctx.placement)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint: Tensor) -> tuple[Tensor, Tensor, None]:
        return *geodesics.coadjoint_gradient(*ctx.saved_tensors, ctx.placement, adjoint), None


def along(vectors: Tensor, velocity: Tensor, lattice: Lattice) -> Tensor:
    """(D u) v: the change of u along v."""
    gradient = derivatives(vectors, lattice.spacing)
    return torch.stack([sum(g * v for g, v in zip(row, velocity)) for row in gradient])


def followed(outer: State, inner: Tensor, lattice: Lattice) -> Tensor:
    """The displacement of x -> outer(inner(x)), from the displacements of both."""
    return inner if outer is None else inner + sample(outer, inner, lattice)


# A time step gives the displacement of chi, the inverse of the flow over that time, from
# d chi / dt = -(D chi) v; then phi^-1 becomes phi^-1 o chi.
Velocity = Callable[[State], Tensor]


def _euler(velocity: Velocity, state: State, dt: float, lattice: Lattice) -> Tensor:
    return -dt * velocity(state)


def _midpoint(velocity: Velocity, state: State, dt: float, lattice: Lattice) -> Tensor:
    half = -dt / 2 * velocity(state)
    v = velocity(followed(state, half, lattice))
    return -dt * (v + along(half, v, lattice))


def _runge_kutta(velocity: Velocity, state: State, dt: float, lattice: Lattice) -> Tensor:
    slopes: list[Tensor] = []
    for part in (0.0, 0.5, 0.5, 1.0):
        if not slopes:
            slopes.append(-velocity(state))
            continue
        chi = part * dt * slopes[-1]
        v = velocity(followed(state, chi, lattice))
        slopes.append(-v - along(chi, v, lattice))
    return dt / 6 * (slopes[0] + 2 * slopes[1] + 2 * slopes[2] + slopes[3])


INTEGRATORS = {"euler": _euler, "midpoint": _midpoint, "rk4": _runge_kutta}


@dataclass(frozen=True, eq=False)
class Shooter:
    """Shoots momenta on a lattice. steps: of time. integrator: a name in INTEGRATORS."""

    operator: Operator
    steps: int = 5
    integrator: str = "euler"

    def __post_init__(self):
        if self.integrator not in INTEGRATORS:
            raise ValueError(
                f"an integrator is one of {', '.join(INTEGRATORS)}; found {self.integrator!r}"
            )
        if self.steps < 1:
            raise ValueError(f"shooting needs at least one time step, found {self.steps}")

    @property
    def lattice(self) -> Lattice:
        return self.operator.lattice

    def inverse_map(self, momentum: Tensor) -> Tensor:
        """phi^-1 at time 1, a displacement (D, *shape) in mm.

        Differentiable once; Diverged if it overflows. For the gradient at most 8 states are kept as
        checkpoints, and the intermediate fields only if they are small: otherwise they are
        recomputed. So memory does not grow with the number of steps.
        """
        fields = self.steps * _FIELDS_A_STEP[self.integrator]
        if self.steps > _KEPT or fields * momentum.nbytes > _KEPT_BYTES:
            return _Flow.apply(momentum, self)
        state = None
        for number in range(self.steps):
            state = self._sound(self.advance(momentum, state), number)
        return state

    def path(self, momentum: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Momentum and velocity at the beginning of each step and at the end; without gradients."""
        found = []
        with torch.no_grad():
            state = None
            for number in range(self.steps + 1):
                m = coadjoint(momentum, state, self.lattice)
                found.append((m, self.operator.sharp(m)))
                if number < self.steps:
                    state = self.advance(momentum, state)
        return found

    def advance(self, momentum: Tensor, state: State) -> Tensor:
        """phi^-1 one step later."""
        return followed(state, self.step(momentum, state), self.lattice)

    def _sound(self, state: Tensor, number: int) -> Tensor:
        if not state.sum().isfinite():  # its gradient would read outside of memory (torch 2.13)
            raise Diverged(f"the geodesic diverged in step {number + 1} of {self.steps}")
        return state

    def step(self, momentum: Tensor, state: State) -> Tensor:
        """The displacement of chi, the inverse of one step's flow."""

        def velocity(inverse_map: State) -> Tensor:
            return self.operator.sharp(coadjoint(momentum, inverse_map, self.lattice))

        dt = 1 / self.steps
        return INTEGRATORS[self.integrator](velocity, state, dt, self.lattice)


class Diverged(ArithmeticError):
    """The geodesic overflowed: use a smaller momentum, or more time steps."""


class _Flow(torch.autograd.Function):
    """phi^-1 of a momentum, with the exact gradient of the discrete flow."""

    @staticmethod
    def forward(ctx, momentum: Tensor, shooter: Shooter) -> Tensor:
        stride = -(-shooter.steps // _KEPT)
        state, kept = None, []
        for number in range(shooter.steps):
            if number and number % stride == 0:
                kept.append(state)
            state = shooter._sound(shooter.advance(momentum, state), number)
        ctx.save_for_backward(momentum, *kept)
        ctx.shooter, ctx.stride = shooter, stride
        return state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, adjoint: Tensor) -> tuple[Tensor, None]:
        momentum, *kept = ctx.saved_tensors
        momentum = momentum.detach().requires_grad_()
        total = torch.zeros_like(momentum)
        kept = [None, *kept]
        for number in reversed(range(ctx.shooter.steps)):
            state = kept[number // ctx.stride]
            for _ in range(number % ctx.stride):
                state = ctx.shooter.advance(momentum.detach(), state)
            if state is not None:
                state = state.detach().requires_grad_()
            with torch.enable_grad():
                after = ctx.shooter.advance(momentum, state)
            inputs = (momentum,) if state is None else (momentum, state)
            change, *rest = torch.autograd.grad(after, inputs, adjoint)
            total += change
            adjoint = rest[0] if rest else None
        return total, None
