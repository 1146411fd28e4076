"""What is installed is all that the checkout holds: packages, presets, weights, pages."""

from pathlib import Path

import pytest

import hybridreg
from hybridreg.io.checkpoints import card_path, packaged_weights, read_checkpoint
from hybridreg.parameter_folder import parameter_folder

CHECKOUT = Path(__file__).parents[1] / "hybridreg"
INSTALLED = Path(hybridreg.__file__).parent
ENDINGS = {".py", ".toml", ".txt", ".json", ".safetensors", ".j2", ".js", ".css", ""}


def files(folder: Path) -> set[str]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.suffix in ENDINGS)
    return {str(p.relative_to(folder)) for p in found if "__pycache__" not in p.parts}


@pytest.mark.skipif(not CHECKOUT.is_dir(), reason="no checkout beside the tests")
def test_every_file_of_the_checkout_is_installed():
    assert files(CHECKOUT) <= files(INSTALLED)
    assert files(CHECKOUT.parent / "parameter_files") == files(parameter_folder())


@pytest.mark.parametrize("name", packaged_weights())
def test_all_weights_load_with_their_card(name):
    path = packaged_weights()[name]
    assert path.is_relative_to(INSTALLED) and card_path(path).is_file()
    kind = read_kind(path)
    assert read_checkpoint(name, kind=kind).tensors


def read_kind(path: Path) -> str:
    import json

    return json.loads(card_path(path).read_text())["kind"]
