"""The choice of the compute device, for all subcommands."""

from __future__ import annotations

import re


def check_device(name: str | None):
    """Raises ValueError for an invalid device name, without checking this machine's devices."""
    if name and not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", name):
        raise ValueError(f"--device is cpu, cuda, cuda:1 or auto; found {name!r}")


def resolve_device(wanted: str) -> str:
    """The torch device for ``--device``; auto prefers a GPU. ValueError for a missing one."""
    check_device(wanted)
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here: use --device cpu or auto")
    return str(torch.device(wanted))
