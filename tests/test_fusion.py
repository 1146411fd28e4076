"""Rules of fusion and the fusing of slices, stacks and volumes."""

import numpy as np
import pytest
import torch
from conftest import oblique_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hybridreg.fusion import RULES, FusionNetwork, flicker, fuse
from hybridreg.fusion.rules import neighborhood_sum
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap

CLASSICAL = [name for name, rule in RULES.items() if rule.weigh is not None]
SYMMETRIC = [name for name in CLASSICAL if name not in ("fixed", "moved")]


class Sharper:
    """Stands for a network: says that the image of more contrast in the slice is the sharper."""

    def weight_map(self, fixed, moved):
        return torch.full_like(fixed, float(fixed.std() / (fixed.std() + moved.std())))


def smooth_noise(grid: Grid, seed: int) -> Image:
    """Intensities that fill [0, 1]."""
    noise = np.random.default_rng(seed).random(grid.shape)
    data = ndimage.gaussian_filter(noise, 1.0)
    data = (data - data.min()) / np.ptp(data)
    return Image(torch.from_numpy(data).float(), grid)


def pair(grid: Grid, seed: int = 0) -> tuple[Image, Image]:
    return smooth_noise(grid, seed), smooth_noise(grid, seed + 1)


GRIDS = [oblique_grid(2), oblique_grid(3), oblique_grid(3, left_handed=True), Grid((1, 20, 33))]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: "x".join(map(str, grid.shape)))
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_fuses_slices_and_volumes_where_they_lie(rule, grid):
    fixed, moved = pair(grid)
    before = fixed.data.clone(), moved.data.clone()
    fused = fuse(fixed, moved, rule=rule, network=Sharper())
    assert fused.image.grid == fused.weight.grid == grid
    for image in (fused.image, fused.weight):
        assert image.data.min() >= 0 and image.data.max() <= 1
    assert fused.rule == rule and fused.plane == ""
    assert torch.equal(fixed.data, before[0]) and torch.equal(moved.data, before[1])


@pytest.mark.parametrize("grid", GRIDS[:2], ids=("2D", "3D"))
@pytest.mark.parametrize("rule", RULES)
def test_an_image_fused_with_itself_is_itself(rule, grid):
    image = smooth_noise(grid, 3)
    fused = fuse(image, image, rule=rule, network=Sharper()).image
    assert torch.allclose(fused.data, image.data, rtol=0, atol=2e-6)  # roundings of a pyramid


def test_pixel_rules_are_what_their_names_say():
    fixed, moved = pair(oblique_grid(3))
    a, b = fixed.data, moved.data
    assert torch.equal(fuse(fixed, moved, rule="fixed").image.data, a)
    assert torch.equal(fuse(fixed, moved, rule="moved").image.data, b)
    assert torch.allclose(fuse(fixed, moved, rule="mean").image.data, (a + b) / 2)
    brightest = fuse(fixed, moved, rule="maximum")
    assert torch.equal(brightest.image.data, torch.maximum(a, b))
    assert torch.equal(brightest.weight.data, (a > b).float())


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(SYMMETRIC),
    st.lists(st.integers(2, 24), min_size=2, max_size=3),
    st.integers(0, 1000),
)
def test_swapping_the_images_swaps_the_weights_and_keeps_the_result(rule, shape, seed):
    fixed, moved = pair(Grid(tuple(shape)), seed)
    one, other = fuse(fixed, moved, rule=rule), fuse(moved, fixed, rule=rule)
    assert torch.allclose(one.weight.data, 1 - other.weight.data, rtol=0, atol=1e-5)
    assert torch.allclose(one.image.data, other.image.data, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["energy", "laplacian", "liu-2017"])
def test_detail_of_each_source_survives_where_the_other_is_flat(rule):
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ripple = 0.5 + 0.3 * torch.sin(x + 0.7 * y)
    left = (x < 32).float()
    grid = Grid((64, 64))
    fixed, moved = (Image(torch.where(s > 0, ripple, 0.5), grid) for s in (left, 1 - left))
    fused = fuse(fixed, moved, rule=rule, network=Sharper()).image.data[0]
    mean = fuse(fixed, moved, rule="mean").image.data[0]
    away = (x - 31.5).abs() > 4
    # The mean halves every ripple, which is 0.1 off on average; of the rules little is lost.
    assert (mean - ripple)[away].abs().mean() > 0.09
    assert (fused - ripple)[away].abs().mean() < 0.03


def test_the_energy_weight_tells_where_an_image_has_the_more_detail():
    grid = Grid((48, 64))
    noise = smooth_noise(grid, 1).data[0] * (torch.arange(64) < 32)
    other = smooth_noise(grid, 2).data[0] * (torch.arange(64) >= 32)
    weight = fuse(Image(noise, grid), Image(other, grid), rule="energy").weight.data[0]
    assert weight[:, :16].min() > 0.9 and weight[:, -16:].max() < 0.1


def head(shape: tuple[int, int]) -> tuple[Image, Image]:
    """A ring that is solid in CT and dark in MR, around folds that only the MR shows."""
    grid = Grid(shape)
    y, x = np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in shape), indexing="ij")
    radius = np.hypot(y, x)
    bone, brain = (radius > 44) & (radius < 54), radius < 44
    noise = np.random.default_rng(0).normal(0, 0.01, shape)
    ct = 1.0 * bone + (0.3 + noise) * brain
    mr = brain * (0.5 + 0.2 * np.sign(np.sin(x / 4)) * (np.abs(y) < 25)) + 0.05 * bone
    soft = (ndimage.gaussian_filter(i, 0.7).clip(0, 1) for i in (ct, mr))
    return tuple(Image(torch.from_numpy(i).float(), grid) for i in soft)


def test_salience_keeps_bone_solid_and_shows_tissue_at_its_own_contrast():
    ct, mr = head((128, 128))
    fused = fuse(ct, mr, rule="salience").image.data[0]
    bone, tissue = ct.data[0] > 0.98, torch.zeros(128, 128, dtype=torch.bool)
    tissue[45:83, 34:94] = True
    assert fused[bone].min() > 0.9
    assert (fused - mr.data[0])[tissue].abs().mean() < 0.005
    averaged = fuse(ct, mr, rule="laplacian").image.data[0]
    assert (averaged - mr.data[0])[tissue].abs().mean() > 0.03


def test_edges_that_mr_shows_within_bone_leave_no_dark_spots_there():
    """Marrow and hard bone, 0.6 and 0.05 in MR and both white in CT."""
    ct, mr = head((128, 128))
    bone = ct.data[0] > 0.98
    marrow = bone & (torch.arange(128) % 16 < 8)
    streaked = Image(torch.where(marrow, 0.6, mr.data), mr.grid)
    fused = fuse(ct, streaked, rule="salience").image.data[0]
    inner = torch.from_numpy(ndimage.binary_erosion(bone.numpy(), iterations=2))
    assert fused[inner].min() > 0.9
    published = fuse(ct, streaked, rule="energy").image.data[0]
    assert published[inner].min() < 0.7


def test_salience_lets_in_a_strong_edge_of_the_darker_image():
    """A dark vessel that one image shows, in a region where the other is as bright and textured."""
    grid = Grid((96, 96))
    texture = 0.6 + 0.05 * (smooth_noise(grid, 1).data[0] - 0.5)
    vessel = texture - 0.1
    vessel[40:56, 46:50] = 0.1
    fixed, moved = Image(texture, grid), Image(vessel, grid)
    fused = fuse(fixed, moved, rule="salience").image.data[0]
    brightest = fuse(fixed, moved, rule="maximum").image.data[0]
    across = torch.diff(fused, dim=1)[44:52, 40:56].abs().amax(1)
    assert across.min() > 0.2  # half of the step of 0.4
    assert torch.diff(brightest, dim=1)[44:52, 40:56].abs().max() < 0.05


@pytest.mark.parametrize("shape", [(5, 7), (1, 4), (2, 2), (4, 5, 6), (1, 3, 1)])
def test_local_sums_are_mirrored_about_the_border_voxel(shape):
    image = np.random.default_rng(0).random(shape)
    # numpy refuses to mirror an axis of one voxel; there the voxel itself is all there is
    padded = image
    for axis, count in enumerate(shape):
        width = [(1, 1) if a == axis else (0, 0) for a in range(len(shape))]
        padded = np.pad(padded, width, mode="reflect" if count > 1 else "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3,) * len(shape))
    wanted = windows.sum(tuple(range(-len(shape), 0)))
    axes = tuple(range(-len(shape), 0))
    np.testing.assert_allclose(neighborhood_sum(torch.from_numpy(image)[None], axes)[0], wanted)


@pytest.mark.parametrize("rule", [*SYMMETRIC, "liu-2017"])
@pytest.mark.parametrize("level", [0.0, 0.4])
def test_an_image_without_contrast_leaves_the_contrast_of_the_other(rule, level):
    grid = oblique_grid(2)
    image, flat = smooth_noise(grid, 5), Image(torch.full(grid.shape, level), grid)
    for one, other in ((image, flat), (flat, image)):
        fused = fuse(one, other, rule=rule, network=Sharper()).image.data
        assert torch.isfinite(fused).all()
        if rule not in ("maximum", "mean"):
            detail = (fused - image.data)[0]
            # a change of brightness, at coarse scales, is all that may differ
            assert (
                torch.diff(detail, dim=0).abs().mean()
                < 0.3 * torch.diff(image.data[0], dim=0).abs().mean()
            )


@pytest.mark.parametrize("rule", RULES)
def test_two_empty_images_give_an_empty_one(rule):
    grid = Grid((17, 20, 23))
    empty = Image(torch.zeros(grid.shape), grid)
    for slices in (None, "axial"):
        fused = fuse(empty, empty, rule=rule, network=FusionNetwork(), slices=slices)
        assert (fused.image.data == 0).all() and torch.isfinite(fused.weight.data).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("rule", ["energy", "laplacian", "maximum", "liu-2017"])
def test_a_stack_fused_by_slices_is_each_slice_fused_by_itself(rule, axis):
    grid = Grid((17, 20, 23), (1, 2, 3))
    fixed, moved = pair(grid)
    stack = fuse(fixed, moved, rule=rule, network=Sharper(), slices=axis)
    assert stack.plane == f"axis {axis}"
    for index in (0, 5, grid.shape[axis] - 1):
        plane = Grid(tuple(n for i, n in enumerate(grid.shape) if i != axis))
        a, b = (Image(image.data[0].select(axis, index), plane) for image in (fixed, moved))
        alone = fuse(a, b, rule=rule, network=Sharper())
        got = stack.image.data[0].select(axis, index)
        assert torch.allclose(got, alone.image.data[0], atol=1e-6)
        weight = stack.weight.data[0].select(axis, index)
        assert torch.allclose(weight, alone.weight.data[0], atol=1e-6)


def test_planes_of_the_patient_are_found_whatever_the_order_of_the_axes():
    # Array axes (0, 1, 2) of this grid run along x, z and y of the patient, one of them backwards.
    direction = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    fixed, moved = pair(Grid((17, 20, 23), direction=direction))
    for plane, axis in (("sagittal", 0), ("axial", 1), ("coronal", 2)):
        named = fuse(fixed, moved, rule="energy", slices=plane)
        by_axis = fuse(fixed, moved, rule="energy", slices=axis)
        assert named.plane == plane
        assert torch.equal(named.image.data, by_axis.image.data)
        others = [a for a in range(3) if a != axis]
        assert not any(
            torch.equal(named.image.data, fuse(fixed, moved, rule="energy", slices=a).image.data)
            for a in others
        )


def test_a_volume_is_fused_across_slices_and_not_slice_by_slice():
    fixed, moved = pair(oblique_grid(3))
    whole = fuse(fixed, moved, rule="laplacian")
    slices = fuse(fixed, moved, rule="laplacian", slices="axial")
    assert (whole.image.data - slices.image.data).abs().max() > 0.01


def test_a_volume_of_equal_slices_is_each_slice_fused_in_the_plane():
    plane = Grid((40, 48))
    a, b = pair(plane)
    # 8 slices: too few to be halved; the 3 equal neighbors change no ratio of energies
    grid = Grid((8, *plane.shape))
    fixed, moved = (Image(i.data.expand(grid.shape), grid) for i in (a, b))
    whole = fuse(fixed, moved, rule="laplacian").image.data[0]
    assert torch.allclose(whole, whole[:1].expand_as(whole), atol=1e-6)


def test_flicker_is_one_for_independent_slices_and_pixel_rules_have_none():
    fixed, moved = pair(Grid((20, 24, 30)))
    for rule in ("maximum", "mean", "fixed"):
        for slices in (None, "axial", "coronal"):
            assert fuse(fixed, moved, rule=rule, slices=slices).flicker.ratio <= 1 + 1e-6


def test_flicker_is_the_mean_step_between_slices():
    ramp = torch.arange(5.0)[:, None, None].expand(5, 4, 3) / 10
    found = flicker(3 * ramp, ramp, 2 * ramp, axis=0)
    assert (found.fused, found.fixed, found.moved, found.larger) == pytest.approx(
        (0.3, 0.1, 0.2, 0.2)
    )
    assert found.ratio == pytest.approx(1.5)
    assert flicker(ramp, ramp, ramp, axis=2).ratio == 0
    assert fuse(*pair(Grid((20, 20))), rule="mean").flicker is None


class Moody:
    """A network that changes its mind from slice to slice."""

    def __init__(self):
        self.calls = 0

    def weight_map(self, fixed, moved):
        self.calls += 1
        return torch.full_like(fixed, float(self.calls % 2))


def test_a_network_that_changes_its_mind_between_slices_is_seen_to_flicker():
    grid = Grid((24, 32, 32))
    body = smooth_noise(Grid((32, 32)), 1).data.expand(grid.shape)
    fixed, moved = Image(body, grid), Image(0.7 * body, grid)
    found = fuse(fixed, moved, rule="liu-2017", network=Moody(), slices="axial").flicker
    assert found.larger == 0 and found.fused > 0.05 and found.ratio > 1


def half_masked(grid: Grid, axis: int, start: float) -> LabelMap:
    """Valid from a fraction of the axis on."""
    index = torch.arange(grid.shape[axis]) >= start * grid.shape[axis]
    shape = [1] * grid.dimension
    shape[axis] = -1
    return LabelMap(index.reshape(shape).expand(grid.shape).int(), grid)


MASKED_GRIDS = [Grid((60, 64), (1.5, 1.0)), Grid((24, 40, 48), (1.5, 1.0, 2.0))]


@pytest.mark.parametrize("rule", [*SYMMETRIC, "liu-2017"])
@pytest.mark.parametrize("grid", MASKED_GRIDS, ids=("2D", "3D"))
def test_where_one_image_is_missing_the_other_is_taken_as_it_is(rule, grid):
    fixed, moved = pair(grid)
    mask = half_masked(grid, -1, 0.4)
    missing = mask.data == 0
    for options, only, weight in (
        ({"moved_valid": mask}, fixed, 1.0),
        ({"fixed_valid": mask}, moved, 0.0),
    ):
        fused = fuse(fixed, moved, rule=rule, network=Sharper(), feather_mm=6.0, **options)
        assert torch.allclose(fused.image.data[0][missing], only.data[0][missing])
        assert torch.allclose(fused.weight.data[0][missing], torch.tensor(weight))


@pytest.mark.parametrize("grid", MASKED_GRIDS, ids=("2D", "3D"))
def test_the_fusion_sets_in_gradually_and_is_whole_beyond_the_feather(grid):
    fixed, moved = pair(grid)
    mask = half_masked(grid, -1, 0.4)
    first = int(mask.data.flatten(0, -2)[0].argmax())
    whole = fuse(fixed, moved, rule="maximum")
    cut = fuse(fixed, moved, rule="maximum", moved_valid=mask, feather_mm=6.0)
    width = round(6.0 / grid.spacing[0])
    beyond = np.s_[..., first + width :]
    assert torch.allclose(cut.image.data[beyond], whole.image.data[beyond])
    fraction = (torch.arange(width) + 1) / width  # distance from the last voxel that is missing
    inside = np.s_[..., first : first + width]
    wanted = torch.lerp(fixed.data[inside], whole.image.data[inside], fraction)
    assert torch.allclose(cut.image.data[inside], wanted, atol=1e-6)


@pytest.mark.parametrize("rule", ["laplacian", "energy", "liu-2017"])
def test_the_edge_of_what_one_image_sees_does_not_ring_into_the_rest(rule):
    """Two linear ramps fused, one of which ends: no step may come of it."""
    grid = Grid((64, 96))
    x = torch.linspace(0, 1, 96).expand(64, 96)
    mask = half_masked(grid, -1, 0.5)
    fixed = Image(0.3 + 0.2 * x, grid)
    moved = Image((0.4 + 0.2 * x) * mask.data, grid)  # 0 where it has no data: a step of 0.5
    ringing = fuse(fixed, moved, rule=rule, network=Sharper()).image.data[0]
    sound = fuse(fixed, moved, rule=rule, network=Sharper(), moved_valid=mask).image.data[0]
    assert torch.diff(ringing, dim=1).abs().max() > 0.1
    assert torch.diff(sound, dim=1).abs().max() < 0.03  # 0.1 over a feather of 5 voxels, and 0.002
    assert sound.min() > 0.29 and sound.max() < 0.61


def test_whatever_an_image_holds_where_it_is_not_valid_changes_nothing():
    grid = oblique_grid(3)
    fixed, moved = pair(grid)
    mask = half_masked(grid, 0, 0.5)
    other = Image(torch.where(mask.data > 0, moved.data[0], 1 - moved.data[0]), grid)
    for slices in (None, "axial", "sagittal"):
        one, two = (
            fuse(fixed, m, rule="energy", moved_valid=mask, slices=slices) for m in (moved, other)
        )
        assert torch.equal(one.image.data, two.image.data)


def test_masks_that_agree_feather_nothing_and_leave_zero_outside():
    grid = oblique_grid(3)
    fixed, moved = pair(grid)
    mask = half_masked(grid, 1, 0.3)
    fused = fuse(fixed, moved, rule="maximum", fixed_valid=mask, moved_valid=mask).image.data[0]
    assert torch.allclose(fused, torch.maximum(fixed.data, moved.data)[0] * mask.data)


def test_fields_of_view_that_overlap_in_part_leave_each_its_own():
    grid = Grid((40, 60))
    fixed, moved = pair(grid)
    left = LabelMap(1 - half_masked(grid, 1, 0.6).data, grid)
    right = half_masked(grid, 1, 0.4)
    fused = fuse(fixed, moved, rule="maximum", fixed_valid=left, moved_valid=right, feather_mm=20)
    assert torch.equal(fused.image.data[0, :, :24], fixed.data[0, :, :24])
    assert torch.allclose(fused.image.data[0, :, 36:], moved.data[0, :, 36:])
    weight = fused.weight.data[0]
    assert (weight[:, :24] == 1).all() and (weight[:, 36:] == 0).all()


def test_unsound_input_is_refused_with_what_to_do():
    grid = Grid((16, 20, 24))
    fixed, moved = pair(grid)
    shifted = Image(moved.data, Grid(grid.shape, origin=(3, 0, 0)))
    with pytest.raises(ValueError, match="different grids .* register them first.*hybridreg apply"):
        fuse(fixed, shifted)
    with pytest.raises(ValueError, match="different grids"):
        fuse(fixed, smooth_noise(Grid((16, 20)), 0))
    with pytest.raises(ValueError, match="moved image has intensities from 0 to 255: scale it"):
        fuse(fixed, Image((255 * moved.data).to(torch.uint8), grid))
    with pytest.raises(ValueError, match="fixed image has 3 channels: give its brightness"):
        fuse(Image(fixed.data.expand(3, *grid.shape), grid), moved)
    bad = moved.data.clone()
    bad[0, 3, 4, :2] = torch.nan
    with pytest.raises(ValueError, match="moved image has 2 voxels that are NaN"):
        fuse(fixed, Image(bad, grid))


def test_options_that_mean_nothing_are_refused():
    fixed, moved = pair(Grid((16, 20, 24)))
    with pytest.raises(ValueError, match="no fusion rule 'best'; valid are: .*maximum"):
        fuse(fixed, moved, rule="best")
    with pytest.raises(ValueError, match="'liu-2017' needs a network"):
        fuse(fixed, moved, rule="liu-2017")
    with pytest.raises(ValueError, match="slices are axial, coronal, sagittal"):
        fuse(fixed, moved, slices="oblique")
    with pytest.raises(ValueError, match="a 2D image has no axial slices"):
        fuse(*pair(Grid((16, 20))), slices="axial")
    with pytest.raises(ValueError, match="width of 0 mm or more, found -1"):
        fuse(fixed, moved, feather_mm=-1)
    empty = LabelMap(torch.zeros(16, 20, 24, dtype=torch.int32), fixed.grid)
    with pytest.raises(ValueError, match="the moved image has no data at all"):
        fuse(fixed, moved, moved_valid=empty)
    elsewhere = LabelMap(torch.ones(16, 20, 24, dtype=torch.int32), Grid((16, 20, 24), (2, 1, 1)))
    with pytest.raises(ValueError, match="where the fixed image has data .* resample it"):
        fuse(fixed, moved, fixed_valid=elsewhere)
