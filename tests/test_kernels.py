"""Kernels: against torch in float64 and trusted libraries, on odd shapes, with one thread and two."""

import logging
import os
import platform
import subprocess
import sys
import threading
import time

import numba
import pytest
import torch
from numba.core import caching
from scipy import ndimage
from torch import Tensor

from hybridreg.case_log import CaseLog
from hybridreg.geodesics import Kernel
from hybridreg.geometry import Grid
from hybridreg.kernels import compiled
from hybridreg.kernels.affine import placement_gradient
from hybridreg.kernels.inversion import inverted
from hybridreg.kernels.jacobians import determinants
from hybridreg.kernels.sampling import Placement, composed, pulled_back, sample
from hybridreg.kernels.smoothing import downsampled, smoothed
from hybridreg.kernels.steps import force, gathered, limited
from hybridreg.lattice import Lattice, Resampling, sample_through
from hybridreg.lattice import sample as sample_lattice
from hybridreg.shooting import Operator, coadjoint
from hybridreg.similarity import LNCC, MI, SSD
from hybridreg.transforms import DisplacementField, interpolate
from hybridreg.warping import jacobian_determinant

SHAPES = [(23, 17), (37, 5, 19), (1, 6, 7)]
SPACING = (0.7, 1.5, 2.0)


def random(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def smooth(shape: tuple[int, ...], size_mm: float, seed: int = 0) -> Tensor:
    """A displacement of at most so many mm, without folds."""
    rough = random(len(shape), shape, seed)
    bend = torch.stack([torch.from_numpy(ndimage.gaussian_filter(c.numpy(), 3)) for c in rough])
    return bend * (size_mm / bend.norm(dim=0).max())


def spacing(shape: tuple[int, ...]) -> tuple[float, ...]:
    return SPACING[: len(shape)]


@pytest.fixture(autouse=True)
def slabs_of_few_voxels(monkeypatch):
    """So that these small arrays are divided too."""
    monkeypatch.setattr(compiled, "_SLAB_VOXELS", 1)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def agree(function, *tensors: Tensor, tolerance: float = 1e-5):
    """In float32, by the loops, and in float64, by torch; returns the latter."""
    names = []
    original = compiled._loaded
    compiled._loaded = lambda name: names.append(name) or original(name)
    try:
        found = function(*(t.float() for t in tensors))
    finally:
        compiled._loaded = original
    assert names and original(names[0]) is not None  # the loops were used
    expected = function(*tensors)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert torch.allclose(found.double(), expected, atol=tolerance, rtol=1e-5)
    return expected


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("measure", [SSD(), LNCC(1, 0.3), LNCC(2), LNCC(7, 0.1), MI(8)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_measures_agree_with_torch(shape, measure, weighted, threads):
    fixed, moved = random(2, shape, 1).abs(), random(2, shape, 2).abs()
    weight = random(1, shape, 3)[0].abs() if weighted else None

    def value_and_gradient(fixed, moved, *weight):
        moved = moved.clone().requires_grad_()
        value = measure(fixed, moved, *weight)
        (3 * value).backward()
        return torch.cat([value.detach()[None], moved.grad.flatten() * moved.numel()])

    agree(value_and_gradient, fixed, moved, *([] if weight is None else [weight]), tolerance=2e-4)


def test_local_correlation_forgets_bright_voxels_that_have_left_its_windows(threads):
    fixed, moved = random(1, (30, 40, 20), 1).abs(), random(1, (30, 40, 20), 2).abs()
    fixed[0, 0, 0, 0] = moved[0, 0, 0, 0] = 300.0
    value = agree(lambda f, m: LNCC(2)(f, m)[None], fixed, moved, tolerance=1e-4)
    assert 0 < value.item() < 1


@pytest.mark.parametrize("displaced", [0.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_samples_and_their_gradient_agree_with_torch(shape, displaced, threads):
    dimension = len(shape)
    of = tuple(n + 3 for n in shape)
    turn = torch.linalg.matrix_exp(0.2 * random(dimension, (dimension,), 5))
    placement = Placement(
        (0.6, 1.2, 0.9)[:dimension],
        tuple(map(tuple, turn.tolist())),
        tuple(map(tuple, (0.8 * turn).tolist())),
    )
    values, adjoint = random(2, of, 1), random(2, shape, 2)
    shift = displaced * random(dimension, shape, 3)
    agree(lambda v, u: sample(v, u, placement), values, shift, tolerance=1e-4)
    if displaced:
        agree(
            lambda v, u, a: pulled_back(v, u, placement, a), values, shift, adjoint, tolerance=1e-4
        )


@pytest.mark.parametrize("displaced", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_by_a_placement_agrees_with_torch(shape, displaced, threads):
    d = len(shape)
    steps, scales = torch.eye(d) + 0.1 * random(d, (d,)), 0.3 * random(d, (d,), 1)
    rows = (tuple(map(tuple, matrix.tolist())) for matrix in (steps, scales))
    placement = Placement((0.3,) * d, *rows)
    values, adjoint = random(2, tuple(n + 2 for n in shape), 2), random(2, shape, 3)
    adjoint[:, :, : shape[1] // 3] = 0  # rows that do not count are left out
    u = [random(d, shape, 4)] if displaced else []

    def gradient(values, adjoint, *u):
        found = placement_gradient(values, u[0] if u else None, placement, adjoint)
        flat = torch.cat([torch.from_numpy(part).flatten() for part in found])
        return (flat / adjoint.numel()).to(values.dtype)

    expected = agree(gradient, values, adjoint, *u, tolerance=1e-4)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize("dimension", [2, 3])
def test_lattices_are_sampled_with_both_gradients(dimension, threads):
    of = Lattice((17, 9, 12)[-dimension:], SPACING[:dimension], (0.3, -0.2, 0.4)[:dimension])
    at = Lattice((11, 13, 8)[-dimension:], (1.1, 0.9, 1.6)[:dimension], (1.0, 2.0, 0.5)[:dimension])
    values, shift = random(2, of.shape), random(dimension, at.shape, 1)
    samples_and_gradients(lambda v, u: sample_lattice(v, u, at, of), values, shift)
    samples_and_gradients(lambda u: sample_lattice(values.to(u), u, at, of), shift)


@pytest.mark.parametrize("dimension", [2, 3])
def test_momenta_are_transported_with_their_gradients(dimension, threads):
    lattice = Lattice((21, 9, 12)[-dimension:], SPACING[:dimension], (0.0,) * dimension)
    momentum, shift = random(dimension, lattice.shape), 0.7 * random(dimension, lattice.shape, 1)
    samples_and_gradients(lambda m, u: coadjoint(m, u, lattice), momentum, shift, tolerance=1e-3)


@pytest.mark.parametrize("dimension", [2, 3])
def test_images_are_sampled_through_a_coarser_displacement(dimension, threads):
    of = Lattice((17, 19, 12)[-dimension:], SPACING[:dimension], (0.3, -0.2, 0.4)[:dimension])
    at = Lattice(
        (38, 13, 18)[-dimension:], (0.7, 0.9, 0.6)[:dimension], (1.0, -2.0, 0.5)[:dimension]
    )
    coarse = Lattice(
        (14, 6, 7)[-dimension:], (2.1, 1.8, 1.2)[:dimension], (2.0, 0.4, 1.1)[:dimension]
    )
    values, shift = random(2, of.shape), random(dimension, coarse.shape, 1)

    def through(u):
        to_fine = Resampling(coarse, at, u.dtype)
        return sample_through(values.to(u), u, to_fine, of)

    samples_and_gradients(through, shift, tolerance=1e-3)


@pytest.mark.parametrize("b", [0.0, 1.5])
@pytest.mark.parametrize("dimension", [2, 3])
def test_velocities_agree_with_torch(dimension, b, threads):
    lattice = Lattice((20, 9, 12)[-dimension:], SPACING[:dimension], (0.0,) * dimension)
    momentum = random(dimension, lattice.shape)

    def velocity(m):
        operator = Operator(Kernel(a=2.0, b=b, c=0.5, power=1.5), lattice, m.dtype)
        return operator.power(m, -0.5, band=0.8)

    assert agree(velocity, momentum, tolerance=1e-5).norm() > 0.1


def samples_and_gradients(function, *inputs, tolerance=1e-4):
    def found(*inputs):
        inputs = [t.clone().requires_grad_() for t in inputs]
        out = function(*inputs)
        out.square().sum().backward()
        return torch.cat([t.flatten() for t in (out.detach(), *(i.grad for i in inputs))])

    assert agree(found, *inputs, tolerance=tolerance).abs().max() > 1


def test_what_is_not_a_number_is_sampled_within_the_image():
    shift = torch.full((3, 4, 5, 6), torch.nan)
    found = sample(torch.ones(1, 4, 5, 6), shift, Placement.of_spacing((1.0, 1.0, 1.0)))
    assert found.shape == (1, 4, 5, 6)


@pytest.mark.parametrize("shape", SHAPES)
def test_displacements_compose_as_transforms_do(shape, threads):
    outer, inner, h = 2 * random(len(shape), shape, 1), random(len(shape), shape, 2), spacing(shape)
    found = agree(lambda u, v: composed(u, v, h), outer, inner, tolerance=1e-4)
    grid = Grid(shape, h)
    points = grid.points() + inner.movedim(0, -1)
    beyond, _ = interpolate(outer, grid, points)
    assert torch.allclose(found, inner + beyond, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothing_agrees_with_scipy(shape, threads):
    sigma = (2.0, 0.0, 1.0)[: len(shape)]
    values = random(3, shape)
    found = agree(lambda v: smoothed(v, sigma), values)
    options = {"mode": "nearest", "truncate": 3.0}
    for channel, given in zip(found, values, strict=True):
        expected = ndimage.gaussian_filter(given.numpy(), sigma[::-1], **options)
        assert torch.allclose(channel, torch.from_numpy(expected), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothing_keeps_what_is_constant_and_never_overshoots(shape):
    values = torch.ones(1, *shape)
    assert torch.allclose(smoothed(values, (0.7, 1.3, 2.1)[: len(shape)]), values, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_downsampling_agrees_with_smoothing_and_interpolation_in_space(shape, threads):
    factors = (2.0, 1.5, 3.0)[: len(shape)]
    values = random(2, shape)
    found = agree(lambda v: downsampled(v, factors), values)
    grid = Grid(shape, spacing(shape))
    coarse = grid.with_spacing([s * f for s, f in zip(grid.spacing, factors, strict=True)])
    sigma = [0.5 * (f**2 - 1) ** 0.5 for f in factors]
    expected, _ = interpolate(smoothed(values, tuple(sigma)), grid, coarse.points())
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_determinants_agree_with_those_that_are_reported(shape, threads):
    grid = Grid(shape, spacing(shape))
    bend = random(len(shape), shape)
    found = agree(lambda u: determinants(u, grid.spacing), bend, tolerance=1e-4)
    expected = jacobian_determinant(DisplacementField(bend, grid), grid).data[0]
    assert (found < 0).any()
    assert torch.allclose(found.float(), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_agree_with_torch(shape, threads):
    slopes, images, h = random(2, shape, 1), random(2, shape, 2), spacing(shape)
    agree(lambda g, m: force(g, m, h), slopes, images, tolerance=1e-4)
    vectors, momentum = random(len(shape), shape, 3), random(len(shape), shape, 4)

    def gathered_and_length(momentum, vectors):
        found, length = gathered(momentum.clone(), vectors, 0.9)
        return torch.cat([found.flatten(), torch.tensor([length], dtype=found.dtype)])

    found = agree(gathered_and_length, momentum, vectors)
    lengths = (0.9 * momentum + vectors).norm(dim=0)
    assert found[-1].item() == pytest.approx((lengths.square().sum() / lengths.sum()).item())
    short = agree(lambda v: limited(v, 0.5, 2.0), vectors)
    assert 0.1 < short.norm(dim=0).max() < 0.5


def test_a_force_is_the_gradient_of_the_measure_by_a_shift_before_the_map():
    """Of an image in closed form, shifted by v: the measure changes by <force, v>."""
    rows, columns = torch.meshgrid(*[torch.arange(n).double() for n in (40, 50)], indexing="ij")

    def image(v):
        return (((rows + v[1]) / 9).sin() * ((columns + v[0]) / 7).cos())[None]

    fixed = ((rows / 8).cos() + (columns / 11).sin())[None]
    v = 1e-3 * smooth((40, 50), 1.0)
    moved = image(0 * v).requires_grad_()
    (gradient,) = torch.autograd.grad(SSD()(fixed, moved), moved)
    change = SSD()(fixed, image(v)) - SSD()(fixed, moved)
    expected = (force(gradient, moved.detach(), (1.0, 1.0)) * v).sum()
    assert change.item() == pytest.approx(expected.item(), rel=0.05)  # differences over two voxels


@pytest.mark.parametrize("shape, size_mm", [((40, 33), 2.5), ((24, 30, 28), 3.5)])
def test_inverses_are_inverses_and_agree_with_torch(shape, size_mm, threads):
    h = spacing(shape)
    bend = smooth(shape, size_mm)
    assert 0.1 < determinants(bend, h).min() < 0.6
    back = agree(lambda u: inverted(u, h, tolerance=1e-3), bend, tolerance=5e-3)
    inner = (slice(None), *[slice(4, -4)] * len(shape))
    left = composed(bend, back, h)[inner].norm(dim=0)
    assert back[inner].norm(dim=0).max() > 1
    assert left.max() < 2e-3 * max(h)


def test_an_inverse_of_a_map_that_folds_is_exact_where_it_does_not():
    shape, h = (30, 31, 32), (1.0, 1.0, 1.0)
    bend = smooth(shape, 2.0)
    bend[:, 13:16, 13:16, 13:16] *= -4  # folds there
    assert determinants(bend, h).min() < 0
    left = composed(bend.float(), inverted(bend.float(), h), h).norm(dim=0)
    assert left.isfinite().all()
    assert left[5:-5, 5:-5, 5:9].max() < 0.02


def test_the_inverse_of_a_sum_of_slopes_is_known():
    """x + S x is inverted by (1 + S)^-1 - 1, exactly: linear interpolation has no error there."""
    shape = (9, 12, 17)
    index = torch.stack(
        torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")[::-1]
    )
    slopes = torch.tensor([[0.1, 0.05, 0.0], [-0.02, -0.1, 0.04], [0.03, 0.0, 0.06]])
    middle = torch.tensor([8.0, 6.0, 4.0]).reshape(3, 1, 1, 1)
    bend = torch.einsum("ab,b...->a...", slopes, index - middle)
    back = torch.einsum(
        "ab,b...->a...", torch.linalg.inv(torch.eye(3) + slopes) - torch.eye(3), index - middle
    )
    found = inverted(bend.contiguous(), (1.0, 1.0, 1.0), tolerance=1e-5)
    inner = (slice(None), *[slice(1, -1)] * 3)
    assert torch.allclose(found[inner], back[inner], atol=2e-5)


_TOUCHES = """
import resource, sys
import numpy as np
from hybridreg.kernels.memory import reuse_freed_memory
if sys.argv[1] == "reused":
    reuse_freed_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = np.empty(60 << 20, np.uint8)
    array[::4096] = 1
    del array
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_memory_of_freed_arrays_is_used_again():
    def faults(*how: str, **environment: str) -> int:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
        run = subprocess.run(
            [sys.executable, "-c", _TOUCHES, *how],
            env={**inherited, **environment},
            capture_output=True,
            check=True,
        )
        return int(run.stdout)

    assert faults("new") > 20  # 30 pages of 2 MB, or 15360 of 4 kB
    assert faults("reused") < 5
    assert faults("reused", MALLOC_MMAP_THRESHOLD_="65536") > 20


def test_results_do_not_depend_on_the_number_of_threads():
    values, shift = random(3, (19, 20, 21)).float(), random(3, (19, 20, 21), 1).float()
    h = (1.0, 2.0, 1.0)
    for function in (
        lambda n: smoothed(values, h, threads=n),
        lambda n: composed(values, shift, h, threads=n),
        lambda n: determinants(values, h, threads=n),
        lambda n: inverted(values, h, threads=n),
        lambda n: torch.tensor(gathered(values.clone(), shift, 0.9, threads=n)[1]),
    ):
        assert torch.equal(function(1), function(2))


def test_no_more_threads_work_than_are_asked_for():
    seen = set()

    def loop(start, stop):
        time.sleep(0.002)
        seen.add(threading.get_ident())
        return start, stop

    slabs = compiled.over_slabs(loop, (40, 3, 3), threads=2)
    assert [start for start, _ in slabs] == list(range(40))
    assert len(seen) == 2
    seen.clear()
    compiled.over_slabs(loop, (40, 3, 3), threads=1)
    assert seen == {threading.get_ident()}


@pytest.fixture
def loaded_anew(monkeypatch, tmp_path, caplog):
    """The smallest module of loops, not yet loaded, with an empty cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "hybridreg.kernels.loops.ssd", raising=False)
    monkeypatch.setattr(compiled, "_warned", threading.Event())
    compiled._loaded.cache_clear()
    caplog.set_level(logging.WARNING)
    yield caplog
    compiled._loaded.cache_clear()


def half_mean_square() -> float:
    return SSD()(torch.zeros(1, 4, 5, 6), torch.ones(1, 4, 5, 6)).item()


def test_a_cache_that_cannot_be_written_costs_a_warning_and_speed(loaded_anew, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert half_mean_square() == half_mean_square() == 0.5
    # On a slow machine there is a note on compilation as well.
    (record,) = (r for r in loaded_anew.records if "computing with torch" in r.message)
    assert "No space left" in record.message and "NUMBA_CACHE_DIR" in record.message


def test_without_any_folder_for_the_cache_torch_computes(loaded_anew, monkeypatch):
    """With one warning, although the cause names another function for every module of loops."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    monkeypatch.delitem(sys.modules, "hybridreg.kernels.loops.spectra", raising=False)
    assert half_mean_square() == 0.5
    assert compiled.loops("spectra") is None
    assert sum("computing with torch" in r.message for r in loaded_anew.records) == 1


def test_without_numba_torch_computes(loaded_anew, monkeypatch):
    monkeypatch.setitem(sys.modules, "hybridreg.kernels.loops.ssd", None)
    assert half_mean_square() == 0.5
    assert len(loaded_anew.records) == 1


def test_a_read_only_installation_caches_in_the_users_folder(loaded_anew, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(caching.InTreeCacheLocator, "ensure_cache_path", read_only)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert half_mean_square() == 0.5
    assert not [r for r in loaded_anew.records if "computing with torch" in r.message]
    assert list(tmp_path.glob("numba/loops_*/*.nbc"))


def read_only(*_):
    raise OSError(30, "Read-only file system")


def test_the_first_use_says_what_it_waits_for(loaded_anew, monkeypatch):
    monkeypatch.setattr(compiled, "_PATIENCE_S", 0.0)
    case = CaseLog()
    with case.listening():
        half_mean_square()
        half_mean_square()
    (record,) = loaded_anew.records
    assert "preparing the ssd kernel" in record.message
    assert "preparing the ssd kernel" in case.lines[0] and not case.warnings
