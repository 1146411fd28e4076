"""The measures agree with independent implementations, with closed forms, and with their words."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import oblique_grid
from scipy.spatial.distance import cdist

from hybridreg.cases import Case, ImagePair
from hybridreg.evaluation import (
    Distances,
    dice,
    evaluate,
    inverse_consistency,
    jacobian_statistics,
    non_diffeomorphic_percent,
    overall_dice,
    rotation_between,
    surface_distances,
    target_registration_error,
)
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.phantoms import blobs, head_case
from hybridreg.transforms import (
    IDENTITY,
    AffineTransform,
    DisplacementField,
    compose,
    rigid,
)
from hybridreg.warping import jacobian_determinant, warp

GRIDS = {
    "3D": oblique_grid(3),
    "3D left-handed": oblique_grid(3, left_handed=True),
    "2D": oblique_grid(2),
    "2D left-handed": oblique_grid(2, left_handed=True),
}


@pytest.fixture(params=GRIDS)
def grid(request) -> Grid:
    return GRIDS[request.param]


def patches(grid: Grid, seed: int, *, labels=(3, 7, 12, 1000)) -> LabelMap:
    """Smooth random regions of several labels and some background,
    touching each other and edges.
    """
    generator = torch.Generator().manual_seed(seed)
    points = grid.points() - grid.center
    waves = [
        torch.sin(points @ torch.randn(grid.dimension, generator=generator).double() / 4 + i)
        for i in range(len(labels) + 1)
    ]
    winner = torch.stack(waves).argmax(0)
    return LabelMap(torch.tensor([0, *labels])[winner], grid)


def to_sitk(labels: LabelMap) -> sitk.Image:
    image = sitk.GetImageFromArray(labels.data.numpy().astype(np.uint16))
    image.SetSpacing(labels.grid.spacing)
    image.SetOrigin(labels.grid.origin)
    image.SetDirection(np.ravel(labels.grid.direction).tolist())
    return image


def surface_mask(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with a face neighbor outside of it: what ITK's erosion takes away."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    eroded = sitk.BinaryErode(image, [1] * mask.ndim, sitk.sitkCross, 0.0, 1.0, False)
    return mask & (sitk.GetArrayFromImage(eroded) == 0)


def box(grid: Grid, start, stop, label: int = 1) -> LabelMap:
    data = torch.zeros(grid.shape, dtype=torch.int32)
    data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = label
    return LabelMap(data, grid)


# Overlap


def test_dice_agrees_with_simpleitk(grid):
    fixed, moved = patches(grid, 1), patches(grid, 2)
    found = dice(fixed, moved)
    judge = sitk.LabelOverlapMeasuresImageFilter()
    judge.Execute(to_sitk(moved), to_sitk(fixed))  # its target is the second
    assert list(found) == fixed.labels() == moved.labels() == [3, 7, 12, 1000]
    for label, value in found.items():
        assert value == pytest.approx(judge.GetDiceCoefficient(label), abs=1e-12)
        assert 0.05 < value < 0.95
    # All labels are in both maps, so the sums run over the same voxels.
    assert overall_dice(fixed, moved) == pytest.approx(judge.GetDiceCoefficient(), abs=1e-12)


def test_a_label_that_the_moved_map_lacks_counts_as_zero_and_one_that_it_adds_does_not_count():
    grid = Grid((1, 4))
    fixed = LabelMap(torch.tensor([[1, 1, 2, 5]]), grid)
    moved = LabelMap(torch.tensor([[1, 9, 2, 2]]), grid)
    assert dice(fixed, moved) == {1: 2 / 3, 2: 2 / 3, 5: 0.0}
    assert overall_dice(fixed, moved) == pytest.approx(4 / (3 + 3 + 1))


@pytest.mark.parametrize("change", [lambda v: v - 5, lambda v: v * 400_000_000])
def test_dice_does_not_care_how_labels_are_numbered(change):
    """Negative ones and ones too large to count in an array of that length."""
    grid = oblique_grid()
    fixed, moved = patches(grid, 1, labels=(1, 2, 3)), patches(grid, 2, labels=(1, 2, 3))
    expected = dice(fixed, moved)
    renamed = [replace(m, data=torch.where(m.data == 0, 0, change(m.data))) for m in (fixed, moved)]
    found = dice(*renamed)
    assert sorted(found.values()) == sorted(expected.values())
    assert set(found) == set(renamed[0].labels())


def test_maps_without_labels_have_no_dice():
    empty = LabelMap(torch.zeros(5, 6), Grid((5, 6)))
    assert dice(empty, empty) == {} and overall_dice(empty, empty) is None
    assert surface_distances(empty, empty) == {}


def test_labels_on_different_grids_are_refused():
    fixed = patches(oblique_grid(), 1)
    other = replace(fixed, grid=replace(fixed.grid, origin=(0.0, 0.0, 0.0)))
    for measure in (dice, overall_dice, surface_distances):
        with pytest.raises(ValueError, match="warp the moving labels"):
            measure(fixed, other)


# Surfaces


def test_surface_distances_agree_with_brute_force_on_oblique_points(grid):
    """All pairs of surface points in LPS mm; surfaces found by ITK's erosion."""
    fixed, moved = patches(grid, 1), patches(grid, 2)
    points = grid.points().numpy()
    for label, found in surface_distances(fixed, moved).items():
        a, b = (points[surface_mask((m.data == label).numpy())] for m in (fixed, moved))
        distances = cdist(a, b)
        there, back = distances.min(1), distances.min(0)
        expected = (
            max(np.percentile(there, 95), np.percentile(back, 95)),
            (there.sum() + back.sum()) / (len(there) + len(back)),
            max(there.max(), back.max()),
        )
        assert found == pytest.approx(expected, abs=1e-9)
        assert found.hd95_mm < found.max_mm


def test_the_largest_surface_distance_is_simpleitks_hausdorff_distance(grid):
    fixed, moved = patches(grid, 3), patches(grid, 4)
    found = surface_distances(fixed, moved)
    for label in (3, 12):
        masks = [surface_mask((m.data == label).numpy()) for m in (fixed, moved)]
        judge = sitk.HausdorffDistanceImageFilter()
        judge.Execute(*(to_sitk(LabelMap(torch.from_numpy(mask), grid)) for mask in masks))
        # ITK measures by a distance map in float32.
        assert found[label].max_mm == pytest.approx(judge.GetHausdorffDistance(), rel=1e-5)


def test_surface_distances_agree_with_monai():
    metrics = pytest.importorskip("monai.metrics")
    grid = oblique_grid()
    fixed, moved = patches(grid, 1), patches(grid, 2)
    spacing = grid.spacing[::-1]
    for label, found in surface_distances(fixed, moved).items():
        a, b = ((m.data == label)[None, None] for m in (fixed, moved))
        hd95 = metrics.compute_hausdorff_distance(
            b, a, include_background=True, percentile=95, spacing=spacing
        )
        mean = metrics.compute_average_surface_distance(
            b, a, include_background=True, symmetric=True, spacing=spacing
        )
        assert found.hd95_mm == pytest.approx(hd95.item(), rel=1e-5)
        assert found.mean_mm == pytest.approx(mean.item(), rel=1e-5)


def test_a_box_moved_along_an_axis_has_known_distances():
    grid = Grid((20, 20, 40), (0.5, 1.0, 3.0))
    fixed, moved = box(grid, (5, 5, 5), (15, 15, 25)), box(grid, (5, 5, 9), (15, 15, 29))
    found = surface_distances(fixed, moved)[1]
    assert found.max_mm == pytest.approx(4 * 0.5)
    assert dice(fixed, moved)[1] == pytest.approx(16 / 20)
    assert surface_distances(fixed, fixed)[1] == (0.0, 0.0, 0.0)


def test_a_single_voxel_is_its_own_surface_and_a_missing_label_has_no_distance():
    grid = oblique_grid()
    fixed, moved = (LabelMap(torch.zeros(grid.shape), grid) for _ in range(2))
    fixed.data[3, 4, 5], moved.data[6, 8, 7] = 1, 1
    fixed.data[0, 0, 0] = 2
    found = surface_distances(fixed, moved)
    apart = math.hypot(2 * 1.1, 4 * 0.9, 3 * 2.3)
    assert found[1] == pytest.approx((apart,) * 3)
    assert found[2] is None and dice(fixed, moved)[2] == 0


def test_a_volume_of_one_slice_is_evaluated_as_the_slice():
    flat = oblique_grid(2)
    deep = Grid((1, *flat.shape), (*flat.spacing, 5.0))
    flat_maps = [patches(flat, seed) for seed in (1, 2)]
    deep_maps = [LabelMap(m.data[None], deep) for m in flat_maps]
    assert surface_distances(*deep_maps) == surface_distances(*flat_maps)


# Landmarks


def test_target_registration_error_of_a_known_shift_is_its_length():
    points = torch.tensor([[1.0, 2, 3], [-40, 5, 60], [7, -80, 9]])
    fixed, moving = LandmarkSet(points), LandmarkSet(points + torch.tensor([3.0, -4, 12]))
    assert target_registration_error(IDENTITY, fixed, moving).tolist() == [13.0] * 3
    turned = rigid((10.0, 20.0, 30.0), (3.0, -4.0, 12.0), (5.0, 6.0, 7.0))
    there = LandmarkSet(turned(fixed.points))
    assert target_registration_error(turned, fixed, there).max() < 1e-12
    # A transform in the wrong direction is wrong by more than the right one corrects.
    assert target_registration_error(turned.inverse(), fixed, there).min() > 20


def test_landmarks_that_do_not_pair_up_are_refused():
    points = torch.rand(3, 3)
    with pytest.raises(ValueError, match="3 fixed landmarks but 2 moving"):
        target_registration_error(IDENTITY, LandmarkSet(points), LandmarkSet(points[:2]))
    with pytest.raises(ValueError, match="3D, the moving ones 2D"):
        target_registration_error(IDENTITY, LandmarkSet(points), LandmarkSet(points[:, :2]))


def test_the_target_registration_error_is_between_landmarks_of_the_same_name():
    points = torch.tensor([[1.0, 2, 3], [-40, 5, 60], [7, -80, 9]])
    fixed = LandmarkSet(points, ("a", "b", "c"))
    moving = LandmarkSet((points + torch.tensor([3.0, -4, 12]))[[1, 2, 0]], ("b", "c", "a"))
    assert target_registration_error(IDENTITY, fixed, moving).tolist() == [13.0] * 3


def test_the_spread_of_distances_is_reported_by_four_numbers():
    found = Distances.of(torch.arange(101).double().flip(0))
    assert found == Distances(101, 50.0, 50.0, 95.0, 100.0)
    assert Distances.of(torch.empty(0)) is None


# Jacobian and folds


def field_of(displacement, grid: Grid) -> DisplacementField:
    """displacement: of points (..., D) in mm."""
    return DisplacementField(displacement(grid.points()).movedim(-1, 0), grid)


def test_statistics_of_an_affine_are_its_determinant(grid):
    d = grid.dimension
    linear = torch.eye(d) + 0.2 * torch.randn(d, d, generator=torch.Generator().manual_seed(3))
    affine = AffineTransform.from_parts(linear, [1.0] * d)
    expected = torch.linalg.det(affine.linear).item()
    found = jacobian_statistics(jacobian_determinant(affine, grid))
    for value in (found.minimum, found.p1, found.p99, found.maximum):
        assert value == pytest.approx(expected, rel=1e-4)  # float32 displacements
    assert found.folding_percent == 0 and found.log_sd < 1e-4
    assert found.voxels == math.prod(grid.shape)
    field = field_of(lambda p: affine(p) - p, grid)
    assert non_diffeomorphic_percent(field) == 0
    mirror = torch.diag(torch.tensor([-1.0] + [1.0] * (d - 1)))
    mirrored = AffineTransform.from_parts(mirror, [0.0] * d)
    found = jacobian_statistics(jacobian_determinant(mirrored, grid))
    assert found.folding_percent == 100 and found.log_sd is None
    inverted = non_diffeomorphic_percent(field_of(lambda p: mirrored(p) - p, grid))
    assert inverted == pytest.approx(100, rel=1e-4)


def test_a_field_with_known_folds_has_known_percentages():
    """x -> x + a sin x folds where 1 + a cos x < 0: with a = sqrt 2 in a quarter of the line."""
    n, period = 480, 120
    grid = Grid(
        (6, 5, n),
        (0.7, 2.0, 1.3),
        (10.0, 20.0, 30.0),
        rigid((9.0, 8.0, 7.0), [0.0] * 3, [0.0] * 3).linear,
    )
    axis = torch.tensor(grid.direction)[:, 0].double()
    along = torch.arange(n).double() * grid.spacing[0]
    number = 2 * math.pi / (period * grid.spacing[0])
    wave = math.sqrt(2) / number * torch.sin(number * along)
    vectors = (axis[:, None] * wave)[:, None, None, :].expand(3, *grid.shape)
    field = DisplacementField(vectors.contiguous(), grid)
    found = jacobian_statistics(jacobian_determinant(field, grid))
    assert found.folding_percent == pytest.approx(25, abs=2 * 100 / period)  # two voxels an edge
    assert found.minimum == pytest.approx(1 - math.sqrt(2), abs=1e-3)
    assert found.maximum == pytest.approx(1 + math.sqrt(2), abs=1e-3)
    # The mean over a period of the negative part of 1 + sqrt 2 cos: (1 - pi / 4) / pi.
    inverted = non_diffeomorphic_percent(field)
    assert inverted == pytest.approx(100 * (1 - math.pi / 4) / math.pi, rel=0.02)


def test_the_logarithm_is_taken_of_what_is_positive_and_of_nothing_else():
    grid = Grid((1, 6))
    determinant = Image(torch.tensor([[-1.0, 0.0, 1e-6, 1.0, math.e, 1.0]]), grid)
    found = jacobian_statistics(determinant)
    logs = np.log(np.array([1e-6, 1.0, math.e, 1.0]))
    assert found.folding_percent == pytest.approx(100 * 2 / 6)
    assert found.log_sd == pytest.approx(logs.std(), rel=1e-6)
    assert found.minimum == -1
    mask = LabelMap(torch.tensor([[0, 0, 0, 5, 1, 1]]), grid)
    assert jacobian_statistics(determinant, mask=mask).folding_percent == 0
    with pytest.raises(ValueError, match="empty"):
        jacobian_statistics(determinant, mask=LabelMap(torch.zeros(1, 6), grid))
    with pytest.raises(ValueError, match="resample the mask"):
        jacobian_statistics(determinant, mask=LabelMap(torch.ones(1, 6), Grid((1, 6), (2.0, 2.0))))


def test_statistics_agree_with_simpleitk_on_a_rough_field():
    """ITK differentiates along the axes of the array, so the vectors are turned with them."""
    grid = oblique_grid()
    upright = Grid(grid.shape, grid.spacing)
    vectors = 2.0 * torch.randn(3, *grid.shape, generator=torch.Generator().manual_seed(5))
    axes = torch.tensor(grid.direction, dtype=torch.float32)
    turned = DisplacementField(torch.einsum("ab,b...->a...", axes, vectors), grid)
    image = sitk.GetImageFromArray(vectors.movedim(0, -1).double().numpy(), isVector=True)
    image.SetSpacing(upright.spacing)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    inner = (slice(1, -1),) * 3  # ITK does otherwise at the border
    expected = expected[inner]
    mask = torch.zeros(grid.shape)
    mask[inner] = 1
    found = jacobian_statistics(jacobian_determinant(turned, grid), mask=LabelMap(mask, grid))
    assert 5 < found.folding_percent < 50
    assert found.folding_percent == pytest.approx(100 * (expected <= 0).mean(), abs=0.02)
    # Logarithms of float32 determinants near 0 differ.
    assert found.log_sd == pytest.approx(np.log(expected[expected > 0]).std(), rel=1e-2)
    assert (found.p1, found.p99) == pytest.approx(np.percentile(expected, [1, 99]), rel=1e-3)


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_fold_of_one_voxel_is_seen_though_central_differences_skip_it(dimension):
    """The voxel in the middle jumps over its neighbor by 2.5 voxels along x."""
    grid = replace(oblique_grid(dimension), shape=(5,) * dimension)
    step = torch.tensor(grid.direction)[:, 0] * grid.spacing[0]
    vectors = torch.zeros(dimension, *grid.shape)
    vectors[(slice(None), *[2] * dimension)] = 2.5 * step
    field = DisplacementField(vectors, grid)
    determinant = jacobian_determinant(field, grid).data[0]
    assert determinant[(2,) * dimension].item() == pytest.approx(1)
    found = non_diffeomorphic_percent(field) / 100 * 4**dimension
    if dimension == 2:  # in either cut of the two cells ahead, one triangle from 1/2 to -3/4
        assert found == pytest.approx(2 * 3 / 4, rel=1e-5)
    else:
        assert found == pytest.approx(inverted_volume(field), rel=1e-5)
        assert found > 1


def inverted_volume(field: DisplacementField) -> float:
    """The same measure, slowly: by ITK-free loops over cells and the 5 tetrahedra of both cuts."""
    to_voxels = torch.linalg.inv(field.grid.voxel_to_physical())[:-1, :-1].double()
    moved = torch.einsum("ab,b...->...a", to_voxels, field.vectors.double()).numpy()
    cuts = [
        ["000 100 010 001", "110 010 100 111", "101 001 111 100", "011 111 001 010",
         "100 010 001 111"],
        ["100 000 110 101", "010 110 000 011", "001 101 011 000", "111 011 101 110",
         "000 110 011 101"],
    ]  # fmt: skip
    total = 0.0
    for cell in np.ndindex(*(n - 1 for n in field.grid.shape)):
        z, y, x = cell
        for tetrahedra in cuts:
            for names in tetrahedra:
                corners = [tuple(int(c) for c in name) for name in names.split()]
                rest = np.array(corners, dtype=float)
                there = rest + [moved[z + c, y + b, x + a] for a, b, c in corners]
                volumes = [np.linalg.det(p[1:] - p[0]) / 6 for p in (rest, there)]
                volume = volumes[1] * np.sign(volumes[0])
                total += max(-volume, 0) / 2
    return total


@pytest.mark.parametrize("left_handed", [False, True])
def test_the_inverted_volume_agrees_with_a_slow_one_cell_by_cell(left_handed):
    grid = replace(oblique_grid(3, left_handed=left_handed), shape=(4, 5, 6))
    vectors = 1.5 * torch.randn(3, *grid.shape, generator=torch.Generator().manual_seed(8))
    field = DisplacementField(vectors, grid)
    expected = inverted_volume(field) / (3 * 4 * 5)
    assert 0.05 < expected < 5
    assert non_diffeomorphic_percent(field) == pytest.approx(100 * expected, rel=1e-5)
    half = LabelMap((torch.arange(6) >= 3).expand(grid.shape), grid)
    cut = grid.crop((0, 0, 3), grid.shape)
    part = DisplacementField(vectors[..., 3:], cut)
    expected = non_diffeomorphic_percent(part)
    assert non_diffeomorphic_percent(field, mask=half) == pytest.approx(expected, rel=1e-6)


def test_slabs_do_not_change_the_inverted_volume(monkeypatch):
    grid = oblique_grid()
    field = DisplacementField(
        2.0 * torch.randn(3, *grid.shape, generator=torch.Generator().manual_seed(1)), grid
    )
    whole = non_diffeomorphic_percent(field)
    slabs = Grid.slabs
    monkeypatch.setattr(Grid, "slabs", lambda self, voxels: slabs(self, 1500))
    assert len(list(grid.slabs(0))) > 8
    assert non_diffeomorphic_percent(field) == pytest.approx(whole, rel=1e-9)


def test_without_a_cell_there_is_no_inverted_volume():
    flat = Grid((1, 5, 5))
    field = DisplacementField(torch.zeros(3, 1, 5, 5), flat)
    assert non_diffeomorphic_percent(field) is None
    grid = Grid((3, 3))
    corner = box(grid, (0, 0), (1, 1))
    assert (
        non_diffeomorphic_percent(DisplacementField(torch.zeros(2, 3, 3), grid), mask=corner)
        is None
    )


# Two transforms


def test_rotation_between_two_affines_is_their_angle():
    for angles in ((25.0, 0.0, 0.0), (0.0, -3.0, 0.0), (0.0, 0.0, 179.0)):
        base = rigid((10.0, 20.0, 30.0), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
        turned = compose(base, rigid(angles, (7.0, 8.0, 9.0), (0.0, 1.0, 2.0)))
        assert rotation_between(turned, base) == pytest.approx(abs(sum(angles)), abs=1e-5)
    flat = rigid((-40.0,), (1.0, 2.0), (3.0, 4.0))
    assert rotation_between(flat, rigid((-33.0,), (0.0, 0.0), (0.0, 0.0))) == pytest.approx(7)
    scaled = AffineTransform.from_parts(1.1 * flat.linear, [0.0, 0.0])
    assert rotation_between(scaled, flat) == pytest.approx(0, abs=1e-5)


def test_inverse_consistency_is_zero_of_the_inverse_and_the_mistake_of_another():
    transform = rigid((10.0, 20.0, 30.0), (5.0, -6.0, 7.0), (1.0, 2.0, 3.0))
    points = oblique_grid().points().flatten(0, -2)
    assert inverse_consistency(transform, transform.inverse(), points).max() < 1e-10
    off = AffineTransform.from_parts(torch.eye(3), [0.3, 0.0, -0.4])
    found = inverse_consistency(transform, compose(off, transform.inverse()), points)
    assert found.numpy() == pytest.approx(0.5)


# Everything together


@pytest.fixture(scope="module")
def head():
    return head_case(
        angles_deg=(6.0, -4.0, 9.0),
        translation_mm=(5.0, -7.0, 4.0),
        deformation_mm=5.0,
        spacing_mm=4.0,
    )


def test_the_truth_scores_best_and_the_identity_as_its_error(head):
    truth, nothing = evaluate(head, head.true_transform), evaluate(head, IDENTITY)
    assert truth.region == "foreground"
    assert truth.truth.max_mm == 0 and truth.landmarks.max_mm < 1e-9
    assert truth.landmarks.improved_percent == 100
    assert truth.dice.mean > nothing.dice.mean + 0.2
    assert truth.surface.mean_hd95_mm < nothing.surface.mean_hd95_mm - 2
    assert nothing.landmarks.mean_mm == nothing.landmarks.untransformed_mean_mm > 5
    assert nothing.landmarks.improved_percent == 0
    points = head.pair.fixed.grid.points()[head.fixed_labels.data > 0]
    moved_mm = (head.true_transform(points) - points).norm(dim=-1).mean().item()
    assert nothing.truth.mean_mm == pytest.approx(moved_mm, rel=0.05)  # the foreground is rounder
    assert truth.truth.rotation_deg is None  # bent
    assert truth.jacobian.folding_percent == 0
    assert truth.jacobian.log_sd > 0.05 and nothing.jacobian.log_sd < 1e-6
    names = {row.label: row.name for row in truth.labels}
    assert names == {k: n for k, n in head.fixed_labels.names.items() if k in names}
    assert len(names) == len(head.fixed_labels.labels())


def test_given_parts_give_the_same_scores(head):
    transform = compose(
        rigid((1.0, 2.0, 3.0), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)), head.true_transform
    )
    grid = head.pair.fixed.grid
    field = DisplacementField.sampled(transform, grid)
    given = evaluate(
        head,
        transform,
        inverse=transform.inverse(),
        jacobian=jacobian_determinant(field, grid),
        moved_labels=warp(head.moving_labels, transform, onto=head.fixed_labels.grid),
    )
    alone = evaluate(head, transform)
    assert alone.inverse_consistency is None and given.inverse_consistency is not None
    assert replace(given, inverse_consistency=None) == alone
    assert given.inverse_consistency.max_mm < 1e-3  # of the numerical inverse


def test_rigid_errors_are_reported_in_degrees_and_mm():
    case = blobs(angles_deg=(5.0, 6.0, 7.0), translation_mm=(3.0, 2.0, 1.0))
    center = case.pair.fixed.grid.center
    off = compose(case.true_transform, rigid((0.0, 4.0, 0.0), (0.0, 0.6, 0.8), center))
    found = evaluate(case, off, inverse=off.inverse())
    assert found.truth.rotation_deg == pytest.approx(4, abs=1e-6)
    assert found.truth.center_mm == pytest.approx(1, abs=1e-9)
    assert found.truth.max_mm > 1.5
    assert found.inverse_consistency.max_mm < 1e-9


def test_scores_are_plain_enough_for_json_and_say_what_is_missing():
    case = blobs(dimension=2, translation_mm=(3.0, -2.0))
    fixed = replace(case.fixed_labels, data=case.fixed_labels.data.clone(), names={1: "first"})
    fixed.data[0, 0] = 99  # the moving map does not have it
    found = evaluate(replace(case, fixed_labels=fixed), case.true_transform).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["dice"]["missing_labels"] == found["surface"]["missing_labels"] == 1
    rows = {row["label"]: row for row in found["labels"]}
    assert rows[1]["name"] == "first" and rows[2]["name"] == "2"
    assert rows[99]["dice"] == 0 and rows[99]["hd95_mm"] is None
    assert found["dice"]["mean"] == pytest.approx(np.mean([row["dice"] for row in rows.values()]))
    known = [row["hd95_mm"] for row in rows.values() if row["hd95_mm"] is not None]
    assert found["surface"]["mean_hd95_mm"] == pytest.approx(np.mean(known))
    bare = evaluate(Case(case.pair), IDENTITY).to_dict()
    assert bare["dice"] is bare["landmarks"] is bare["truth"] is bare["inverse_consistency"] is None
    assert bare["labels"] == [] and bare["jacobian"]["folding_percent"] == 0


def test_labels_that_all_vanish_score_zero_and_have_no_distance():
    case = blobs(dimension=2, translation_mm=(3.0, -2.0))
    far = AffineTransform.from_parts(torch.eye(2), [900.0, 0.0])
    found = evaluate(case, far)
    assert found.dice.mean == found.dice.overall == 0
    assert found.dice.missing_labels == len(found.labels) == 12
    assert found.surface.mean_hd95_mm is None and found.surface.mean_mm is None


def test_only_the_mask_is_evaluated_and_else_the_filled_foreground():
    grid = oblique_grid()
    data, expected = torch.zeros(grid.shape), torch.zeros(grid.shape, dtype=torch.bool)
    data[5:15, 6:20, 4:18] = 100.0
    expected[5:15, 6:20, 4:18] = True
    data[8:11, 9:15, 8:12] = 0.0  # a hole is foreground
    # It folds outside of the foreground only.
    vectors = torch.zeros(3, *grid.shape)
    vectors[:, 17:] = 30.0 * torch.randn(3, *vectors[:, 17:].shape[1:])
    field = DisplacementField(vectors, grid)
    pair = ImagePair(Image(data, grid), Image(data, grid))
    found = evaluate(Case(pair), field)
    assert found.region == "foreground" and found.jacobian.voxels == int(expected.sum())
    assert found.jacobian.folding_percent == 0
    mask = LabelMap(torch.arange(21)[:, None, None].expand(grid.shape) >= 16, grid)
    found = evaluate(Case(replace(pair, fixed_mask=mask)), field)
    assert found.region == "mask" and found.jacobian.voxels == int(mask.data.sum())
    assert found.jacobian.folding_percent > 20
    constant = Image(torch.ones(grid.shape), grid)
    assert evaluate(Case(ImagePair(constant, constant)), IDENTITY).region == "whole image"
    hot = data * (1 + 0.1 * torch.rand(grid.shape))
    hot[6, 7, 5] = 1e6  # one voxel
    hot = Image(hot, grid)
    assert evaluate(Case(ImagePair(hot, hot)), field).jacobian.voxels == int(expected.sum())


def test_inverse_consistency_is_evaluated_where_the_images_meet():
    """Beyond its grid a displacement field is the identity,
    which says nothing of a registration.
    """
    case = blobs(translation_mm=(3.0, -2.0, 4.0))
    mask = LabelMap(torch.ones(case.pair.moving.grid.shape), case.pair.moving.grid)
    case = replace(case, pair=replace(case.pair, moving_mask=mask))
    field = DisplacementField.sampled(case.true_transform, case.pair.fixed.grid)
    found = evaluate(case, field, inverse=case.true_transform.inverse())
    assert found.inverse_consistency.max_mm < 1e-4  # a constant in float32
    assert 5000 < found.inverse_consistency.count < math.prod(case.pair.moving.grid.shape)


def test_a_brain_with_140_labels_is_evaluated_in_seconds(data):
    """Scan and rescan of one person, shifted by a voxel."""
    from hybridreg.io.images import read_labels

    folder = data / "oasis_malf35" / "subjects"
    fixed, moving = (read_labels(folder / f"{n}_glm.nii.gz") for n in (1018, 1038))
    shift = (moving.grid.center - fixed.grid.center).tolist()
    moved = warp(moving, AffineTransform.from_parts(torch.eye(3), shift), onto=fixed.grid)
    overlap, surfaces = dice(fixed, moved), surface_distances(fixed, moved)
    assert len(overlap) == len(surfaces) == len(fixed.labels()) > 130
    judge = sitk.LabelOverlapMeasuresImageFilter()
    judge.Execute(to_sitk(moved), to_sitk(fixed))
    for label in overlap:
        if surfaces[label] is None:
            assert overlap[label] == 0
        else:
            assert overlap[label] == pytest.approx(judge.GetDiceCoefficient(label), abs=1e-12)
    assert 0.4 < np.mean(list(overlap.values())) < 0.9
