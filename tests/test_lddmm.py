"""LDDMM: recovers known diffeomorphisms, goes down its energy, continues, and reproduces others' maps."""

from dataclasses import replace

import pytest
import torch
from conftest import oblique_grid

from hybridreg.cases import ImagePair
from hybridreg.config import describe_method, load_method
from hybridreg.evaluation import target_registration_error
from hybridreg.geodesics import GeodesicTransform, Kernel
from hybridreg.images import Image, LabelMap
from hybridreg.kernels.matrices import determinant
from hybridreg.lattice import Lattice, Resampling, jacobian
from hybridreg.methods.base import RegistrationError
from hybridreg.methods.lddmm import Lddmm, momentum_of, optimizers
from hybridreg.methods.lddmm.energy import Energy, MapTerm, refined
from hybridreg.methods.lddmm.levels import levels
from hybridreg.momentum import coarser, momentum_grid
from hybridreg.network_inputs import shown_box
from hybridreg.phantoms import blobs, smooth_deformation
from hybridreg.shooting import Operator, Shooter
from hybridreg.similarity import LNCC, MI, NCC, SSD
from hybridreg.transforms import IDENTITY, DisplacementField, compose, rigid
from hybridreg.warping import jacobian_determinant, warp

KERNEL = Kernel(a=9.0, b=0.0, c=1.0, power=2.0)
SMALL = Lddmm(
    kernel=KERNEL,
    sigma=0.01,
    similarity=SSD(),
    image_mm=(4.0, 2.0, 1.0),
    momentum_mm=(8.0, 4.0, 2.0),
    iterations=(30, 30, 30),
)


def bent(dimension: int, *, largest_mm: float = 3.0):
    """Blobs, bent by a deformation that is known."""
    return blobs(
        dimension=dimension, translation_mm=(0.0,) * dimension, deformation_mm=largest_mm, noise=0.0
    )


def error_mm(case, transform):
    return target_registration_error(transform, case.fixed_landmarks, case.moving_landmarks)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("similarity", [SSD(), LNCC()], ids=["ssd", "lncc"])
def test_a_known_deformation_is_recovered_on_oblique_grids(similarity, dimension):
    case = bent(dimension)
    sigma = 0.01 if similarity == SSD() else 0.05
    result = replace(SMALL, similarity=similarity, sigma=sigma).register(case.pair)
    before = error_mm(
        case, rigid([0.0] * (2 * dimension - 3), [0.0] * dimension, [0.0] * dimension)
    )
    assert before.median() > 1.5
    assert error_mm(case, result.transform).median() < 0.3 * before.median()
    assert jacobian_determinant(result.transform, case.pair.fixed.grid).data.min() > 0


def test_both_maps_invert_each_other_in_space():
    case = bent(3)
    result = SMALL.register(case.pair)
    points = case.fixed_landmarks.points
    there = result.inverse(result.transform(points))
    assert (result.transform(points) - points).norm(dim=-1).max() > 1.5
    assert (there - points).norm(dim=-1).max() < 0.1  # mm, of voxels of 1 to 2 mm


def test_the_energy_falls_at_every_iteration_and_is_noted():
    trace = SMALL.register(bent(2).pair).trace
    assert {entry.level for entry in trace} == {0, 1, 2}
    for level in range(3):
        values = [entry.terms["energy"] for entry in trace if entry.level == level]
        assert all(b <= a for a, b in zip(values, values[1:]))
        assert values[-1] < values[0]
    for entry in trace:
        parts = entry.terms["regularity"] + entry.terms["dissimilarity"]
        assert entry.terms["energy"] == pytest.approx(parts, rel=1e-5)


def test_quasi_newton_ends_lower_than_fifty_fixed_steps_in_fewer():
    case = bent(2)
    one = replace(SMALL, image_mm=(1.0,), momentum_mm=(1.0,), iterations=(50,))
    published = [
        replace(one, optimizer="fixed", step=step).register(case.pair).trace[-1].terms["energy"]
        for step in (0.003, 0.01, 0.03)
    ]
    ours = [entry.terms["energy"] for entry in one.register(case.pair).trace]
    assert min(published) < ours[0]  # the reference does go down
    assert min(ours[:26]) < min(published)


@pytest.mark.parametrize("dimension", [2, 3])
def test_no_step_of_the_optimizer_creates_a_fold(dimension):
    """Not even straight towards a folded map that is to be reproduced."""
    grid = oblique_grid(dimension)
    lattice = Lattice.of(grid)
    shooter = Shooter(Operator(KERNEL, lattice), steps=5)
    rough = torch.randn(
        dimension, *grid.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def energy(target):
        everywhere = MapTerm(target, torch.ones_like(target[0]), lattice)
        return Energy(shooter, everywhere, sigma=1e-3, unfolding=1e-9, band=0.6)

    fastest = energy(rough).velocity(rough).norm(dim=0).max()
    folded = rough * 5.0 / fastest  # mm in unit time
    towards = energy(shooter.inverse_map(energy(rough).momentum(folded)))
    assert optimizers.at(towards, folded).folds
    assert optimizers.at(towards, folded, may_fold=False) is None
    point = optimizers.at(towards, torch.zeros_like(rough), may_fold=False)
    decrease = towards.product(optimizers.gradient(towards, point), folded).item()
    assert optimizers.at(towards, folded).value < point.value + 1e-4 * decrease < point.value
    found = optimizers._line_search(towards, point, folded, 1.0, decrease)
    assert found.value < point.value and not found.folds
    assert determinant(jacobian(towards.inverse_map(found.white), lattice.spacing)).min() > 0


def test_folds_between_the_voxels_of_the_momentum_end_the_last_steps():
    grid = oblique_grid(2)
    lattice, fine = (
        Lattice.of(grid),
        Lattice.of(grid.with_spacing([s / 2 for s in grid.spacing]), grid),
    )
    shooter = Shooter(Operator(KERNEL, lattice), steps=5)
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(2, *grid.shape, generator=generator, dtype=torch.float64)
    term = MapTerm(torch.zeros_like(rough), torch.ones_like(rough[0]), lattice)
    finer = Resampling(lattice, fine, torch.float64)
    energy = Energy(shooter, term, 1.0, unfolding=1.0, band=0.6, finer=finer)
    fastest = energy.velocity(rough).norm(dim=0).max()
    scaled = (rough * (mm / fastest) for mm in torch.arange(4.0, 6.0, 0.1).tolist())
    folded = next(white for white in scaled if jacobian_of(energy, white, finer).min() < 0)
    seen: list[float] = []
    found = optimizers.quasi_newton(
        energy,
        folded,
        iterations=40,
        tolerance=1e-9,
        callback=lambda _, terms: seen.append(terms["folding"]),
        until_unfolded=True,
    )
    assert jacobian_of(energy, found, finer).min() > 0
    assert 1 < len(seen) < 20 and seen[-1] > 0  # the penalty sets in before there are folds


def jacobian_of(energy, white, finer):
    found = determinant(jacobian(finer(energy.inverse_map(white)), finer.at.spacing))
    return found[1:-1, 1:-1]  # the box is not periodic


def test_it_continues_from_the_momentum_of_an_earlier_run():
    case = bent(2)
    short = replace(SMALL, iterations=(5, 5, 5)).register(case.pair)
    assert isinstance(short.transform, GeodesicTransform)
    longer = SMALL.register(case.pair, short.transform)
    last = short.trace[-1].terms["energy"]
    assert longer.trace[0].terms["energy"] == pytest.approx(last, rel=1e-3)
    assert longer.trace[-1].terms["energy"] < last
    assert isinstance(longer.transform, GeodesicTransform)  # one geodesic, not two in a row


def test_an_affine_start_stays_apart_from_the_geodesic():
    case = bent(2)
    start = rigid([3.0], [1.0, -2.0], case.pair.fixed.grid.center)
    result = SMALL.register(case.pair, start)
    affine, found = result.transform.parts
    assert torch.equal(affine.matrix, start.matrix) and isinstance(found, GeodesicTransform)


def test_what_a_mask_leaves_out_does_not_pull():
    case = bent(2, largest_mm=2.0)
    fixed = case.pair.fixed
    half = fixed.grid.shape[1] // 2
    mask, spoiled = torch.zeros(fixed.grid.shape, dtype=torch.int32), fixed.data.clone()
    mask[:, : half - 4] = 1
    noise = torch.rand(spoiled[..., half:].shape, generator=torch.Generator().manual_seed(0))
    spoiled[..., half:] = noise
    method = replace(SMALL, scaled=False)
    kept = LabelMap(mask, fixed.grid)
    inside = fixed.grid.points()[mask != 0]

    def found(data, fixed_mask):
        pair = ImagePair(Image(data, fixed.grid), case.pair.moving, fixed_mask)
        return method.register(pair).transform(inside)

    clean, masked, open_ = found(fixed.data, kept), found(spoiled, kept), found(spoiled, None)
    pulled, left = ((other - clean).norm(dim=-1).mean() for other in (open_, masked))
    assert left < 0.1 and pulled > 3 * left


def test_two_channels_and_other_measures_are_compared_too():
    case = bent(2)
    two = [
        Image(torch.cat([i.data, 1 - i.data.square()]), i.grid)
        for i in (case.pair.fixed, case.pair.moving)
    ]
    before = error_mm(case, rigid([0.0], [0.0, 0.0], [0.0, 0.0])).median()
    for similarity, sigma in ((SSD(), 0.02), (NCC(), 0.05), (MI(), 0.05)):
        method = replace(SMALL, similarity=similarity, sigma=sigma)
        assert error_mm(case, method.register(ImagePair(*two)).transform).median() < 0.6 * before


def test_levels_share_one_box_and_stop_at_the_images_own_voxels():
    case = bent(3)
    moved = warp(
        case.pair.moving, rigid([0.0] * 3, [0.0] * 3, [0.0] * 3), onto=case.pair.fixed.grid
    )
    stages = list(
        levels(ImagePair(case.pair.fixed, moved), (8.0, 4.0, 1.0, 0.5), (8.0, 4.0, 2.0, 2.0))
    )
    extents = {tuple(round(e, 6) for e in stage.grid.extent) for stage in stages}
    assert len(extents) == 1
    assert stages[-1].at.spacing == case.pair.fixed.grid.spacing
    assert len(stages) == 3  # the last two are the same


def test_images_twice_as_coarse_as_asked_for_have_a_momentum_twice_as_coarse():
    image = bent(3).pair.fixed
    image = warp(image, IDENTITY, onto=image.grid.with_spacing([3.0] * 3))
    stages = list(levels(ImagePair(image, image), (4.0, 2.0, 1.0), (8.0, 4.0, 2.0)))
    assert [stage.at.spacing[0] for stage in stages] == [4.0, 3.0]
    assert [stage.momentum.spacing[0] for stage in stages] == [8.0, 4.0]


def test_a_finer_lattice_carries_the_same_function():
    grid, joined = momentum_grid(oblique_grid(3), 1.0, 4.0)
    coarse = coarser(grid, joined)
    assert coarse.shape != grid.shape and coarse.extent == pytest.approx(grid.extent)

    def wave(of):
        u = of.physical_to_voxel()[:3]
        index = torch.einsum("ij,...j->...i", u[:, :3], of.points()) + u[:, 3]
        fraction = (index + 0.5) / torch.tensor(of.size)
        phase = 2 * torch.pi * (fraction @ torch.tensor([1.0, -1.0, 1.0]).double() + 0.1)
        return phase.cos()[None].expand(3, *of.shape).contiguous()

    assert torch.allclose(refined(wave(coarse), grid.shape), wave(grid), atol=1e-9)


def test_the_box_holds_what_either_image_shows():
    grid = oblique_grid(3)
    a, b = torch.zeros(2, *grid.shape)
    a[4:9, 5:20, 6], b[6:12, 3:8, 7:15] = 1.0, 2.0
    assert shown_box(ImagePair(Image(a, grid), Image(b, grid))) == grid.crop(
        (4, 3, 6), (12, 20, 15)
    )


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_geodesic_reproduces_a_smooth_map_and_says_how_well(dimension):
    grid = oblique_grid(dimension)
    spacing = float(dimension - 1)
    bend = smooth_deformation(
        3.0, center=grid.center.tolist(), wavelength_mm=40.0, radius_mm=25.0, seed=1
    )
    turned = rigid([4.0] * (2 * dimension - 3), [2.0] * dimension, grid.center)
    whole = compose(turned, bend)
    found = momentum_of(whole, grid, kernel=KERNEL, affine=turned, spacing_mm=spacing)
    points = grid.points()
    missed = (found.transform(points) - whole(points)).norm(dim=-1)
    assert torch.allclose(found.residual.data[0], missed.float(), atol=1e-4)
    assert missed.median() < 0.1 * spacing and missed.max() < 1.0
    assert (whole(points) - turned(points)).norm(dim=-1).max() > 2.5


def test_the_momentum_that_is_found_is_the_one_that_was_shot():
    """From the map of a known momentum back to it, as far as its velocity tells."""
    case = bent(2)
    known = SMALL.register(case.pair).transform
    again = momentum_of(
        known,
        case.pair.fixed.grid,
        kernel=KERNEL,
        affine=rigid([0.0], [0.0, 0.0], [0.0, 0.0]),
        spacing_mm=2.0,
        sigma_mm=0.02,
        integrator=SMALL.integrator,
    )
    velocities = [
        DisplacementField(Operator(KERNEL, Lattice.of(g.grid)).sharp(g.momentum), g.grid)
        for g in (known, again.geodesic)
    ]
    points = case.pair.fixed.grid.points()
    a, b = (v(points) - points for v in velocities)
    assert a.norm(dim=-1).max() > 1
    assert (a - b).norm(dim=-1).mean() < 0.1 * a.norm(dim=-1).mean()


def test_sigma_shrinks_from_level_to_level_to_what_was_asked_for():
    """A dissimilarity goes with 1 / sigma^2; the last level ends at the same minimum."""
    pair = bent(2).pair
    alike, looser = (
        [entry.terms for entry in replace(SMALL, sigma_factor=factor).register(pair).trace]
        for factor in (1.0, 2.0)
    )
    assert alike[0]["dissimilarity"] == pytest.approx(4**2 * looser[0]["dissimilarity"], rel=1e-4)
    assert alike[-1]["energy"] == pytest.approx(looser[-1]["energy"], rel=0.02)


def test_a_toml_table_and_the_method_are_one():
    table = {"name": "lddmm", "sigma": 0.1, "kernel": {"a": 4.0, "b": 1.0, "c": 0.5, "power": 1.0}}
    method = load_method(table)
    assert method == Lddmm(sigma=0.1, kernel=Kernel(4.0, 1.0, 0.5, 1.0))
    assert load_method(describe_method(method)) == method


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_mm": (2.0, 4.0, 1.0)}, "from coarse to fine"),
        ({"iterations": (3,)}, "one number for each level"),
        ({"sigma": 0.0}, "sigma must be more than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Lddmm(**settings)


def test_a_step_that_is_too_long_is_reported():
    method = replace(SMALL, optimizer="fixed", step=1e6)
    with pytest.raises(RegistrationError, match="too long"):
        method.register(bent(2).pair)
