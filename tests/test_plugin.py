"""A package beside hybridreg adds a method, a measure and a descriptor, and need not be sound."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from extending import blocks, install

from hybridreg.io.images import write_image
from hybridreg.io.landmarks import write_landmarks
from hybridreg.phantoms import blobs


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package of docs/extending.md, a broken method in it, and one case."""
    folder = tmp_path_factory.mktemp("plugin")
    install(folder, **{"my-broken": "no_such_module:Method"})
    case = blobs(dimension=2, translation_mm=(2.0, 1.5))
    for side in ("fixed", "moving"):
        write_image(folder / f"{side}.nii", getattr(case.pair, side))
        write_landmarks(folder / f"{side}.csv", getattr(case, f"{side}_landmarks"))
    return folder


def run(folder: Path, *arguments: str) -> str:
    """What a Python process says that finds the package, with nothing installed."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hybridreg(folder: Path, *arguments: str) -> dict:
    return json.loads(run(folder, "-m", "hybridreg", *arguments, "--json").splitlines()[-1])


def test_its_names_are_listed_and_the_broken_one_says_why(installed):
    found = hybridreg(installed, "methods")
    assert found["methods"]["my-affine"] == "from mine" == found["measures"]["my-robust"]
    assert found["descriptors"]["my-contrast"] == "from mine"
    broken = found["methods"]["my-broken"]
    assert "of mine cannot be imported: ModuleNotFoundError" in broken
    assert "no_such_module" in broken


def test_one_pair_is_registered_by_a_chain_of_its_parts(installed):
    pair = ["-f", "fixed.nii", "-m", "moving.nii", "-o", "out", "--no-report"]
    points = ["--fixed-landmarks", "fixed.csv", "--moving-landmarks", "moving.csv"]
    found = hybridreg(installed, "register", *pair, *points, "--method", "mine.toml")
    first, second = found["method"]["stages"]
    assert first["method"]["measure"] == {"name": "my-robust", "scale": 0.05}
    assert second["descriptor"]["name"] == "my-contrast"
    assert found["scores"]["after"]["landmarks"]["mean_mm"] < 0.5


def test_a_table_of_cases_is_registered_in_processes_that_find_it(installed):
    columns = [f"{side}{more}" for more in ("", "_landmarks") for side in ("fixed", "moving")]
    with (installed / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["name", *columns], ["one", "fixed.nii", "moving.nii", "fixed.csv", "moving.csv"]]
        )
    where = ["-o", "cases", "--method", "mine.toml", "--workers", "1", "--no-report"]
    found = hybridreg(installed, "register", "cases.csv", *where)
    assert (found["done"], found["failures"]) == (1, {})
    assert found["records"][0]["tre_mean_mm"] < 0.5


def test_its_parts_keep_the_contracts(installed):
    (code,) = [block.code for block in blocks() if "check_method" in block.code]
    run(installed, "-c", f"import torch; torch.set_num_threads(1)\n{code}")
