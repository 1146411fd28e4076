"""The foreground is where the patient is: checked on closed-form heads and on real images."""

import pytest
import torch
from conftest import oblique_grid
from scipy import ndimage

from hybridreg.evaluation import dice
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap
from hybridreg.io.images import read_image, read_labels
from hybridreg.phantoms import head
from hybridreg.preprocessing import antialiased, foreground


def overlap(found: LabelMap, true: torch.Tensor) -> float:
    return dice(LabelMap(true.int(), found.grid), found)[1]


def ball(dimension=3, *, left_handed=False):
    """Bright shell, dark inside, in noise: (image, where it truly is), oblique and anisotropic."""
    grid = oblique_grid(dimension, left_handed=left_handed)
    radius = 0.35 * min(grid.extent)
    distance = (grid.points() - grid.center).norm(dim=-1)
    data = 100.0 * ((distance < radius) & (distance > 0.5 * radius))
    noise = torch.rand(data.shape, generator=torch.Generator().manual_seed(0))
    return Image((data + 5 * noise)[None].float(), grid), distance, radius


@pytest.mark.parametrize(("dimension", "left_handed"), [(2, False), (3, False), (3, True)])
def test_a_hollow_ball_is_found_whole_on_any_grid(dimension, left_handed):
    image, distance, radius = ball(dimension, left_handed=left_handed)
    found = foreground(image)
    assert found.grid == image.grid
    assert overlap(found, distance < radius) > 0.9  # it is found at 2 mm, and measures 15 mm


def test_the_margin_is_in_mm_along_every_axis():
    image, distance, radius = ball()
    grown = foreground(image, margin_mm=3.0)
    assert overlap(grown, distance < radius + 3) > 0.85
    assert grown.data.sum() > 1.2 * foreground(image).data.sum()


@pytest.mark.parametrize("contrast", ["ct", "t1", "t2"])
def test_a_whole_head_of_any_contrast_is_found_without_the_air(contrast):
    grid = Grid((80, 90, 70), (2.5, 2.5, 2.5), (-87.0, -111.0, -90.0), torch.eye(3))
    inside = head(grid, "ct").data[0] > -500
    assert overlap(foreground(head(grid, contrast)), inside) > 0.95


def test_a_small_bright_thing_beside_the_patient_is_left_out():
    image, distance, radius = ball()
    data = image.data.clone()
    corner = tuple(slice(0, 3) for _ in image.grid.shape)
    data[0][corner] = 300.0
    assert not foreground(Image(data, image.grid)).data[corner].any()


def test_an_image_without_anything_in_it_is_refused():
    image, _, _ = ball()
    with pytest.raises(ValueError, match="no foreground"):
        foreground(Image(torch.zeros_like(image.data), image.grid))


def test_a_stripped_brain_is_found_where_its_labels_are(data):
    folder = data / "oasis_malf35" / "subjects"
    found = foreground(read_image(folder / "1000_SS.nii.gz"), margin_mm=2.0)
    labels = read_labels(folder / "1000_glm.nii.gz").data != 0
    assert (found.data[labels] != 0).double().mean() > 0.999
    assert (found.data != 0).sum() < 1.6 * labels.sum()


def test_the_lungs_belong_to_the_body(data):
    folder = data / "lung_ct_elastix"
    found = foreground(read_image(folder / "3DCT_lung_baseline.mha"))
    lungs = read_labels(folder / "3DCT_lung_baseline_mask.mha").data != 0
    assert (found.data[lungs] != 0).double().mean() > 0.99


@pytest.mark.parametrize("factors", [(2.0, 3.5, 1.0), (6.0, 1.2)])
def test_antialiasing_agrees_with_scipy(factors):
    shape = (11, 17, 23)[: len(factors)]
    values = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 2000
    sigma = [0.5 * (f**2 - 1) ** 0.5 for f in factors][::-1]
    expected = [ndimage.gaussian_filter(c, sigma, mode="nearest") for c in values.double().numpy()]
    found = antialiased(values, factors)
    assert found.dtype == torch.float32
    for channel, truth in zip(found.double(), expected, strict=True):
        assert torch.allclose(channel, torch.from_numpy(truth), rtol=1e-6, atol=1e-3)
