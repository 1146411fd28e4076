"""Pictures as viewers show them: turned, in the right shades, without a size in mm."""

import struct

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.images import read_image

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 9), dtype=np.uint8)
# What EXIF's orientations ask for, by the definition of where row 0 and column 0 are to be seen.
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def values(path, **more) -> np.ndarray:
    return read_image(path, **more).data.numpy()


def tiff(path, pixels: np.ndarray, photometric: int):
    """An uncompressed gray TIFF of any number type."""
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: 8 * pixels.itemsize, 259: 1}
    tags |= {262: photometric, 273: 8, 277: 1, 278: len(pixels), 279: pixels.nbytes, 339: kind}
    short = {258, 259, 262, 277, 339}
    head = b"II*\0" + struct.pack("<I", 8 + pixels.nbytes) + pixels.tobytes()
    rows = [struct.pack("<HHII", t, 3 if t in short else 4, 1, v) for t, v in tags.items()]
    path.write_bytes(head + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4))


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_pictures_are_turned_as_pillow_turns_them(tmp_path, caplog, ending, orientation):
    path = tmp_path / f"a{ending}"
    exif = PIL.Image.Exif()
    exif[274] = orientation
    PIL.Image.fromarray(PIXELS).save(path, exif=exif, quality=100)
    expected = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(path)))
    assert np.array_equal(values(path)[0], expected)
    assert np.abs(expected.astype(float) - SHOWN[orientation](PIXELS)).max() < 3  # JPEG rounds
    assert (f"orientation ({orientation}" in caplog.text) == (orientation > 1)


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("kind", ["L", "I;16", "RGB", "P", "pages", "lzw", "one bit"])
def test_tiffs_are_turned_whatever_they_hold(tmp_path, orientation, kind):
    path = tmp_path / "a.tif"
    pixels, more = PIXELS, {}
    match kind:
        case "I;16":
            pixels = PIXELS.astype(np.uint16) * 200
        case "RGB":
            pixels = np.stack([PIXELS, PIXELS // 2, PIXELS // 3], -1)
        case "pages":
            more = {"save_all": True, "append_images": [PIL.Image.fromarray(PIXELS)]}
        case "lzw":
            more = {"compression": "tiff_lzw"}
        case "one bit":
            pixels = PIXELS > 100
    picture = PIL.Image.fromarray(pixels)
    if kind == "P":
        picture = picture.convert("P")
        pixels = PIXELS.astype(np.uint16) * 256  # how Pillow stores a palette
    picture.save(path, tiffinfo={274: orientation}, **more)
    found = values(path, color=kind == "RGB", frame=0)
    expected = SHOWN[orientation](pixels.reshape(6, 9, -1) * (255 if kind == "one bit" else 1))
    assert np.array_equal(np.moveaxis(found, 0, -1), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("photometric", [0, 1])
def test_white_stored_as_zero_is_inverted_where_white_is_known(
    tmp_path, caplog, dtype, photometric
):
    pixels = (PIXELS.astype(dtype)) * (100 if dtype == np.uint16 else 1)
    tiff(tmp_path / "a.tif", pixels, photometric)
    white = np.iinfo(dtype).max if dtype in (np.uint8, np.uint16) and photometric == 0 else None
    expected = pixels if white is None else white - pixels
    assert np.array_equal(values(tmp_path / "a.tif")[0], expected)
    assert ("inverted" in caplog.text) == (white is not None)
    assert ("no meaning" in caplog.text) == (white is None and photometric == 0)
    if dtype == np.uint8:
        assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "a.tif")), expected)


@pytest.mark.parametrize(("mode", "words"), [("LA", "gray and transparency"), ("LAB", "L.a.b")])
def test_tiffs_that_simpleitk_would_read_wrong_are_refused(tmp_path, mode, words):
    picture = PIL.Image.fromarray(np.stack([PIXELS, PIXELS // 2, PIXELS // 3], -1)).convert(mode)
    picture.save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"a.tif: .*{words}"):
        read_image(tmp_path / "a.tif", color=True)


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
def test_cmyk_is_read_as_the_colors_it_means(tmp_path, ending):
    colors = np.stack([PIXELS, PIXELS // 2, PIXELS // 3], -1)
    PIL.Image.fromarray(colors).convert("CMYK").save(tmp_path / f"a{ending}", quality=100)
    expected = np.asarray(PIL.Image.open(tmp_path / f"a{ending}").convert("RGB"))
    found = np.moveaxis(values(tmp_path / f"a{ending}", color=True), 0, -1)
    assert np.array_equal(found, expected)


def test_gray_with_constant_alpha_is_gray(tmp_path):
    gray = PIL.Image.fromarray(PIXELS)
    for name, alpha in (("a.png", np.full_like(PIXELS, 255)), ("b.png", PIXELS)):
        PIL.Image.merge("LA", [gray, PIL.Image.fromarray(alpha)]).save(tmp_path / name)
    assert np.array_equal(values(tmp_path / "a.png"), PIXELS[None])
    assert read_image(tmp_path / "a.png").dtype == "uint8"
    with pytest.raises(ValueError, match=r"b.png: parts of this picture are transparent"):
        read_image(tmp_path / "b.png")


def test_a_transparent_gray_that_does_not_occur_is_nothing(tmp_path):
    PIL.Image.fromarray(PIXELS // 2).save(tmp_path / "a.png", transparency=200)
    assert np.array_equal(values(tmp_path / "a.png"), PIXELS[None] // 2)
    PIL.Image.fromarray(PIXELS).save(tmp_path / "b.png", transparency=int(PIXELS[0, 0]))
    with pytest.raises(ValueError, match="transparent"):
        read_image(tmp_path / "b.png")


def test_a_large_picture_is_not_taken_for_a_wrong_spacing(tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (4, 10_100), dtype=np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    large = read_image(tmp_path / "a.png")
    check_pair(ImagePair(large, large))
    small = Image(large.data[..., :500], Grid((4, 500)))
    with pytest.raises(ValueError, match=r"1 mm per pixel, as pictures are taken to be.*scale it"):
        check_pair(ImagePair(large, small))
    in_microns = Image(large.data, Grid((4, 10_100), spacing=(10.0, 10.0)))
    with pytest.raises(ValueError, match="not in mm"):
        check_pair(ImagePair(in_microns, in_microns))
