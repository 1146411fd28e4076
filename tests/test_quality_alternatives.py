"""Registrations of spoiled pairs are doubted for the right reason, and sound ones are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hybridreg.cases import Case, ImagePair
from hybridreg.images import Image
from hybridreg.initialization import initialize
from hybridreg.io.images import read_image
from hybridreg.methods.elastix import Elastix
from hybridreg.phantoms import head_case, head_grid
from hybridreg.pipeline import run
from hybridreg.preprocessing import foreground
from hybridreg.quality import Intent, Verdict
from hybridreg.quality.alternatives import Alignment, doubts
from hybridreg.transforms import IDENTITY, compose, rigid
from hybridreg.warping import warp

ONE_SCAN = Intent(same_subject=True, same_contrast=True)
ONE_PERSON = Intent(same_subject=True)
TWO_PERSONS = Intent(same_subject=False, same_contrast=True)
FILES = {"rigid": ("rigid.txt",), "affine": ("rigid.txt", "affine.txt")}
FILES["bspline"] = (*FILES["affine"], "bspline.txt")


def verdict(
    fixed: Image, moving: Image, intent: Intent, kind: str = "rigid", *, iterations: int = 80
) -> Verdict:
    """On what elastix makes of the pair, as a rule in fewer iterations than the presets take."""
    overrides = {"NumberOfResolutions": 3, "MaximumNumberOfIterations": iterations}
    overrides |= {"FinalGridSpacingInPhysicalUnits": 16, "NumberOfSpatialSamples": 2000}
    method = Elastix(FILES[kind], overrides=overrides, threads=1)
    pair = ImagePair(fixed, moving)
    return run(Case(pair), method, initial=initialize(pair, "centers"), intent=intent).verdict


def mirrored(image: Image) -> Image:
    return replace(image, data=image.data.flip(-1))


def with_spacing(image: Image, axis: int, factor: float) -> Image:
    spacing = list(image.grid.spacing)
    spacing[axis] *= factor
    return replace(image, grid=replace(image.grid, spacing=tuple(spacing)))


def header_turned(image: Image) -> Image:
    """By 90 degrees about left to right, about the center."""
    turn = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    grid = replace(image.grid, direction=turn @ np.array(image.grid.direction))
    shift = image.grid.center - grid.center
    return replace(
        image, grid=replace(grid, origin=tuple((torch.tensor(grid.origin) + shift).tolist()))
    )


SPOILED = {
    "left and right": (mirrored, "left and right exchanged"),
    "spacing in x": (lambda image: with_spacing(image, 0, 1.3), "stretched along x"),
    "spacing in y": (lambda image: with_spacing(image, 1, 1.3), "stretched along y"),
    "spacing in z": (lambda image: with_spacing(image, 2, 1.3), "stretched along z"),
    "orientation": (header_turned, "turned by 90 degrees about x"),
}


# Phantoms


def phantom(fixed: str = "t1", moving: str = "t1") -> Case:
    grid = head_grid(4.0)
    return head_case(
        fixed=fixed, moving=moving, angles_deg=(5.0, -4.0, 8.0), translation_mm=(6.0, 9.0, -5.0),
        fixed_grid=grid, moving_grid=grid,
    )  # fmt: skip


def smooth_noise(image: Image, knots: tuple[int, int, int] = (6, 7, 6)) -> Image:
    """Nothing to do with anything, on the same grid. knots: independent values along each axis."""
    noise = torch.randn(1, 1, *knots, generator=torch.Generator().manual_seed(3))
    data = torch.nn.functional.interpolate(noise, image.grid.shape, mode="trilinear")
    return Image(data[0], image.grid)


@pytest.mark.parametrize(("fixed", "moving"), [("t1", "t1"), ("ct", "t1"), ("t1", "ct")])
def test_a_sound_registration_of_phantoms_passes(fixed, moving):
    case = phantom(fixed, moving)
    intent = Intent(same_subject=True, same_contrast=fixed == moving)
    assert verdict(case.pair.fixed, case.pair.moving, intent) == Verdict("pass")


@pytest.mark.parametrize("what", [what for what in SPOILED if what != "orientation"])
def test_a_spoiled_phantom_is_found_out(what):
    spoil, says = SPOILED[what]
    pair = phantom().pair
    # As many iterations as in rigid.txt: after 80, elastix's random samples decide whether the
    # stretch along y is reported (gains of 1.12 to 1.16; from 1.12 on); after 250: 1.14 to 1.16.
    found = verdict(pair.fixed, spoil(pair.moving), ONE_PERSON, iterations=250)
    assert says in " ".join(found.reasons), found.reasons
    # From a gain of 1.05 on, a shift or turn that fits better too makes it fail. The largest is up
    # to 1.04 with a wrong spacing along x, .99 to 1.07 along y (by the samples), .82 along z.
    expected = {"left and right": ["fail"], "spacing in z": ["warn"]}
    assert found.status in expected.get(what, ["warn", "fail"])


def test_a_search_that_never_left_the_place_of_a_turned_header_is_found_out():
    case = phantom()
    pair = replace(case.pair, moving=header_turned(case.pair.moving))
    ((status, why),) = doubts(pair, case.true_transform, same_subject=True)
    assert status == "fail" and "turned by 90 degrees about x" in why


def test_an_image_of_nothing_in_common_is_doubted_whatever_is_known_of_it():
    """Where noise is registered to, and so what fits better by chance, depends on rounding."""
    fixed = phantom().pair.fixed
    unknown = verdict(fixed, smooth_noise(fixed), Intent())
    assert unknown.status != "pass"
    lost = verdict(fixed, smooth_noise(fixed), ONE_SCAN)
    assert lost.status == "fail"
    assert "should correlate in the foreground" in " ".join(lost.reasons)


def test_an_image_of_nothing_in_common_fits_hardly_better_here_than_elsewhere():
    """Not registered, and noise so fine that its chance similarity is alike everywhere."""
    fixed = phantom().pair.fixed
    pair = ImagePair(fixed, smooth_noise(fixed, (24, 28, 24)))
    # The mean of the gains aside is .97 (.95 to 1.03 with other seeds), where doubt begins at .82;
    # the largest are 1.04 aside and 1.10 turned (to 1.14), where they would say more at 1.25.
    # Other instruction sets change these by less than .001.
    reasons = [why for _, why in doubts(pair, IDENTITY, same_subject=False)]
    assert "little in common" in " ".join(reasons)


def test_the_fit_elsewhere_is_measured_where_both_cover_the_fixed_image():
    """Where the moving image ends, a shift changes what is compared, and that is no better fit."""
    case = phantom()
    grid = case.pair.moving.grid
    low = grid.crop((0, 0, 0), (grid.shape[0] // 2, *grid.shape[1:]))
    half = Image(case.pair.moving.data[:, : low.shape[0]], low)
    found = Alignment.of(replace(case.pair, moving=half), case.true_transform)
    center = case.pair.fixed.grid.center
    gains = [found.gain(rigid([0.0] * 3, [0.0, 0.0, mm], center)) for mm in (-9.0, 0.0, 9.0)]
    assert gains[1] == pytest.approx(1)
    assert max(gains[0], gains[2]) < 0.8
    assert found.gain(rigid([0.0] * 3, [0.0, 0.0, 70.0], center)) == 0  # hardly any left


def test_a_large_moving_image_costs_no_more_than_a_small_one():
    """It is looked at some thirty times, so it is first made as coarse as the points are."""
    case = phantom()
    pair = case.pair
    large = warp(pair.moving, IDENTITY, onto=pair.moving.grid.with_spacing([1.5] * 3))
    found = Alignment.of(replace(pair, moving=large), case.true_transform)
    assert found.pair.moving.data.numel() < large.data.numel() / 3
    same = Alignment.of(pair, case.true_transform)
    step = compose(rigid([0.0, 0.0, 10.0], [5.0, 0.0, 0.0], pair.fixed.grid.center))
    assert found.gain(step) == pytest.approx(same.gain(step), abs=0.05)


# CT and MR of one head in thick slices, as an atlas aligned them (persons of the train split)


def slices(data, person: int, fixed: str, moving: str) -> ImagePair:
    folder = data / "harvard_aanlib" / "stacks_ct_mr"
    sides = [read_image(folder / f"case{person}_{side}.nii.gz") for side in (fixed, moving)]
    return ImagePair(*sides)


@pytest.mark.parametrize("person", [2, 32])
@pytest.mark.parametrize(("fixed", "moving"), [("ct", "mr"), ("mr", "ct")])
def test_thick_slices_that_are_aligned_are_not_doubted(person, fixed, moving, data):
    assert [*doubts(slices(data, person, fixed, moving), IDENTITY, same_subject=True)] == []


@pytest.mark.parametrize(
    ("angles", "shift"), [((0, 0, 0), (12, 0, 0)), ((0, 0, 0), (0, 0, 15)), ((0, 15, 0), (0, 0, 0))]
)
@pytest.mark.parametrize("person", [2, 32])
def test_thick_slices_that_are_off_are_doubted(person, angles, shift, data):
    pair = slices(data, person, "ct", "mr")
    off = rigid(angles, shift, pair.fixed.grid.center)
    found = [*doubts(pair, off, same_subject=True)]
    assert found and found[0][0] == "fail" and "fit better" in found[0][1]


def test_a_head_that_is_wider_in_one_image_is_reported(data):
    """The MR of this person is 5 % wider than the CT, inside and outside the skull."""
    ((status, why),) = doubts(slices(data, 21, "mr", "ct"), IDENTITY, same_subject=True)
    assert status == "warn" and "stretched along x" in why


def test_thick_slices_of_two_persons_are_doubted(data):
    pair = replace(slices(data, 2, "ct", "mr"), moving=slices(data, 32, "ct", "mr").moving)
    reasons = [why for _, why in doubts(pair, IDENTITY, same_subject=True)]
    assert "little in common" in " ".join(reasons)


# Real brains; persons of the train split, and the one who was scanned twice


def brain(data, name: int) -> Image:
    image = read_image(data / "oasis_malf35" / "subjects" / f"{name}_SS.nii.gz")
    return warp(image, IDENTITY, onto=image.grid.with_spacing([4.0] * 3))


def test_one_person_scanned_twice_passes(data):
    assert verdict(brain(data, 1018), brain(data, 1038), ONE_SCAN) == Verdict("pass")


@pytest.mark.parametrize("what", ["spacing in z", "orientation"])
def test_a_spoiled_scan_of_one_person_is_found_out(what, data):
    spoil, says = SPOILED[what]
    found = verdict(brain(data, 1018), spoil(brain(data, 1038)), ONE_PERSON)
    assert found.status == ("warn" if "spacing" in what else "fail")
    assert says in " ".join(found.reasons), found.reasons


def test_the_wrong_person_is_doubted_where_one_person_was_meant(data):
    found = verdict(brain(data, 1018), brain(data, 1012), ONE_SCAN)
    assert found.status != "pass"
    assert "are they of the same person?" in " ".join(found.reasons)


@pytest.mark.parametrize(
    ("kind", "fixed", "moving"), [("affine", 1007, 1008), ("bspline", 1001, 1002)]
)
def test_sound_registrations_of_two_persons_pass(kind, fixed, moving, data):
    found = verdict(brain(data, fixed), brain(data, moving), TWO_PERSONS, kind)
    assert found == Verdict("pass")


def test_a_wrong_spacing_and_a_turned_header_show_between_two_persons_too(data):
    fixed, moving = brain(data, 1000), brain(data, 1001)
    found = verdict(fixed, with_spacing(moving, 1, 1.3), TWO_PERSONS, "affine")
    assert found.status == "warn" and "times as much as another" in found.reasons[0]
    found = verdict(fixed, header_turned(moving), TWO_PERSONS, "affine")
    assert found.status == "fail" and "should correlate" in " ".join(found.reasons)


def test_a_chest_is_no_brain(data):
    chest = read_image(data / "lung_ct_elastix" / "3DCT_lung_baseline.mha")
    found = verdict(brain(data, 1000), chest, ONE_PERSON)
    assert found.status != "pass" and "little in common" in " ".join(found.reasons)


def test_a_moving_mask_of_finer_voxels_than_are_looked_at_takes_part():
    case = head_case(spacing_mm=2.0)
    pair = replace(case.pair, moving_mask=foreground(case.pair.moving))
    coarse = Alignment.of(pair, case.true_transform).pair
    assert coarse.moving.grid.spacing[0] > 2.0
    assert coarse.moving_mask.grid == coarse.moving.grid
    inside = [(mask.data != 0).double().mean() for mask in (pair.moving_mask, coarse.moving_mask)]
    assert abs(inside[0] - inside[1]) < 0.02
    assert list(doubts(pair, case.true_transform, same_subject=True)) == []
    aside = compose(case.true_transform, rigid([0.0] * 3, [30.0, 0.0, 0.0], [0.0] * 3))
    assert list(doubts(pair, aside, same_subject=True)) != []
