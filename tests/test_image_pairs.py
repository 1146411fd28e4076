"""Pairs of a case table for training: what is drawn, where it lies, and what is refused."""

from __future__ import annotations

import pytest
import torch

from hybridreg.geometry import Grid
from hybridreg.image_pairs import ImagePairs
from hybridreg.images import Image
from hybridreg.io.images import write_image
from hybridreg.io.tables import CaseRow
from hybridreg.io.transforms import write_transform
from hybridreg.network_inputs import NetworkInputs
from hybridreg.training_domain import TrainingDomain
from hybridreg.transforms import AffineTransform

UNIT = NetworkInputs(1.0, "0..1")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row(folder, name="a", shape=(12, 16), spacing=(1.0, 1.0), shift=0.0) -> CaseRow:
    """A ramp along x as the fixed image, 1 minus it as the moving one, moved by ``shift`` mm."""
    ramp = torch.linspace(0.1, 0.9, shape[1]).expand(shape)
    grid = Grid(shape, spacing)
    away = Grid(shape, spacing, (shift, 0.0))
    paths = [folder / f"{name}_{side}.nii.gz" for side in ("fixed", "moving")]
    for path, data, where in zip(paths, (ramp, 1 - ramp), (grid, away), strict=True):
        write_image(path, Image(data.clone(), where))
    return CaseRow(name, *paths)


def test_whole_images_come_unchanged_and_either_may_be_the_fixed_one(tmp_path):
    pairs = ImagePairs([row(tmp_path)], UNIT, (16, 12))
    batch = pairs.draw(20, seeded())
    ramp = torch.linspace(0.1, 0.9, 16).expand(12, 16)
    first = batch["fixed"][:, 0, 0, 0] < 0.5
    assert 0 < first.sum() < 20
    for fixed, moving, straight in zip(batch["fixed"], batch["moving"], first, strict=True):
        torch.testing.assert_close(fixed[0], ramp if straight else 1 - ramp)
        torch.testing.assert_close(moving[0], 1 - fixed[0])


def test_crops_lie_anywhere_in_both_images_alike(tmp_path):
    pairs = ImagePairs([row(tmp_path)], UNIT, (6, 8))
    batch = pairs.draw(200, seeded())
    assert batch["fixed"].shape == (200, 1, 8, 6)
    torch.testing.assert_close(batch["fixed"], 1 - batch["moving"])
    lowest = torch.stack([batch["fixed"], batch["moving"]]).amin((0, 2, 3, 4))
    starts = ((lowest - 0.1) / (0.8 / 15)).round().unique()
    assert len(starts) >= 5
    (middle,) = pairs.middle(4)
    assert middle["fixed"][0, 0, 0, 0].item() == pytest.approx(0.1 + 5 * 0.8 / 15)


def test_small_images_are_padded_evenly_with_their_lowest_value(tmp_path):
    pairs = ImagePairs([row(tmp_path, shape=(4, 8))], UNIT, (12, 8))
    (batch,) = pairs.middle(4)
    fixed = batch["fixed"][0, 0]
    torch.testing.assert_close(fixed[2:6, 2:10], torch.linspace(0.1, 0.9, 8).expand(4, 8))
    border = torch.cat([fixed[:2].flatten(), fixed[6:].flatten()])
    torch.testing.assert_close(border, torch.full_like(border, 0.1))


def test_the_moving_image_is_seen_through_the_initial_transform(tmp_path):
    case = row(tmp_path, shift=3.0)
    path = tmp_path / "initial.tfm"
    write_transform(path, AffineTransform.from_parts(torch.eye(2), [3.0, 0.0]))
    pairs = ImagePairs([CaseRow("a", case.fixed, case.moving, initial=path)], UNIT, (16, 12))
    (batch,) = pairs.middle(4)
    torch.testing.assert_close(batch["moving"], 1 - batch["fixed"], atol=1e-5, rtol=0)


def test_images_are_seen_in_the_voxels_of_the_network(tmp_path):
    case = row(tmp_path, spacing=(2.0, 0.5))
    pairs = ImagePairs([case], UNIT, (32, 6))
    (batch,) = pairs.middle(1)
    inner = batch["fixed"][0, 0, 3, 2:-2].diff()
    torch.testing.assert_close(inner, torch.full_like(inner, 0.8 / 30), atol=1e-4, rtol=0)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no cases"):
        ImagePairs([], UNIT, (16, 12))
    with pytest.raises(ValueError, match="at least 1 voxel"):
        ImagePairs([row(tmp_path)], UNIT, (0, 12))
    with pytest.raises(ValueError, match="a: the images are 2D, and the size"):
        ImagePairs([row(tmp_path)], UNIT, (16, 12, 8)).draw(1, seeded())


def test_the_domain_is_what_the_images_are_like(tmp_path):
    cases = [row(tmp_path, name, spacing=(s, s)) for name, s in (("a", 1.0), ("b", 2.0))]
    domain = ImagePairs(cases, UNIT, (16, 12)).domain()
    assert domain.spacing_mm == (1.0, 2.0)
    assert domain.diagonal_mm == pytest.approx((20.0, 40.0))
    middle = domain.quantiles[2]
    assert middle[0] == pytest.approx(0.5, abs=0.05) and middle[1] < 0.05
    assert TrainingDomain.from_card(domain.for_card()) == domain
    assert TrainingDomain.from_card({}) is None
