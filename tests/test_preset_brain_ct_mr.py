"""The preset for CT and MR of one head finds known alignments, on a phantom and on real stacks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hybridreg.cases import ImagePair
from hybridreg.config import load_intent, load_method, with_settings
from hybridreg.images import Image
from hybridreg.io.images import read_image
from hybridreg.phantoms import head_case
from hybridreg.preprocessing import clipped, foreground
from hybridreg.transforms import rigid

PRESET = with_settings(load_method("brain-ct-mr"), threads=1)


@pytest.fixture(scope="module")
def case():
    return head_case(
        spacing_mm=3.0, angles_deg=(12.0, -9.0, 14.0), translation_mm=(17.0, -12.0, 19.0)
    )


def with_metal_and_padding(ct: Image) -> Image:
    """20000 HU in a ball of 1 cm, -2048 outside a round field of view."""
    grid = ct.grid
    place = grid.center + torch.tensor([30.0, -20.0, -25.0], dtype=torch.float64)
    metal = (grid.points() - place).norm(dim=-1) < 5
    across = (grid.points() - grid.center) @ torch.tensor(grid.direction, dtype=torch.float64)
    outside = across[..., :2].norm(dim=-1) > 110
    assert metal.any() and outside.any()
    return Image(ct.data.masked_fill(metal, 20000.0).masked_fill(outside, -2048.0), grid)


def error_mm(case, transform):
    points = case.pair.fixed.grid.points()[case.fixed_labels.data != 0]
    return (transform(points) - case.true_transform(points)).norm(dim=-1).mean().item()


def test_ct_to_mr_of_a_phantom_head_is_within_half_a_millimeter(case):
    assert error_mm(case, PRESET.register(case.pair).transform) < 0.5  # measured .05 to .15


def test_metal_and_padding_in_the_moving_ct_do_not_matter(case):
    pair = ImagePair(case.pair.moving, with_metal_and_padding(case.pair.fixed))
    assert error_mm(case, PRESET.register(pair).transform.inverse()) < 0.5


def test_a_real_stack_comes_back_from_turns_and_shifts_of_its_header(data):
    folder = data / "harvard_aanlib" / "stacks_ct_mr"
    fixed, moving = (read_image(folder / f"case2_{side}.nii.gz") for side in ("ct", "mr"))
    head = moving.grid.points()[foreground(moving).data != 0]
    straight = PRESET.register(ImagePair(fixed, moving)).transform
    # 5 mm slices, and an atlas that is right within 2 mm itself
    assert (straight(head) - head).norm(dim=-1).mean() < 2.5
    for angles, shift in (((12, -10, 14), (18, 5, -15)), ((-14, 9, -8), (-9, -20, 16))):
        there = rigid(angles, shift, head.mean(0))
        axes = there.linear @ torch.tensor(moving.grid.direction, dtype=torch.float64)
        origin = there(torch.tensor(moving.grid.origin, dtype=torch.float64)).tolist()
        placed = Image(moving.data, replace(moving.grid, origin=origin, direction=axes.numpy()))
        back = there.inverse()(PRESET.register(ImagePair(fixed, placed)).transform(head))
        assert (back - straight(head)).norm(dim=-1).mean() < 2.0


def test_clipping_cuts_outliers_of_each_channel_and_nothing_else(case):
    plain, spoiled = case.pair.fixed, with_metal_and_padding(case.pair.fixed)
    two = Image(torch.cat([spoiled.data, plain.data / 100]), plain.grid)
    cut = clipped(two, 0.5, 99.5)
    assert cut.data[0].max() < 2000 and spoiled.data.max() == 20000
    for before, after in zip(two.data.numpy(), cut.data.numpy(), strict=True):
        low, high = np.percentile(before, [0.5, 99.5])
        np.testing.assert_allclose(after, before.clip(low, high), rtol=1e-6)


def test_clipping_leaves_an_image_that_would_become_constant(case):
    grid = case.pair.fixed.grid
    few = torch.zeros(grid.shape)
    few[2, 2, 2:6] = 1.0
    assert torch.equal(clipped(Image(few, grid), 0.5, 99.5).data[0], few)


@pytest.mark.parametrize("percent", [(50.0, 50.0), (99.0, 1.0), (-1.0, 99.0), (1.0, 101.0)])
def test_percentiles_that_cannot_be_are_refused(percent):
    with pytest.raises(ValueError, match="percentile"):
        replace(PRESET.stages[0], percent=percent)


def test_the_preset_is_meant_for_one_person_in_two_contrasts():
    intent = load_intent("brain-ct-mr")
    assert intent.same_subject is True and intent.same_contrast is False
