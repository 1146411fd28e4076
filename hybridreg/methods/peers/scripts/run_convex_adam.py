"""ConvexAdam on fixed.nii.gz and moving.nii.gz of a folder: field.npy, displacements in voxels.

Its last axis is ordered as the array's axes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from convexAdam.convex_adam_MIND import convex_adam_pt

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
images = [
    torch.from_numpy(
        sitk.GetArrayFromImage(sitk.ReadImage(f"{folder}/{side}.nii.gz", sitk.sitkFloat32))
    )
    for side in ("fixed", "moving")
]
field = convex_adam_pt(*images, device=torch.device("cpu"), dtype=torch.float32, **job)
np.save(folder / "field.npy", np.asarray(field, dtype=np.float32))
(folder / "answer.json").write_text(json.dumps({"transforms": [f"{folder}/field.npy"]}))
