"""What a registration of descriptors refuses on the command line, before any work."""

from __future__ import annotations

import json
import re

import pytest
import torch
from test_learned_descriptors import small
from typer.testing import CliRunner

from hybridreg.cli.app import app
from hybridreg.geometry import Grid
from hybridreg.images import Image
from hybridreg.io.images import write_image
from hybridreg.phantoms import blobs

AUTOENCODER = 'descriptor = {{ name = "autoencoder", weights = "{}" }}'
CHAIN = """
name = "chain"
[[stages]]
name = "linear"
[[stages]]
name = "on-features"
{descriptor}
method = {{ name = "instance", similarity = "ssd" }}
"""


def ball(size: int, spacing_mm: float = 1.0, channels: int = 1) -> Image:
    grid = Grid((size,) * 3, (spacing_mm,) * 3)
    away = (grid.points() - grid.center).norm(dim=-1) / spacing_mm
    return Image((away < size / 3).float().expand(channels, *grid.shape).clone(), grid)


def with_nan() -> Image:
    image = ball(24)
    image.data[0, 3, 4, 5] = torch.nan
    return image


@pytest.mark.parametrize(
    ("dimension", "fixed", "moving", "says"),
    [
        (3, ball(24), ball(24, channels=2), "fixed has 1 channels and moving 2"),
        (3, ball(24, channels=2), ball(24), "fixed has 2 channels and moving 1"),
        (3, *[blobs(dimension=2).pair.fixed] * 2, "the fixed image: it is 2D .* for 3D images"),
        (2, ball(24), ball(24), "the fixed image: it is 3D .* for 2D images"),
        (3, ball(24), with_nan(), "the moving image has 1 voxels that are NaN"),
        (3, with_nan(), ball(24), "the fixed image has 1 voxels that are NaN"),
        (3, ball(3), ball(3), "the fixed image has 3 voxel.* at least 4 are needed"),
        (3, ball(24), ball(2), "the moving image has 2 voxel.* at least 4 are needed"),
        (3, ball(4), ball(4), "the fixed image: no foreground .* large enough"),
        (
            3,
            ball(24, 6.0),
            ball(24, 6.0),
            "the fixed image: its voxels measure up to 6 mm .* 1.5 mm",
        ),
    ],
)
def test_what_descriptors_cannot_describe_is_refused(dimension, fixed, moving, says, tmp_path):
    weights = small("autoencoder", tmp_path, dimension=dimension).weights
    settings = CHAIN.format(descriptor=AUTOENCODER.format(weights))
    error = refused(settings, fixed, moving, tmp_path)
    assert re.search(says, error), error


def refused(settings: str, fixed: Image, moving: Image, folder) -> str:
    (folder / "method.toml").write_text(settings)
    for side, image in (("fixed", fixed), ("moving", moving)):
        write_image(folder / f"{side}.mha", image)
    paths = ["-f", folder / "fixed.mha", "-m", folder / "moving.mha", "-o", folder / "out"]
    arguments = ["register", *paths, "--method", folder / "method.toml", "--json"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 2, (done.output, done.exception)
    assert not (folder / "out").exists()
    return json.loads(done.stdout.splitlines()[-1])["error"]
