"""What loads, and what does not, when someone only looks."""

import subprocess
import sys

import pytest

import hybridreg

HEAVY = ("torch", "SimpleITK", "itk", "lightning", "dask", "distributed", "zarr")
HEAVY += ("scipy", "matplotlib", "nibabel", "numba")


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import hybridreg; dir(hybridreg)",
        "import hybridreg.cli.app",
        "from typer.testing import CliRunner; from hybridreg.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_looking_loads_nothing_heavy(code):
    assert not loaded_after(code) & set(HEAVY)


def test_the_parent_process_imports_neither_itk_nor_before_its_use_numba():
    code = "import hybridreg.pipeline, hybridreg.methods.elastix as e; e.Elastix\n"
    code += "import hybridreg.similarity, hybridreg.kernels.inversion"
    found = loaded_after(code)
    assert "torch" in found and not found & {"itk", "numba"}


@pytest.mark.parametrize("name", hybridreg.__all__)
def test_every_public_name_loads(name):
    assert getattr(hybridreg, name).__name__ == name


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'registr'"):
        hybridreg.registr  # noqa: B018
