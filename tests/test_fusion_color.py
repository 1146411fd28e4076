"""Colored functional images in fusion."""

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import oblique_grid

from hybridreg.fusion import fuse
from hybridreg.fusion.color import fuse_color, luminance, overlay, with_luminance
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.intensity import to_unit
from hybridreg.io.images import read_image, write_image


def random_image(grid: Grid, channels: int, *, low: float = 0.0, high: float = 1.0) -> Image:
    generator = torch.Generator().manual_seed(channels)
    data = torch.rand((channels, *grid.shape), generator=generator)
    return Image(low + (high - low) * data, grid)


def ycbcr(image: Image) -> np.ndarray:
    """Full-range BT.601 as written in JFIF, with chroma about 0."""
    r, g, b = image.data.double().numpy()
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([y, (b - y) / 1.772, (r - y) / 1.402])


@pytest.mark.parametrize("dimension", [2, 3])
def test_luminance_changes_and_chroma_stays(dimension):
    grid = oblique_grid(dimension)
    color = random_image(grid, 3, low=0.3, high=0.7)
    luma = random_image(grid, 1, low=0.4, high=0.6)
    found = ycbcr(with_luminance(color, luma))
    inside = ((color.data - 0.5).abs() < 0.19).all(0).numpy()  # nothing is cut there
    assert inside.mean() > 0.3
    before = ycbcr(color)
    np.testing.assert_allclose(found[0][inside], luma.data[0].numpy()[inside], atol=1e-6)
    np.testing.assert_allclose(found[1:, inside], before[1:, inside], atol=1e-6)


def test_luma_is_that_of_pillow_to_its_rounding():
    color = (random_image(Grid((40, 50)), 3).data * 255).round()
    picture = PIL.Image.fromarray(color.permute(1, 2, 0).to(torch.uint8).numpy())
    ours = luminance(Image(color / 255, Grid((40, 50)))).data[0] * 255
    assert np.abs(ours.numpy() - np.asarray(picture.convert("L"), dtype=float)).max() <= 0.51


def test_a_color_keeps_its_own_luminance_unchanged():
    color = random_image(oblique_grid(2), 3)
    torch.testing.assert_close(with_luminance(color, luminance(color)).data, color.data)


@pytest.mark.parametrize("colored_side", ["fixed", "moved"])
def test_the_luminance_is_fused_as_two_gray_images_are(colored_side):
    grid = Grid((40, 52))
    color, gray = random_image(grid, 3), random_image(grid, 1)
    pair = (color, gray) if colored_side == "fixed" else (gray, color)
    fused, shown = fuse_color(*pair, rule="laplacian")
    alone = fuse(*map(luminance, pair), rule="laplacian")
    assert torch.equal(fused.image.data, alone.image.data)
    assert torch.equal(shown.data, with_luminance(color, alone.image).data)


def test_two_gray_images_stay_gray():
    grid = Grid((40, 52))
    one, other = random_image(grid, 1), Image(torch.zeros(grid.shape), grid)
    fused, shown = fuse_color(one, other, rule="maximum")
    assert shown is fused.image and torch.equal(shown.data, one.data)


def test_two_colors_are_refused():
    color = random_image(Grid((40, 52)), 3)
    with pytest.raises(ValueError, match="only one chroma can be kept"):
        fuse_color(color, color)
    with pytest.raises(ValueError, match="three channels"):
        luminance(random_image(Grid((40, 52)), 2))


def test_an_overlay_leaves_anatomy_where_there_is_nothing_and_paints_where_there_is():
    grid = oblique_grid(3, left_handed=True)
    anatomy = random_image(grid, 1)
    uptake = torch.zeros(1, *grid.shape)
    uptake[:, :10] = 0.5
    uptake[:, 10, 0] = 1
    seen = overlay(anatomy, Image(uptake, grid), opacity=0.6)
    assert seen.channels == 3 and seen.grid == grid
    empty = uptake[0] == 0
    assert torch.equal(seen.data[:, empty], anatomy.data[:, empty].expand(3, -1))
    orange = torch.tensor([1, 0.5, 0])[:, None]  # half way from black over red and yellow to white
    expected = 0.7 * anatomy.data[:, uptake[0] == 0.5] + 0.3 * orange
    torch.testing.assert_close(seen.data[:, uptake[0] == 0.5], expected)
    brightest = seen.data[:, uptake[0] == 1]
    torch.testing.assert_close(brightest, 0.4 * anatomy.data[:, uptake[0] == 1].expand(3, -1) + 0.6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"colormap": "jet"}, "no color map"), ({"opacity": 1.2}, "between 0 and 1")],
)
def test_an_overlay_says_what_it_cannot_do(settings, words):
    image = random_image(oblique_grid(), 1)
    with pytest.raises(ValueError, match=words):
        overlay(image, image, **settings)


def test_an_overlay_needs_one_grid_and_scaled_images():
    image = random_image(oblique_grid(), 1)
    with pytest.raises(ValueError, match="register or resample"):
        overlay(image, random_image(Grid((5, 6, 7)), 1))
    with pytest.raises(ValueError, match="functional image must be gray and in"):
        overlay(image, Image(image.data * 300, image.grid))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_color_picture_comes_back_as_it_was_written(tmp_path, dtype):
    top = np.iinfo(dtype).max
    color = Image((random_image(Grid((17, 19)), 3).data * top).round(), Grid((17, 19)), dtype)
    write_image(tmp_path / "a.png", color)
    back = read_image(tmp_path / "a.png", color=True)
    assert back.dtype == dtype
    assert torch.equal(back.data, color.data)
    if dtype == "uint8":
        seen = np.asarray(PIL.Image.open(tmp_path / "a.png"))
        assert np.array_equal(seen, color.data.permute(1, 2, 0).numpy())


def test_gray_stored_as_color_is_recognized_and_color_kept(tmp_path):
    gray = np.random.default_rng(1).integers(0, 255, (17, 19), dtype=np.uint8)
    PIL.Image.fromarray(np.dstack([gray] * 3)).save(tmp_path / "gray.png")
    PIL.Image.fromarray(np.dstack([gray, gray, 255 - gray])).save(tmp_path / "color.jpg")
    assert read_image(tmp_path / "gray.png", color=True).channels == 1
    assert read_image(tmp_path / "color.jpg", color=True).channels == 3
    with pytest.raises(ValueError, match="color picture"):
        read_image(tmp_path / "color.jpg")


@pytest.mark.parametrize("name", ["3021.png", "15012.png"])
def test_a_real_spect_keeps_its_hues_beside_the_anatomy(data, name):
    folder = data / "harvard_aanlib" / "SPECT-MRI"
    mr, _ = to_unit(read_image(folder / "MRI" / name))
    spect, _ = to_unit(read_image(folder / "SPECT" / name, color=True))
    fused, shown = fuse_color(mr, spect, rule="laplacian")
    uncut = ((shown.data > 0) & (shown.data < 1)).all(0).numpy()
    np.testing.assert_allclose(ycbcr(shown)[1:, uncut], ycbcr(spect)[1:, uncut], atol=1e-6)
    np.testing.assert_allclose(
        ycbcr(shown)[0, uncut], fused.image.data[0].numpy()[uncut], atol=1e-6
    )
    assert uncut.mean() > 0.05
