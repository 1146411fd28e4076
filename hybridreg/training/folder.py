"""The folder of a run: what it trains (run.json), its resume state, its logs and its checkpoint."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hybridreg.io.checkpoints import ENDING
from hybridreg.io.files import errors_of, read_text, whole_file
from hybridreg.io.output import write_json
from hybridreg.io.settings import as_in_json, check_same_settings


@dataclass(frozen=True)
class RunFolder:
    """The folder with everything a run needs to resume, and its results."""

    path: Path

    @property
    def description(self) -> Path:
        return self.path / "run.json"

    @property
    def state(self) -> Path:
        """The resume state, written by Lightning; one file, so that it is always consistent."""
        return self.path / "state.ckpt"

    @property
    def logs(self) -> Path:
        """One folder for each start, with metrics.csv and what TensorBoard reads."""
        return self.path / "logs"

    def checkpoint(self, kind: str) -> Path:
        return self.path / f"{kind}{ENDING}"

    def open(self, identity: Mapping[str, Any], *, resume: bool):
        """Makes the folder for a new run, or checks that it holds this same run (ValueError)."""
        with errors_of(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise ValueError("this is a file; a run is a folder: choose another name")
            known = self.description.is_file()
            if self.path.is_dir() and any(self.path.iterdir()) and not known:
                raise ValueError(
                    "this folder has other files in it: choose another or an empty one"
                )
            if known and not resume:
                raise ValueError(
                    "this folder holds a run already: continue it (--resume, resume=True) or "
                    "choose another folder"
                )
            if known:
                found, wanted = _described(self.description), as_in_json(identity)
                _check_kind(found, wanted["kind"])
                check_same_settings(found, wanted)
        if not known:
            self.path.mkdir(parents=True, exist_ok=True)
            with whole_file(self.description) as partial:
                write_json(partial, identity)

    def check_state(self):
        """Refuses a resume state that is damaged or holds anything but numbers and names."""
        try:
            torch.load(self.state, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.state}: the resume state is damaged or not written by hybridreg: remove "
                "the folder and start again"
            ) from error

    def replace_state(self, save: Callable[[Path], None], *, first_process: bool = True):
        """Saves the state beside the old one and only then replaces it.

        Lightning (2.6) may move it from another disk, so a kill at that moment would truncate it.
        """
        partial = self.state.with_suffix(".partial")
        save(partial)
        if first_process:
            os.replace(partial, self.state)


def _described(path: Path) -> dict[str, Any]:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"its {path.name} is damaged ({error}): choose another folder") from error


def _check_kind(found: Any, kind: str):
    known = found.get("kind") if isinstance(found, dict) else None
    if known != kind:
        raise ValueError(
            f"this folder holds a run of {known!r}, not of {kind!r}: choose another folder"
        )
