"""Trains the packaged weights of the learned descriptors, from the training persons of oasis_malf35.

    HYBRIDREG_DATA=... python examples/benchmarks/train_descriptors.py FOLDER [NAME ...]

Writes a settings file and a run for each name into the folder, and continues runs that were
interrupted; FOLDER/NAME.safetensors and its card are what is packaged. On one quiet core the
autoencoders take some three minutes each, the encoders one and four, the components some seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

TRAIN = [1000, 1001, 1002, 1006, 1007, 1008, 1009, 1010, 1011, 1012]
VALIDATION = [1013, 1014]
LABELED = ", with labels provided by Neuromorphometrics, Inc. (http://Neuromorphometrics.com/) under academic subscription"
DATA = (
    "T1 MR of 10 persons of the OASIS project, stripped of the skull{}, as distributed with "
    "the MICCAI 2012 "
    "multi-atlas labeling data; 2 others to choose by"
)
ANY = {"contrasts": "any"}
# name -> task, its kind of weights, epochs, settings
WEIGHTS = {
    "pca-brain": ("pca", "pca", 1, {}),
    "sae-brain": ("sae", "autoencoder", 20, {}),
    "sae-any-contrast": ("sae", "autoencoder", 20, ANY),
    "anatomy-brain": ("anatomy", "anatomy", 30, {}),
    "anatomy-any-contrast": ("anatomy", "anatomy", 60, ANY),
}


def files(persons: list[int], what: str) -> str:
    folder = Path(os.environ["HYBRIDREG_DATA"]) / "oasis_malf35" / "subjects"
    return "[" + ", ".join(f'"{folder / f"{person}_{what}.nii.gz"}"' for person in persons) + "]"


def settings(task: str, values: dict) -> str:
    lines = [f"images = {files(TRAIN, 'SS')}", f"validation = {files(VALIDATION, 'SS')}"]
    if task == "anatomy":
        lines.append(f"labels = {files(TRAIN, 'glm')}")
        lines.append(f"validation_labels = {files(VALIDATION, 'glm')}")
        if values:
            lines.append(f"tissues = {files(TRAIN, 'tissues')}")
    lines += [f'{name} = "{value}"' for name, value in values.items()]
    lines.append(f'data = "{DATA.format(LABELED if task == "anatomy" else "")}"')
    lines += ['data_licence = "CC BY-NC 4.0"', 'weights_licence = "CC BY-NC 4.0"']
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(WEIGHTS))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        task, kind, epochs, values = WEIGHTS[name]
        config, run = given.folder / f"{name}.toml", given.folder / name
        config.write_text(settings(task, values))
        command = [sys.executable, "-m", "hybridreg", "train", task, config, "-o", run, "--resume"]
        limits = ["--max-epochs", str(epochs), "--patience", str(epochs), "--threads", "1"]
        subprocess.run([*map(str, command), *limits], check=True)
        for ending in (".safetensors", ".json"):
            shutil.copy(run / f"{kind}{ending}", given.folder / f"{name}{ending}")


if __name__ == "__main__":
    main()
