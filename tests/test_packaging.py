"""What is installed is all that the checkout holds: packages, presets, weights, pages."""

import ast
import re
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import hybridreg
from hybridreg.io.checkpoints import card_path, packaged_weights, read_checkpoint
from hybridreg.parameter_folder import parameter_folder

CHECKOUT = Path(__file__).parents[1] / "hybridreg"
INSTALLED = Path(hybridreg.__file__).parent
# Imported only by scripts of methods/peers in another Python: their pins do not fit into ours.
NAMED = {"ants": "antspyx"}  # distributions of other names that need not be installed
OF_THEIR_OWN = {"fireants", "voxelmorph", "unigradicon", "icon-registration"}
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


@pytest.mark.skipif(not CHECKOUT.is_dir(), reason="no checkout beside the tests")
def test_what_is_imported_is_required_and_the_other_way_round():
    setup = ConfigParser()
    setup.read(CHECKOUT.parent / "setup.cfg")
    always = distributions(setup["options"]["install_requires"])
    extras = setup["options.extras_require"]
    known = packages_distributions()
    imported = {
        module: {plain(name) for name in known.get(module, [NAMED.get(module, module)])}
        for module in imports()
    }
    declared = always | distributions(" ".join(extras[name] for name in ("train", "hpc", "peers")))
    declared |= OF_THEIR_OWN
    assert {module for module, names in imported.items() if not names & declared} == set()
    assert always <= set.union(*imported.values())


def imports() -> set[str]:
    """The packages that the checkout imports anywhere, without its own and Python's."""
    found = set()
    for path in CHECKOUT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"hybridreg"}


def distributions(requirements: str) -> set[str]:
    """What requirements name; Dask brings "distributed" under the name of its extra."""
    lines = (re.split("[<>=]", line)[0] for line in requirements.split())
    return {plain(name) for line in lines for name in re.findall(r"[\w.-]+", line)}


def plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()
