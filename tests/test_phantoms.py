"""The phantoms are what they claim: exact under their transforms, and a head to register."""

import pytest
import torch
from conftest import oblique_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridreg.geometry import Grid
from hybridreg.phantoms import (
    blobs,
    head,
    head_case,
    head_grid,
    head_labels,
    smooth_deformation,
)
from hybridreg.phantoms.anatomy import NAMES, TISSUES
from hybridreg.phantoms.heads import AXIAL_MM
from hybridreg.transforms import DisplacementField, compose, rigid
from hybridreg.warping import jacobian_determinant, warp

CONTRASTS = ("ct", "t1", "t2")
# The tissue in the middle of a structure.
INSIDE = {
    "left eye": "vitreous",
    "cerebrospinal fluid": "csf",
    "left cerebral cortex": "gray",
    "right cerebral white matter": "white",
    "cerebellar white matter": "white",
    "brainstem": "white",
    "left thalamus": "nucleus",
    "right lateral ventricle": "csf",
    "lesions": "lesion",
    "air cavities": "air",
}


def correlation(a, b) -> float:
    return torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1].item()


@pytest.fixture(scope="module")
def labels():
    return head_labels(head_grid(2.0))


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_every_tissue_has_the_value_of_its_contrast(contrast, labels):
    values = head(labels.grid, contrast).data[0]
    names = {name: label for label, name in labels.names.items()}
    texture = {"ct": 1.5, "t1": 25.0, "t2": 20.0}[contrast]  # its standard deviation in the brain
    for name, tissue in INSIDE.items():
        expected = TISSUES[tissue][CONTRASTS.index(contrast)]
        # Thin structures are blurred by their neighbors, thus the middle half, not the mean.
        low, high = values[labels.data == names[name]].quantile(torch.tensor([0.25, 0.75]))
        assert low - 2 * texture <= expected <= high + 2 * texture, name


def test_the_contrasts_order_the_tissues_differently():
    ct, t1, t2 = ({tissue: v[i] for tissue, v in TISSUES.items()} for i in range(3))
    assert ct["bone"] > 1000 > ct["gray"] > ct["white"] > ct["csf"] > ct["fat"] > ct["air"] == -1000
    assert t1["white"] > t1["gray"] > t1["csf"] and t1["fat"] > t1["white"]
    assert t2["csf"] > t2["gray"] > t2["white"] > t2["bone"]


def test_all_structures_are_there_and_left_lies_towards_plus_x(labels):
    assert labels.labels() == list(range(1, len(NAMES) + 1))
    x = labels.grid.points()[..., 0]
    for label, name in labels.names.items():
        middle = x[labels.data == label].mean()
        if "left" in name:
            assert middle > 5, name
        if "right" in name:
            assert middle < -5, name


def test_values_belong_to_points_whatever_the_grid():
    """Two lattices that share every sixth and every fourth point, seen in float32 points."""
    fine, coarse = head_grid(2.0), Grid((20, 24, 20), (6.0, 6.0, 6.0))
    start = fine.points()[3, 5, 7]
    coarse = Grid(coarse.shape, coarse.spacing, start.tolist())
    for contrast in CONTRASTS:
        a = head(fine, contrast).data[0, 3::3, 5::3, 7::3][:20, :24, :20]
        b = head(coarse, contrast).data[0]
        # 1e-5 mm of rounding times at most 2300 HU over 0.7 mm
        assert (a - b).abs().max() < 0.1
    a = head_labels(fine).data[3::3, 5::3, 7::3][:20, :24, :20]
    assert torch.equal(a, head_labels(coarse).data)


def test_the_two_dimensional_head_is_a_section_of_the_whole():
    turn, shift = 17.0, (5.0, -8.0)
    flat = head_grid((1.5, 2.5), dimension=2, angles_deg=(12.0,))
    deep = Grid(
        (1, *flat.shape),
        (*flat.spacing, 1.0),
        (*flat.origin, AXIAL_MM),
        rigid((0, 0, 12.0), (0, 0, 0), (0, 0, 0)).linear,
    )
    moved = rigid((turn,), shift, (0.0, 0.0))
    moved_deep = rigid((0.0, 0.0, turn), (*shift, 0.0), (0.0, 0.0, 0.0))
    for contrast in CONTRASTS:
        section = head(flat, contrast, transform=moved).data
        whole = head(deep, contrast, transform=moved_deep).data[:, 0]
        assert (section - whole).abs().max() < 0.1
    section, whole = head_labels(flat, transform=moved), head_labels(deep, transform=moved_deep)
    assert (section.data == whole.data[0]).double().mean() > 0.9999  # ties at 1e-5 mm may differ
    assert section.labels()


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_no_mirror_image_or_half_turn_fits_the_head(dimension, contrast):
    grid = head_grid(3.0, dimension=dimension)
    window = (-20, 80) if contrast == "ct" else (0, 1000)  # of the brain, not of bone and air
    data = head(grid, contrast).data[0].clamp(*window)
    inside = head_labels(grid).data >= 6
    for axes in ((-1,), (-2,), (-1, -2), *(((-3,), (-1, -3)) if dimension == 3 else ())):
        both = inside & inside.flip(axes)
        assert both.double().mean() > 0.1
        assert correlation(data[both], data.flip(axes)[both]) < 0.75, axes


def test_there_is_detail_everywhere_in_the_brain():
    """No ball of 10 mm within the brain is flat: its T1 varies by more than the noise would."""
    grid = head_grid(2.0)
    data = head(grid, "t1").data[0]
    kernel = 5
    mean = torch.nn.functional.avg_pool3d(data[None], kernel, 1)[0]
    square = torch.nn.functional.avg_pool3d(data[None].square(), kernel, 1)[0]
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    brain = (head_labels(grid).data >= 7)[2:-2, 2:-2, 2:-2]
    assert deviation[brain].quantile(0.02) > 5
    assert deviation[brain].median() > 80


@pytest.mark.parametrize("dimension", [2, 3])
def test_moving_through_the_true_transform_is_the_fixed_image(dimension):
    """What is left is interpolation: it fades as voxels shrink."""
    angles = (9.0, -14.0, 21.0) if dimension == 3 else (21.0,)
    case = head_case(
        dimension=dimension,
        fixed="t1",
        angles_deg=angles,
        translation_mm=(6.0, -9.0, 4.0)[:dimension],
        deformation_mm=7.0,
        noise=0.0,
        seed=3,
    )
    center = case.true_transform.inverse()(torch.zeros(1, dimension, dtype=torch.float64))[0]
    errors = []
    for spacing in (2.0, 1.0, 0.5):
        n = int(24 / spacing)
        middle = [o - 12 + spacing / 2 for o in center.tolist()]
        fixed = head(
            Grid((n,) * dimension, (spacing,) * dimension, middle),
            "t1",
            transform=case.true_transform,
        )
        moving = head(
            Grid((2 * n,) * dimension, (spacing,) * dimension, (-24.3,) * dimension), "t1"
        )
        moved = warp(moving, case.true_transform, onto=fixed.grid)
        errors.append((moved.data - fixed.data).abs().mean().item())
    assert errors[1] < errors[0] / 1.6 and errors[2] < errors[1] / 2.5
    assert errors[2] < 4  # of 700: white matter


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_head_case_agrees_with_itself_through_the_true_transform(dimension):
    case = head_case(
        dimension=dimension,
        angles_deg=(8.0, -5.0, 12.0) if dimension == 3 else (12.0,),
        translation_mm=(9.0, -6.0, 9.0)[:dimension],
        deformation_mm=8.0,
        spacing_mm=2.0,
        noise=0.0,
    )
    fixed, moving, true = case.pair.fixed.grid, case.pair.moving.grid, case.true_transform
    for grid in (fixed, moving):
        assert abs(grid.direction[0][1]) > 0.05  # oblique
    ct = head(moving, "ct")
    seen = moving.contains(true(fixed.points()))
    moved = warp(ct, true, onto=fixed, default=-1000.0)
    assert correlation(moved.data[0][seen], case.pair.fixed.data[0][seen]) > 0.985
    labels = warp(case.moving_labels, true, onto=fixed)
    # Sulci are thinner than the voxels of 2 mm; off by 1 mm, it is 0.86 in 2D and 0.90 in 3D.
    assert (labels.data == case.fixed_labels.data)[seen].double().mean() > 0.91
    assert case.fixed_labels.names[7] == "right cerebral cortex"


@pytest.mark.parametrize("dimension", [2, 3])
def test_landmarks_are_mapped_exactly_and_lie_in_the_head(dimension):
    case = head_case(
        dimension=dimension,
        angles_deg=(4.0, 10.0, -12.0) if dimension == 3 else (-12.0,),
        deformation_mm=6.0,
        spacing_mm=4.0,
    )
    fixed, moving = case.fixed_landmarks, case.moving_landmarks
    assert len(fixed.points) >= 20 and fixed.names == moving.names
    assert torch.equal(case.true_transform(fixed.points), moving.points)
    assert (fixed.points - moving.points).norm(dim=-1).mean() > 3
    index = case.pair.fixed.grid.physical_to_voxel()
    voxels = (fixed.points @ index[:-1, :-1].T + index[:-1, -1]).round().long().flip(-1)
    assert (case.fixed_labels.data[tuple(voxels.unbind(-1))] > 0).all()


def test_a_structure_lies_where_its_landmark_says():
    case = head_case(angles_deg=(4.0, 10.0, -12.0), deformation_mm=6.0, spacing_mm=2.0)
    labels = {name: label for label, name in case.fixed_labels.names.items()}
    points = dict(zip(case.fixed_landmarks.names, case.fixed_landmarks.points, strict=True))
    for name in ("left thalamus", "right putamen", "third ventricle"):
        inside = case.fixed_labels.data == labels[name]
        center = case.pair.fixed.grid.points()[inside].mean(0)
        assert (center - points[f"{name} 1"]).norm() < 3  # they hide parts of each other


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    dimension=st.sampled_from([2, 3]),
    largest=st.floats(0.5, 10.0),
)
def test_smooth_deformations_move_by_what_was_asked_and_never_fold(seed, dimension, largest):
    center = (12.0, -30.0, 45.0)[:dimension]
    deformation = smooth_deformation(largest, center=center, seed=seed, radius_mm=120.0)
    generator = torch.Generator().manual_seed(seed)
    offset = 150 * (torch.rand(3000, dimension, generator=generator, dtype=torch.float64) - 0.5)
    points = torch.tensor(center, dtype=torch.float64) + offset
    moved = (deformation(points) - points).norm(dim=-1)
    assert moved.max() <= largest + 1e-9
    at_center = torch.tensor(center, dtype=torch.float64)
    assert (deformation(at_center) - at_center).norm().item() == pytest.approx(largest)
    jacobian = torch.func.vmap(torch.func.jacrev(deformation))(points)
    bound = (1 - deformation.steepness) ** dimension
    assert torch.linalg.det(jacobian).min() >= bound > 0
    assert torch.linalg.matrix_norm(jacobian - torch.eye(dimension), ord=2).max() <= (
        deformation.steepness
    )


def test_a_smooth_deformation_is_the_identity_beyond_its_radius_and_inverts():
    deformation = smooth_deformation(8.0, center=(5.0, -10.0, 20.0), radius_mm=90.0, seed=4)
    grid = oblique_grid()
    points = grid.points() - grid.center + deformation.center
    far = deformation.center + 91.0 * torch.nn.functional.normalize(
        points - deformation.center, dim=-1
    )
    assert torch.equal(deformation(far), far)
    assert (deformation(points) - points).norm(dim=-1).mean() > 1
    back = deformation.inverse()(deformation(points))
    assert (back - points).norm(dim=-1).max() < 1e-3
    assert deformation(points.float()).dtype == torch.float32


def test_what_could_fold_is_refused():
    with pytest.raises(ValueError, match="longer"):
        smooth_deformation(8.0, wavelength_mm=40.0)
    assert smooth_deformation(8.0, wavelength_mm=60.0).steepness < 1


def test_an_unknown_contrast_is_refused():
    with pytest.raises(ValueError, match="t1, t2"):
        head(head_grid(8.0), "flair")


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_field_of_view_is_centered_and_turned_as_asked(dimension):
    grid = head_grid(
        (3.0, 2.0, 4.0)[:dimension],
        dimension=dimension,
        angles_deg=(5.0, 6.0, 7.0)[: 2 * dimension - 3],
    )
    assert torch.allclose(grid.center, torch.zeros(dimension, dtype=torch.float64), atol=1e-9)
    assert grid.spacing == (3.0, 2.0, 4.0)[:dimension]
    assert grid.extent[0] >= 181 and grid.extent[1] >= 217
    assert head_grid().shape == (181, 217, 181) and head_grid().origin == (-90.0, -108.0, -90.0)


def test_the_same_seed_gives_the_same_case_and_another_one_another():
    first, same, other = (
        head_case(dimension=2, deformation_mm=5.0, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first.pair.fixed.data, same.pair.fixed.data)
    assert torch.equal(first.pair.moving.data, same.pair.moving.data)
    assert not torch.equal(first.pair.moving.data, other.pair.moving.data)  # noise
    assert not torch.equal(first.fixed_landmarks.points, other.fixed_landmarks.points)  # bending
    assert first.subject != other.subject
    for a, b in ((0, 0), (0, 1)):
        left, right = blobs(noise=0.1, seed=a), blobs(noise=0.1, seed=b)
        assert torch.equal(left.pair.fixed.data, right.pair.fixed.data) == (a == b)


def test_noise_is_a_fraction_of_the_contrast_of_gray_matter_to_fluid():
    grid = head_grid(3.0)
    for contrast, scale in (("ct", 33.0), ("t1", 350.0), ("t2", 480.0)):
        noise = head(grid, contrast, noise=0.2, seed=5).data - head(grid, contrast).data
        assert noise.std().item() == pytest.approx(0.2 * scale, rel=0.01)
        assert abs(noise.mean().item()) < 0.002 * scale


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("deformation_mm", [0.0, 3.0])
def test_blobs_agree_through_their_true_transform(dimension, deformation_mm):
    case = blobs(
        dimension=dimension,
        angles_deg=(5.0, -8.0, 6.0)[: 2 * dimension - 3],
        translation_mm=(3.0, -20.0, 4.0)[:dimension],
        deformation_mm=deformation_mm,
        seed=2,
    )
    fixed, moving, true = case.pair.fixed, case.pair.moving, case.true_transform
    assert fixed.data.numel() < 15_000 and fixed.grid.shape != moving.grid.shape
    assert len(set(fixed.grid.spacing)) == dimension and abs(fixed.grid.direction[0][1]) > 0.1
    moved = warp(moving, true, onto=fixed.grid, interpolation="cubic")
    assert (moved.data - fixed.data).abs().max() < 0.12  # blobs of 2.5 mm on voxels of 2 mm
    assert (moved.data - fixed.data).abs().mean() < 0.005
    labels = warp(case.moving_labels, true, onto=fixed.grid)
    assert (labels.data == case.fixed_labels.data).double().mean() > 0.93
    assert set(case.fixed_labels.labels()) == set(range(1, 13))
    assert torch.equal(true(case.fixed_landmarks.points), case.moving_landmarks.points)
    assert fixed.grid.contains(case.fixed_landmarks.points).all()
    field = DisplacementField.sampled(true, fixed.grid)
    determinant = jacobian_determinant(field, fixed.grid).data
    assert determinant.min() > 0.2
    assert (determinant.max() > 1.05) == (deformation_mm > 0)


def test_the_true_transform_turns_then_shifts_then_bends():
    case = head_case(
        angles_deg=(5.0, 6.0, 7.0), translation_mm=(1.0, 2.0, 3.0), deformation_mm=4.0, seed=9,
        spacing_mm=8.0,
    )  # fmt: skip
    points = oblique_grid().points()
    turned = rigid((5.0, 6.0, 7.0), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0))
    bent = smooth_deformation(4.0, seed=9)
    assert torch.allclose(case.true_transform(points), compose(bent, turned)(points))
    assert torch.allclose(case.true_transform(points), bent(turned(points)))
