"""The method ``linear`` on phantoms with known truth; its gradients against finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hybridreg.cases import ImagePair
from hybridreg.config import load_method
from hybridreg.decomposition import decompose
from hybridreg.evaluation import target_registration_error
from hybridreg.images import Image, LabelMap
from hybridreg.kernels.compiled import torch_only
from hybridreg.methods.base import RegistrationError
from hybridreg.methods.linear.fitting import Dissimilarity, _scale_penalty
from hybridreg.methods.linear.levels import levels
from hybridreg.methods.linear.method import Linear
from hybridreg.methods.linear.optimizer import minimized
from hybridreg.methods.linear.parameters import Family, rotation, rotations
from hybridreg.phantoms import blobs, head, head_case, head_grid, smooth_deformation
from hybridreg.progress import listening
from hybridreg.similarity import LNCC, MI, NCC, SSD
from hybridreg.transforms import AffineTransform, compose, rigid

KINDS = ("rigid", "similarity", "affine")
MI_RIGID = Linear("rigid", similarity=MI(), threads=1)
STRETCH = {
    "rigid": np.eye(3),
    "similarity": 1.12 * np.eye(3),
    "affine": np.array([[1.1, 0.06, 0.0], [-0.04, 0.92, 0.05], [0.02, 0.0, 1.06]]),
}


def error_mm(found, true, grid, labels) -> float:
    points = grid.points()[labels.data != 0][::13]
    return (found(points) - true(points)).norm(dim=-1).mean().item()


def pair_through(true, contrasts=("t1", "t1"), *, dimension=3, spacing=(3.0, 2.5, 4.0)):
    """The head on oblique anisotropic grids, the fixed one where the true transform takes it
    from.
    """
    tilt = [-5, 8, -7][: 2 * dimension - 3]
    moving = head_grid(spacing[:dimension], dimension=dimension, angles_deg=tilt)
    fixed = head_grid(spacing[dimension - 1 :: -1], dimension=dimension)
    inverse = true.inverse()
    center = inverse(torch.zeros(1, dimension, dtype=torch.float64))[0]
    fixed = replace(fixed, origin=tuple((torch.tensor(fixed.origin).double() + center).tolist()))
    return ImagePair(
        head(fixed, contrasts[0], transform=true, noise=0.03),
        head(moving, contrasts[1], noise=0.03, seed=1),
    )


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_transform_is_found_from_a_turned_and_shifted_start(kind, dimension):
    d = dimension
    turn = rigid([-14.0, 11.0, 17.0][: 2 * d - 3], [40.0, -25.0, 12.0][:d], [0.0] * d)
    stretch = AffineTransform.from_parts(STRETCH[kind][:d, :d], [0.0] * d)
    true = compose(turn, stretch)
    pair = pair_through(true, dimension=d)
    method = Linear(kind, threads=1)
    found = method.register(pair).transform
    voxel = max(pair.fixed.grid.spacing)
    inside = LabelMap((pair.fixed.data[0] > 0.3 * pair.fixed.data.max()).int(), pair.fixed.grid)
    assert error_mm(found, true, pair.fixed.grid, inside) < 0.1 * voxel
    scales = decompose(found).scales
    if kind == "rigid":
        assert scales == pytest.approx([1.0] * d, abs=1e-9)
    if kind == "similarity":
        assert max(scales) == pytest.approx(min(scales)) == pytest.approx(1.12, abs=0.005)


@pytest.mark.parametrize(
    ("angles", "shift"),
    [((45, 0, 0), (50, 0, 0)), ((-25, 25, -25), (-30, 30, 25)), ((0, -30, 32), (0, 0, -50))],
)
@pytest.mark.parametrize("method", [Linear("rigid", threads=1), MI_RIGID], ids=["lncc", "mi"])
def test_starts_turned_by_45_degrees_and_shifted_by_50_mm_are_found(method, angles, shift):
    contrasts = {"fixed": "t1", "moving": "t1"} if method.similarity == LNCC() else {}
    case = head_case(angles_deg=angles, translation_mm=shift, spacing_mm=4.0, **contrasts)
    found = method.register(case.pair).transform
    assert error_mm(found, case.true_transform, case.pair.fixed.grid, case.fixed_labels) < 0.6


@pytest.mark.parametrize("fixed, moving", [("ct", "t1"), ("t1", "ct"), ("t1", "t2")])
def test_mutual_information_aligns_two_contrasts(fixed, moving):
    turn = {"angles_deg": (12.0, -9.0, 14.0), "translation_mm": (15.0, -20.0, 10.0)}
    case = head_case(fixed=fixed, moving=moving, spacing_mm=4.0, **turn)
    found = MI_RIGID.register(case.pair).transform
    assert error_mm(found, case.true_transform, case.pair.fixed.grid, case.fixed_labels) < 0.3


def test_an_initial_transform_is_the_start_and_no_search_leaves_it():
    """Half a turn about z looks nearly like the head: from there the nearest optimum is taken."""
    case = head_case(fixed="t1", moving="t1", spacing_mm=4.0)
    start = rigid([0, 0, 170], [0, 0, 0], [0, 0, 0])
    method = Linear("rigid", threads=1)
    kept = decompose(method.register(case.pair, start).transform).rotation_deg[2]
    assert abs(kept) > 90
    near = rigid([0, 0, 25], [9, 0, 0], [0, 0, 0])
    searched = replace(method, search="always").register(case.pair, near)
    inside = case.pair.fixed.grid, case.fixed_labels
    assert error_mm(searched.transform, case.true_transform, *inside) < 0.5


def test_a_deforming_initial_transform_is_part_of_the_total():
    bend = smooth_deformation(6.0, center=(0.0, 0.0, 0.0))
    turn = rigid([5, -4, 6], [4, -3, 5], [0, 0, 0])
    true = compose(turn, bend)
    grid = head_grid(4.0, angles_deg=(6.0, -4.0, 9.0))
    pair = ImagePair(head(grid, "t1", transform=true), head(head_grid((3.0, 4.0, 5.0)), "t1"))
    result = Linear("affine", threads=1).register(pair, bend)
    labels = LabelMap((pair.fixed.data[0] > 0.3 * pair.fixed.data.max()).int(), grid)
    assert error_mm(result.transform, true, grid, labels) < 0.4
    points = grid.points()[::5, ::5, ::5].reshape(-1, 3)
    assert torch.allclose(result.inverse(result.transform(points)), points, atol=0.01)


def test_heads_whose_headers_lie_far_apart_need_no_initial_transform():
    case = head_case(fixed="t1", moving="t1", spacing_mm=4.0, angles_deg=(10.0, 0.0, -10.0))
    moving = case.pair.moving
    away = torch.tensor([900.0, -400.0, 300.0], dtype=torch.float64)
    origin = tuple((torch.tensor(moving.grid.origin).double() + away).tolist())
    pair = replace(case.pair, moving=Image(moving.data, replace(moving.grid, origin=origin)))
    found = Linear("rigid", threads=1).register(pair).transform
    true = compose(AffineTransform.from_parts(torch.eye(3), away), case.true_transform)
    assert error_mm(found, true, case.pair.fixed.grid, case.fixed_labels) < 0.5
    with pytest.raises(ValueError, match="do not overlap"):
        Linear("rigid", search="never").register(pair)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_what_lies_outside_a_mask_does_not_count(side):
    turn = {"angles_deg": (6.0, -5.0, 8.0), "translation_mm": (7.0, -6.0, 5.0)}
    case = head_case(fixed="t1", moving="t1", spacing_mm=4.0, **turn)
    image = getattr(case.pair, side)
    middle = torch.zeros(1, 3, dtype=torch.float64)
    middle = middle if side == "moving" else case.true_transform.inverse()(middle)
    away = (image.grid.points() - middle).norm(dim=-1) > 65
    spoiled = torch.where(away, image.data.roll(7, -1).flip(1), image.data)
    mask = LabelMap((~away).int(), image.grid)
    changes = {side: Image(spoiled, image.grid), f"{side}_mask": mask}
    found = Linear("rigid", threads=1).register(replace(case.pair, **changes)).transform
    assert error_mm(found, case.true_transform, case.pair.fixed.grid, case.fixed_labels) < 0.5


@pytest.mark.parametrize("similarity", [NCC(), LNCC(), MI(), SSD()])
def test_channels_are_compared_each_with_its_own(similarity):
    case = blobs(dimension=3, angles_deg=(20.0, -15.0, 12.0), translation_mm=(9.0, -7.0, 8.0))
    images = case.pair.fixed, case.pair.moving
    both = [Image(torch.cat([i.data, i.data.square()]), i.grid) for i in images]
    method = Linear("rigid", similarity=similarity, threads=1)
    found = method.register(ImagePair(*both)).transform
    error = target_registration_error(found, case.fixed_landmarks, case.moving_landmarks)
    assert error.median() < 0.2


def test_a_mirrored_head_is_not_mirrored_back():
    """An affine could undo it; the determinant stays positive and no scale is implausible."""
    grid = head_grid(4.0)
    image = head(grid, "t1")
    flipped = Image(image.data.flip(-1), grid)
    found = Linear("affine", threads=1).register(ImagePair(image, flipped)).transform
    parts = decompose(found)
    assert not parts.reflects and all(0.6 < s < 1.6 for s in parts.scales)
    assert max(map(abs, parts.rotation_deg)) < 45


def test_no_overlap_from_any_start_is_an_error_that_says_what_to_do():
    case = blobs(dimension=2)
    masks = {}
    for side, corner in (("fixed", slice(None, 12)), ("moving", slice(-12, None))):
        mask = torch.zeros(getattr(case.pair, side).grid.shape, dtype=torch.int32)
        mask[corner, corner] = 1
        masks[f"{side}_mask"] = LabelMap(mask, getattr(case.pair, side).grid)
    start = rigid([3.0], [0.0, 0.0], [0.0, 0.0])
    with pytest.raises(RegistrationError, match="do not overlap enough"):
        Linear("rigid").register(replace(case.pair, **masks), start)


def test_progress_rises_to_the_end_and_the_trace_names_every_stage():
    told = []
    with listening(lambda fraction, _: told.append(fraction)):
        result = Linear("affine", threads=1).register(blobs(dimension=2).pair)
    assert told == sorted(told) and told[-1] > 0.6
    assert {entry.level for entry in result.trace} == {0, 1, 2}


def test_one_thread_and_two_give_the_same():
    pair = blobs(dimension=3, angles_deg=(5.0, 4.0, 3.0)).pair
    one, two = (replace(MI_RIGID, threads=n).register(pair).transform for n in (1, 2))
    assert torch.allclose(one.matrix, two.matrix, atol=1e-6)


@pytest.mark.parametrize("similarity", [LNCC(), MI()], ids=str)
def test_torch_finds_the_same_where_nothing_is_compiled(similarity):
    pair = blobs(dimension=2, angles_deg=(12.0,), translation_mm=(4.0, -3.0)).pair
    method = Linear("affine", similarity=similarity, threads=1)
    compiled = method.register(pair).transform
    with torch_only():
        by_torch = method.register(pair).transform
    points = pair.fixed.grid.points()
    assert (compiled(points) - by_torch(points)).norm(dim=-1).mean() < 0.05


@pytest.mark.parametrize("changes", [
    {"levels_mm": ()}, {"levels_mm": (2.0, 4.0)}, {"search_deg": 180.0}, {"tolerance": 0.0},
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Linear(**changes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_parameter_gradients_agree_with_finite_differences(kind, dimension):
    family = Family(kind, np.array([30.0, -20.0, 45.0])[:dimension], 50.0)
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(dimension, dimension + 1))
    parameters = generator.normal(size=family.count) * 8

    def value(p):
        return (weights * family.matrix(p)[:-1]).sum()

    steps = 1e-5 * np.eye(family.count)
    expected = [(value(parameters + s) - value(parameters - s)) / 2e-5 for s in steps]
    assert family.gradient(parameters, weights) == pytest.approx(
        np.array(expected), rel=1e-5, abs=1e-6
    )
    zero = np.zeros(family.count)
    expected = [(value(zero + s) - value(zero - s)) / 2e-5 for s in steps]
    assert family.gradient(zero, weights) == pytest.approx(np.array(expected), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("measure", [NCC(), LNCC(2, 0.1), MI(), SSD()], ids=str)
@pytest.mark.parametrize("bent", [False, True])
def test_the_gradient_by_the_matrix_agrees_with_finite_differences(measure, bent):
    case = blobs(dimension=3, translation_mm=(1.0, 2.0, -1.0))
    # cut, so that the limits of mutual information's bins stay where they are
    moving = case.pair.moving
    cut = Image(moving.data.clamp(0.05, 0.7), moving.grid)
    pair = replace(case.pair, moving=cut)
    before = smooth_deformation(2.0, center=case.pair.fixed.grid.center.tolist()) if bent else None
    how = {"before": before, "scaled": False, "foreground_mm": None, "threads": 1}
    (level,) = levels(pair, (2.0,), **how)
    matrix = np.eye(4)
    matrix[:3, 3] = 0.7, 1.1, -0.4
    weighted = Dissimilarity(level, measure, 1).at(matrix)
    _, gradient = weighted.value_and_gradient(matrix)
    for row, column, step in ((0, 3, 0.05), (2, 3, 0.05), (1, 0, 0.001), (2, 2, 0.001)):
        change = np.zeros((4, 4))
        change[row, column] = step
        values = [weighted.value_and_gradient(matrix + s * change)[0] for s in (1, -1)]
        expected = (values[0] - values[1]) / (2 * step)
        # Linear interpolation has kinks at every voxel, so only about.
        assert gradient[row, column] == pytest.approx(expected, rel=0.03, abs=2e-4)


def test_implausible_scales_cost_and_plausible_ones_do_not():
    since = np.diag([2.0, 2.0, 2.0, 1.0])
    assert _scale_penalty(since @ np.diag([1.3, 0.8, 1.0, 1.0]), since)[0] == 0
    matrix = since.copy()
    matrix[:3, :3] = matrix[:3, :3] @ np.array([[1.8, 0.2, 0.0], [0.1, 0.4, 0.1], [0.0, 0.3, 1.1]])
    value, gradient = _scale_penalty(matrix, since)
    assert value > 0.1
    for i, j in ((0, 0), (1, 1), (2, 1)):
        step = np.zeros((4, 4))
        step[i, j] = 1e-6
        ends = [_scale_penalty(matrix + s * step, since)[0] for s in (1, -1)]
        assert gradient[i, j] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_rotations_cover_the_ball_of_angles():
    for dimension, count in ((2, 5), (3, 33)):
        found = rotations(45.0, 22.5, dimension)
        assert len(found) == count and not found[0].any()
    assert np.allclose(rotation(np.array([0.0, 0.0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0])


def test_the_optimizer_finds_the_minimum_of_a_curved_valley():
    def rosenbrock(x):
        a, b = x
        value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
        return value, np.array([-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)])

    start = np.array([-1.2, 1.0])
    found = minimized(rosenbrock, start, iterations=100, tolerance=1e-6, longest=1.0)
    assert found == pytest.approx([1.0, 1.0], abs=1e-4)
    assert start.tolist() == [-1.2, 1.0]


def test_presets_of_the_method_are_built():
    assert load_method("affine-fast") == Linear(foreground_mm=2.0)
    assert load_method("rigid-fast").transform == "rigid"
