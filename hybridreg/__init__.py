"""Classical and deep medical image registration and fusion as interchangeable parts.

Public names load on first use: ``import hybridreg`` itself imports no torch and no ITK.
"""

import os
from importlib import import_module

# Large tensors in memory pages of 2 MB, if the system supports them: the first access to 4 kB pages
# takes up to a third of the time of operations on whole volumes. torch reads it at its first
# allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_NAMES = {
    "register": "pipeline",
    "compare": "comparison.run",
    "Outcome": "outcome",
    "Grid": "geometry",
    "Image": "images",
    "LabelMap": "images",
    "LandmarkSet": "images",
    "ImagePair": "cases",
    "Case": "cases",
    "read_image": "io.images",
    "read_labels": "io.images",
    "write_image": "io.images",
    "as_image": "io.objects",
    "as_labels": "io.objects",
    "read_transform": "io.transforms",
    "write_transform": "io.transforms",
    "AffineTransform": "transforms",
    "compose": "transforms",
    "warp": "warping",
    "load_method": "config",
    "RegistrationError": "methods.base",
}

__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
