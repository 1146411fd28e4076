"""Running a script of ``scripts`` in the Python that has its package."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hybridreg.child_process import inherited
from hybridreg.methods.base import RegistrationError

_SCRIPTS = Path(__file__).parent / "scripts"
_VERSION = """
import importlib.metadata as m, sys
try:
    print(m.version(sys.argv[1]))
except m.PackageNotFoundError:
    sys.exit(3)
"""


@cache
def installed(distribution: str, python: str = "") -> str:
    """The version of a package in a Python, this one if none is named; empty if it is not there."""
    try:
        done = subprocess.run(
            [python or sys.executable, "-P", "-c", _VERSION, distribution],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def run_script(
    script: str,
    folder: Path,
    job: Mapping[str, Any],
    *,
    python: str = "",
    threads: int | None = None,
) -> dict[str, Any]:
    """What a script answers, which works in a folder; RegistrationError if it fails or crashes."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = inherited() | (_thread_limits(threads) if threads else {})
    done = subprocess.run(
        [python or sys.executable, "-P", str(_SCRIPTS / f"{script}.py"), str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    answer = folder / "answer.json"
    if done.returncode or not answer.is_file():
        raise RegistrationError(f"{script} {_ending(done)}", log=done.stdout[-4000:])
    return json.loads(answer.read_text(encoding="utf-8"))


def _thread_limits(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    return dict.fromkeys(names, str(threads))


def _ending(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in (done.stdout or "").strip().splitlines() if line.strip()]
    last = f": {lines[-1][:300]}" if lines else ""
    if done.returncode < 0:
        return f"crashed ({signal.Signals(-done.returncode).name}){last}"
    return f"ended with code {done.returncode}{last}"
