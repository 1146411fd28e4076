"""Which device computes: decided here and nowhere else."""

from __future__ import annotations


def resolve_device(wanted: str) -> str:
    """The torch device for ``--device``; auto takes a GPU where there is one (ValueError if not)."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here: use --device cpu or auto")
    try:
        return str(torch.device(wanted))
    except RuntimeError:
        raise ValueError(f"--device is cpu, cuda, cuda:1 or auto; found {wanted!r}") from None
