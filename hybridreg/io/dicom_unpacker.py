"""The child process that decodes JPEG, JPEG-LS and JPEG 2000, by the GDCM inside SimpleITK.

Run by ``limited_script``, with a folder: of every .dcm there its pixels become a .npy, in order,
until one fails. Damaged pixels can crash GDCM or make it ask for all memory (SimpleITK 2.5), so it
is kept out of the process that reads images. This imports nothing else of the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def main(folder: Path):
    """Writes the pixels of every DICOM file of a folder beside it."""
    for path in sorted(folder.glob("*.dcm")):
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
        np.save(folder / "unfinished.npy", pixels[0])
        (folder / "unfinished.npy").rename(path.with_suffix(".npy"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
