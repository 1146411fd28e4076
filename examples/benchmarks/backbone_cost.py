"""What hybridreg costs over a bare elastix call with the same parameter maps.

Both run in a warm process on the same two threads, in turn, from arrays in memory to transform in
memory; the median of five. What comes after the transform (resampling and Jacobian, inverse,
scores, verdict, files, report) stands in columns of its own. The pair: test persons 1015 and 1017
of oasis_malf35, 1 mm.

    HYBRIDREG_DATA=... python examples/benchmarks/backbone_cost.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hybridreg.cases import Case, ImagePair
from hybridreg.config import load_method, with_settings
from hybridreg.io.images import read_image
from hybridreg.pipeline import run

REPEATS, THREADS = 5, 2
PRESETS = {
    "rigid": ["rigid.txt"],
    "bspline": ["rigid.txt", "affine.txt", "bspline.txt"],
}

BARE = """
import sys, time, json
import itk
from itk import itkElastixRegistrationMethodPython as em, elxParameterObjectPython as pm
folder = sys.argv[1]
images = [itk.imread(f"{folder}/{side}.mha", itk.F) for side in ("fixed", "moving")]
maps = json.load(open(f"{folder}/maps.json"))
for line in sys.stdin:
    start = time.perf_counter()
    parameters = pm.elastixParameterObject.New()
    for each in maps:
        parameters.AddParameterMap(each)
    method = em.itkElastixRegistrationMethodIF3IF3.New(*images)
    method.SetParameterObject(parameters)
    method.LogToConsoleOff()
    method.Update()
    method.GetTransformParameterObject()
    print(time.perf_counter() - start, flush=True)
"""


class Bare:
    """itk-elastix as its documentation calls it, in a process that has it loaded."""

    def __init__(self, pair: ImagePair, maps: list[dict]):
        from hybridreg.io.images import write_image

        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        write_image(folder / "fixed.mha", pair.fixed)
        write_image(folder / "moving.mha", pair.moving)
        (folder / "maps.json").write_text(json.dumps(maps))
        self._child = subprocess.Popen(
            [sys.executable, "-c", BARE, str(folder)],
            env={**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(THREADS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self) -> float:
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())

    def close(self):
        self._child.stdin.close()
        self._child.wait()
        self._folder.cleanup()


def bare_maps(names: list[str], pair: ImagePair) -> list[dict]:
    """The very maps that the method gives to elastix, with its pyramid schedule and seed."""
    from hybridreg.methods.elastix.method import Elastix

    method = Elastix(parameter_files=tuple(names), schedule="mm")
    return [{key: list(value) for key, value in each.items()} for each in method._stages(pair)]


def measure(preset: str, pair: ImagePair) -> dict[str, float]:
    """Medians in seconds: bare elastix and our registration in turn, and what follows ours."""
    method = with_settings(load_method(preset), threads=THREADS)
    bare = Bare(pair, bare_maps(PRESETS[preset], pair))
    seconds: dict[str, list[float]] = {}
    for repeat in range(REPEATS + 1):
        row = {"bare": bare.seconds()} | whole_case(pair, method)
        if repeat:  # the first time warms both up
            for name, spent in row.items():
                seconds.setdefault(name, []).append(spent)
    bare.close()
    return {name: statistics.median(values) for name, values in seconds.items()}


def whole_case(pair: ImagePair, method) -> dict[str, float]:
    """Seconds of one case from arrays in memory to its folder."""
    outcome = run(Case(pair), method)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = outcome.save(Path(folder) / "out")
        total = time.perf_counter() - start
        times = json.loads((path / "result.json").read_text())["times_s"]
    names = ("register", "resample", "invert", "evaluate", "verdict", "write", "views")
    row = {name: times[name] for name in names}
    return row | {"report": total - row["write"] - row["views"]}


def main():
    torch.set_num_threads(THREADS)
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "oasis_malf35" / "subjects"
    pair = ImagePair(*[read_image(folder / f"{person}_SS.nii.gz") for person in (1015, 1017)])
    rows = {preset: measure(preset, pair) for preset in PRESETS}
    columns = list(next(iter(rows.values())))
    print("| preset | " + " | ".join(f"{name} s" for name in columns) + " | over bare |")
    print("|---" * (len(columns) + 2) + "|")
    for preset, row in rows.items():
        over = row["register"] - row["bare"]
        cells = " | ".join(f"{row[name]:.2f}" for name in columns)
        print(f"| {preset} | {cells} | {over:.2f} s, {over / row['bare']:.1%} |")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "hybridreg", "--help"], capture_output=True, check=True)
    print(f"\n`hybridreg --help`: {time.perf_counter() - start:.2f} s")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "hybridreg", "demo", "-o", f"{folder}/demo"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    print(f"\n`hybridreg demo`: {time.perf_counter() - start:.0f} s\n\n```\n{done.stdout}```")


if __name__ == "__main__":
    main()
