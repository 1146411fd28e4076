"""The child process that unpacks JPEG, JPEG-LS and JPEG 2000, by the GDCM inside SimpleITK.

Run as a file, with a folder: of every .dcm there its pixels become a .npy, in order, until one
fails. Damaged pixels can crash GDCM or make it ask for all memory (SimpleITK 2.5), so it is kept
out of the process that reads images. This imports nothing else of the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

_MOST_BYTES = 8 << 30  # of address space, of which SimpleITK itself takes one or two GiB


def main(folder: Path):
    """Writes the pixels of every DICOM file of a folder beside it."""
    _limit_memory()
    for path in sorted(folder.glob("*.dcm")):
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
        np.save(folder / "unfinished.npy", pixels[0])
        (folder / "unfinished.npy").rename(path.with_suffix(".npy"))


def _limit_memory():
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _MOST_BYTES if hard == resource.RLIM_INFINITY else min(_MOST_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
