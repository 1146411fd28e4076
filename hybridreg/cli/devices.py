"""Which device computes: decided here and nowhere else."""

from __future__ import annotations

import re


def check_device(name: str | None):
    """Refuses what is no device, without a look at this machine's (ValueError)."""
    if name and not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", name):
        raise ValueError(f"--device is cpu, cuda, cuda:1 or auto; found {name!r}")


def resolve_device(wanted: str) -> str:
    """The torch device for ``--device``; auto takes a GPU where there is one (ValueError if not)."""
    check_device(wanted)
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here: use --device cpu or auto")
    return str(torch.device(wanted))
