"""Outliers change no result, and images without any stay untouched."""

from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from conftest import oblique_grid

from hybridreg.cases import ImagePair
from hybridreg.config import load_method, presets, with_settings
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.initialization import center_of_mass
from hybridreg.intensity import to_unit
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.combine import Clipped, Masked
from hybridreg.methods.elastix.method import Elastix
from hybridreg.phantoms import head, head_case
from hybridreg.pipeline import register
from hybridreg.preprocessing import foreground, looks_like_ct, outliers, without_outliers
from hybridreg.quality import similarity
from hybridreg.transforms import IDENTITY, rigid
from hybridreg.views import choose_window
from hybridreg.warping import warp

SPOILED = {
    "one hot voxel": [1e6],
    "hot voxels": [3e4, 2e5, 1e6],
    "one low voxel": [-32768.0],
    "both": [-32768.0, 32767.0],
}


def mr(dimension=3) -> Image:
    """Smooth tissue up to about 1700 in the middle, zero around."""
    grid = oblique_grid(dimension)
    if dimension == 2:
        grid = grid.with_spacing([s / 3 for s in grid.spacing])
    offset = (grid.points() - grid.center) @ torch.tensor(grid.direction, dtype=torch.float64)
    inside = offset.norm(dim=-1) < 0.4 * min(grid.extent)
    tissue = 900 + 800 * (offset / torch.tensor([4.0, 5.0, 3.0][:dimension])).sin().prod(-1)
    return Image(torch.where(inside, tissue, 0.0)[None].float(), grid)


def spoiled(image: Image, values: list[float]) -> Image:
    data = image.data.clone()
    middle = tuple(n // 2 for n in image.grid.shape[:-1])
    data[(0, *middle)][1 : 1 + len(values)] = torch.tensor(values)
    return replace(image, data=data)


def padded(image: Image, value: float) -> Image:
    data = image.data.clone()
    data[..., : image.grid.shape[-1] // 5] = value
    return replace(image, data=data)


@pytest.mark.parametrize("values", SPOILED.values(), ids=SPOILED.keys())
@pytest.mark.parametrize("dimension", [2, 3])
def test_outliers_become_the_nearest_other_value(dimension, values):
    image = mr(dimension)
    bad = spoiled(image, values)
    found = without_outliers(bad)
    changed = bad.data != image.data
    low, high = bad.data[~changed].min(), bad.data[~changed].max()
    assert torch.equal(found.data[~changed], image.data[~changed])
    assert torch.equal(found.data[changed], bad.data[changed].clamp(low, high))


def test_padding_far_below_becomes_background_however_much_there_is():
    image = mr()
    found = without_outliers(padded(image, -32768.0))
    assert torch.equal(found.data, padded(image, image.data.min().item()).data)


def test_each_channel_is_evaluated_by_itself():
    a, b = mr(), mr()
    two = replace(a, data=torch.cat([spoiled(a, [1e6]).data, b.data / 1000]))
    found = without_outliers(two).data
    assert found[0].max() == a.data.max() and torch.equal(found[1], two.data[1])


def rare(values: list[float]) -> Image:
    """Zero nearly everywhere, with blocks of a few voxels of each other value."""
    data = torch.zeros(30, 30, 30)
    for i, value in enumerate(values):
        data[i, 2:4, 2:4] = value
    return Image(data[None], Grid((30, 30, 30)))


def ct(dimension=3) -> Image:
    grid = Grid((30,) * dimension, (6.0,) * dimension, (-87.0,) * dimension)
    return head(grid, "ct")


ORDINARY = {
    "CT": ct(),
    "CT in 2D": ct(2),
    "CT padded with -2048": padded(ct(), -2048.0),
    "CT with metal of 3000 HU": spoiled(ct(), [3000.0] * 5),
    "MR": mr(),
    "MR with vessels of four times the tissue": spoiled(mr(), [6800.0] * 3),
    "MR of narrow values around a background of zero": replace(mr(), data=mr().data / 100 + 1e4),
    "T2 of a head": head(Grid((30, 30, 30), (6.0,) * 3, (-87.0,) * 3), "t2"),
    "binary": rare([1.0]),
    "labels": rare([1.0, 2.0, 2035.0]),
    "nearly all zero": rare(list(torch.linspace(1, 100, 29))),
    "negative": replace(mr(), data=-mr().data),
    "scaled to 0 to 1": replace(mr(), data=mr().data / 1700),
}


@pytest.mark.parametrize("image", ORDINARY.values(), ids=ORDINARY.keys())
def test_images_without_outliers_are_given_back_as_they_are(image):
    assert without_outliers(image) is image
    assert outliers(image) == ""


def test_outliers_are_named_with_what_all_others_are():
    image = mr()
    low, high = image.data.min().item(), image.data.max().item()
    assert outliers(spoiled(image, [1e6])) == (
        f"one voxel of 1e+06, while all others lie between {low:g} and {high:g}"
    )
    assert outliers(spoiled(image, [3e4, -9e5])).startswith("2 voxels of up to -900000, ")


def test_a_low_voxel_or_padding_makes_no_ct():
    image = mr()
    for bad in (spoiled(image, [-800.0]), spoiled(image, [-32768.0]), padded(image, -32768.0)):
        assert not looks_like_ct(bad.data)
        assert to_unit(bad)[1].kind == "percentiles"
        assert choose_window(bad).name == "1 to 99.5 percentile"
        assert choose_window(bad).low >= 0
        fractions = [foreground(i).data.double().mean().item() for i in (bad, image)]
        assert fractions[0] == pytest.approx(fractions[1], rel=0.2)
    assert looks_like_ct(ct().data)


@pytest.mark.parametrize("values", SPOILED.values(), ids=SPOILED.keys())
def test_the_center_of_mass_and_the_similarity_hardly_see_outliers(values):
    image = mr()
    bad = spoiled(image, values)
    assert (center_of_mass(bad) - center_of_mass(image)).norm() < 0.1
    before, after = (similarity(ImagePair(i, i), IDENTITY) for i in (image, bad))
    assert after.correlation > 0.99
    assert after.mutual_information == pytest.approx(before.mutual_information, rel=0.02)
    shift = rigid([0.0] * 3, [2.0, 0.0, 0.0], [0.0] * 3)
    one, both = (similarity(ImagePair(image, i), shift) for i in (image, bad))
    assert both.correlation == pytest.approx(one.correlation, abs=0.01)


class Seen:
    """Remembers the pair that it was given."""

    def register(self, pair, initial=IDENTITY):
        self.pair, self.initial = pair, initial
        return RegistrationResult(initial)


def test_clipped_shows_its_method_clipped_images_and_everything_else_as_it_is():
    image, seen = mr(), Seen()
    bad = ImagePair(spoiled(image, [1e6]), image, fixed_mask=foreground(image))
    initial = rigid([1.0, 2.0, 3.0], [4.0, 0.0, 1.0], [0.0] * 3)
    assert Clipped(seen).register(bad, initial).transform is initial
    assert torch.equal(seen.pair.fixed.data, without_outliers(bad.fixed).data)
    assert seen.pair.moving is image and seen.pair.fixed_mask is bad.fixed_mask
    Clipped(seen, percent=(10.0, 90.0)).register(bad)
    low, high = torch.quantile(bad.fixed.data, torch.tensor([0.1, 0.9]))
    assert torch.allclose(seen.pair.fixed.data, bad.fixed.data.clamp(low, high))


def test_masked_gives_a_mask_of_the_patient_and_leaves_one_that_is_there():
    image, seen = mr(), Seen()
    Masked(seen, margin_mm=3.0).register(ImagePair(image, image))
    assert torch.equal(seen.pair.fixed_mask.data, foreground(image, margin_mm=3.0).data)
    given = foreground(image)
    Masked(seen, margin_mm=3.0).register(ImagePair(image, image, fixed_mask=given))
    assert seen.pair.fixed_mask is given


def unclipped(method) -> list[Elastix]:
    """Every elastix in a method that no ``Clipped`` is around."""
    if isinstance(method, Clipped):
        return []
    if isinstance(method, Elastix):
        return [method]
    values = [getattr(method, field.name) for field in fields(method)]
    parts = [p for v in values for p in (v if isinstance(v, tuple) else (v,)) if is_dataclass(p)]
    return [found for part in parts for found in unclipped(part)]


@pytest.mark.parametrize("name", sorted(presets()))
def test_elastix_sees_no_outliers_in_any_preset(name):
    assert not unclipped(load_method(name))


@pytest.fixture(scope="module")
def pair():
    """A T1 head of up to about 1000, turned and shifted in 2D."""
    return head_case(
        dimension=2, fixed="t1", moving="t1", angles_deg=(6.0,), translation_mm=(7.0, -5.0),
        spacing_mm=2.0,
    )  # fmt: skip


def quick():
    """The preset ``rigid`` with fewer iterations."""
    method = with_settings(load_method("rigid"), threads=1)
    elastix = replace(method.method, overrides={"MaximumNumberOfIterations": 120})
    return replace(method, method=elastix)


@pytest.mark.parametrize(("side", "values"), [("fixed", [-32768.0, 1e6]), ("moving", [1e6])])
def test_a_preset_finds_what_it_finds_without_outliers(pair, side, values):
    bad = replace(pair.pair, **{side: spoiled(getattr(pair.pair, side), values)})
    points = pair.pair.fixed.grid.points()[foreground(pair.pair.fixed).data != 0]
    found = quick().register(bad).transform(points)
    assert (found - pair.true_transform(points)).norm(dim=-1).mean() < 0.3


def test_the_moved_image_is_taken_from_the_original_with_its_hot_voxels(pair):
    bad = spoiled(pair.pair.moving, [1e6, 1e6, -32768.0])
    outcome = register(pair.pair.fixed, bad, quick())
    again = warp(bad, outcome.transform, onto=pair.pair.fixed.grid, default=0.0)
    covered = warp(replace(bad, data=torch.ones_like(bad.data)), outcome.transform,
                   onto=pair.pair.fixed.grid, default=0.0).data > 0  # fmt: skip
    assert outcome.moved.data.max() > 1e5
    assert torch.equal(outcome.moved.data[covered], again.data[covered])
    ordinary = pair.pair.moving.data.min().item()
    assert torch.all(outcome.moved.data[~covered] == ordinary)  # not -32768


def test_outliers_are_found_anew_in_changed_images_and_in_inference_mode():
    grid = Grid((8, 9, 10), (1.0, 1.0, 1.0))

    def ramp() -> Image:
        return Image(torch.linspace(0, 1, 720).reshape(8, 9, 10).clone(), grid)

    image = ramp()
    assert without_outliers(image) is image
    image.data[0, 4, 4, 4] = 1e6
    found = without_outliers(image)
    assert found.data.max() == 1 and without_outliers(image) is found
    with torch.inference_mode():
        image = ramp()
        image.data[0, 4, 4, 4] = 1e6
        assert without_outliers(image).data.max() == 1
        image.data[0, 4, 4, 4] = 0.5
        assert without_outliers(image) is image
