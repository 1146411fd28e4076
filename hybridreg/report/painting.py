"""Lines and colors over gray pictures, and pictures as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from skimage.measure import find_contours

Line = tuple[np.ndarray, tuple[int, int, int]]  # points (N, 2) as (row, column) pixels, color


def contours(
    values: np.ndarray, level: float, scale: tuple[float, float], color: tuple[int, int, int]
) -> Iterable[Line]:
    """Iso-lines of a coarse slice in pixels of a picture of the same faces."""
    for points in find_contours(values, level):
        yield (points + 0.5) * scale - 0.5, color


def with_lines(base: Image.Image, lines: Sequence[Line], width: float) -> Image.Image:
    """Smooth lines, drawn at twice the size, over a gray picture."""
    image = base.convert("RGB")
    for color in dict.fromkeys(color for _, color in lines):
        mask = Image.new("L", (base.width * 2, base.height * 2))
        draw = ImageDraw.Draw(mask)
        for points, of in lines:
            if of == color:
                where = [tuple(point) for point in (points[:, [1, 0]] * 2 + 0.5).tolist()]
                draw.line(where, fill=255, width=round(2 * width), joint="curve")
        image = painted(image, np.asarray(mask.reduce(2)) / 255.0, color)
    return image


def tinted(
    base: Image.Image, level: np.ndarray, colors: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """A map from 0 to 1 in a color scale, with the brightness of a picture."""
    stops = np.linspace(0, 1, len(colors))
    color = np.stack([np.interp(level, stops, c) for c in np.array(colors).T], -1)
    shade = 0.4 + 0.6 * (np.asarray(base)[..., None] / 255.0)
    return Image.fromarray((color * shade).astype(np.uint8))


def painted(base: Image.Image, alpha: np.ndarray, color: tuple[int, int, int]) -> Image.Image:
    """A color blended over a picture with alpha, 0 to 1."""
    below = np.asarray(base.convert("RGB"), dtype=np.float32)
    mixed = below + alpha[..., None] * (np.array(color, dtype=np.float32) - below)
    return Image.fromarray(mixed.round().astype(np.uint8))


def data_uri(image: Image.Image, *, crisp: bool = False) -> str:
    """JPEG with colors at full resolution, or PNG, which is larger and exact."""
    file = io.BytesIO()
    if crisp:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=82, subsampling=0)
    kind = "png" if crisp else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
