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


REFUSED = """
register -o new -f none.nii -m none.nii
register -o new -f some.nii -m none.nii --threads 2
register -o new -f some.nii
register -o new none.csv
register -o new some.nii --fixed-mask some.nii
register -o new -f some.nii -m some.nii --method rigit
register -o new -f some.nii -m some.nii --method none.toml
register -o new -f some.nii -m some.nii --method rigid -p some.txt
register -o new -f some.nii -m some.nii -p none.txt
register -o new -f some.nii -m some.nii --initial middle
register -o new -f some.nii -m some.nii --fixed-landmarks none.csv
register -o new -f some.nii -m some.nii --moving-mask none.nii
register -o new -f some.nii -m some.nii --fusion-rule best
register -o new -f some.nii -m some.nii --device gpu
register -o . -f some.nii -m some.nii
register -o new some.nii --workers 2 --scheduler tcp://10.0.0.1:1
register -o new some.nii --case-time soon
compare none.csv -o new --methods rigid
compare some.nii -o new --methods rigit
compare some.nii -o new --methods none.toml
compare some.nii -o new --transform-of lab
compare some.nii -o new --methods rigid --case-time soon
compare some.nii -o new --methods rigid --workers 2 --slurm some.nii
compare some.nii -o new --methods rigid --device gpu
apply -o new.nii -t none.h5 -f some.nii -m some.nii --threads 2
apply -o new.nii -t some.nii -m some.nii
apply -o new.nii -t some.nii -f some.nii -m none.nii
apply -o new.nii -t some.nii --points none.csv
apply -o some.nii -t some.nii -f some.nii -m some.nii
apply -o none/new.nii -t some.nii -f some.nii -m some.nii
fuse -o new.nii -f some.nii -m none.nii --threads 2
fuse -o some.nii -f some.nii -m some.nii
fuse -o new.nii -f some.nii -m some.nii --rule best
fuse -o new.nii -f some.nii -m some.nii --overlay hot --scores
evaluate none.h5 -f some.nii -m some.nii --threads 2
evaluate some.nii
evaluate some.csv
evaluate none.csv --results .
evaluate some.nii -f some.nii -m some.nii --fixed-labels none.nii
targets -o new.zarr --kind fields some.nii
targets -o new.zarr --kind field none.csv
targets -o new.zarr --kind field --pairs-of none
targets -o new.zarr --kind field some.nii --method rigit
targets -o new.zarr --kind field some.nii --workers 2 --slurm some.nii
project -i none.nii -g some.nii -o new.nii --threads 2
project -i some.nii -g some.nii -o some.nii
project -i some.nii -g some.nii -o new.png
project -i some.nii -g some.nii -o new.nii --pose 1,2,3
project -i some.nii -g some.nii -o new.nii --isocenter 1,2
demo -o some.nii --threads 2
dicom none -o new.nii
dicom some.nii
dicom some.nii -o some.nii
info none.nii
report .
train fusion none.toml -o new --threads 2
train fusion some.nii -o new --max-time soon
train fusion some.nii -o new --device gpu
train fision some.nii -o new
"""


def test_what_is_refused_is_refused_before_anything_heavy_loads(tmp_path):
    (tmp_path / "some.nii").touch()
    code = f"""
import os, sys
from typer.testing import CliRunner
from hybridreg.cli.app import app
os.chdir({str(tmp_path)!r})
for line in {REFUSED.strip().splitlines()!r}:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 2 and "error: " in done.output, (line, done.output)
    assert not {{*{HEAVY!r}}} & {{*sys.modules}}, (line, done.output)
"""
    loaded_after(code)
    assert [path.name for path in tmp_path.iterdir()] == ["some.nii"]


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
