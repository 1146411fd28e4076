"""Photographs as gray pictures, the training data of fusion networks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hybridreg.io.files import naming
from hybridreg.io.formats import PICTURES as _FORMATS

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits at most


def read_photographs(paths: Iterable[str | Path]) -> dict[str, Tensor]:
    """Gray photographs by name, each of shape (y, x), uint8; a folder means all files in it.

    Gray is 0.299 R + 0.587 G + 0.114 B.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        for file in _files(Path(path)):
            if file.stem in found:
                raise ValueError(
                    f"there are two photographs {file.stem!r}: rename one, or leave it out"
                )
            with naming(file):
                found[file.stem] = _gray(file)
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    shown = (file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
    files = sorted(file for file in shown if file.suffix.lower() in _FORMATS)
    if not files:
        raise ValueError(
            f"{path}: there are no photographs in this folder ({' '.join(_FORMATS)}): "
            "give another one"
        )
    return files


def _gray(path: Path) -> Tensor:
    path.stat()  # a missing folder has no ending either
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"its name does not end like a photograph's ({' '.join(_FORMATS)})")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=sorted(set(_FORMATS.values()))) as picture:
                if picture.mode not in _MODES:
                    raise ValueError(
                        f"its pixels are of another kind than 8 bits ({picture.mode}): save it as "
                        "a gray or RGB picture of 8 bits"
                    )
                return torch.from_numpy(np.array(picture.convert("RGB").convert("L")))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError("it is larger than any photograph: scale it down") from error
        except UnidentifiedImageError as error:
            raise ValueError("it is no picture, or a damaged one") from error
        except SyntaxError as error:  # Pillow's error for a broken PNG
            raise ValueError(f"it is damaged: {error}") from error
