"""Runs a script in a child process of limited memory, for files that may be damaged.

Libraries that read them can crash, exhaust memory or hang. Run as a file, this is the
child: it sets the limits and becomes the script. It imports nothing else of the package.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

MEMORY_BYTES = 8 << 30  # of address space; SimpleITK itself takes one or two GiB


def run_limited(
    script: Path,
    *arguments: str,
    wait_s: float,
    cpu_s: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a script with limits; returns the completed process with its output.

    ``subprocess.TimeoutExpired`` if it takes longer than ``wait_s``. On Windows that is the only
    limit.
    """
    limits = str(memory_bytes), str(cpu_s or "")
    # -P: files in the folder of the script must not stand in for modules
    command = [sys.executable, "-P", __file__, *limits, str(script), *arguments]
    return subprocess.run(command, capture_output=True, timeout=wait_s, check=False)


def _limit(memory_bytes: int, cpu_s: int | None):
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    wanted = {resource.RLIMIT_AS: memory_bytes, resource.RLIMIT_CORE: 0}
    if cpu_s is not None:
        wanted[resource.RLIMIT_CPU] = cpu_s
    for kind, most in wanted.items():
        hard = resource.getrlimit(kind)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    memory, cpu, *sys.argv = sys.argv[1:]
    _limit(int(memory), int(cpu) if cpu else None)
    runpy.run_path(sys.argv[0], run_name="__main__")
