"""VoxelMorph on fixed.nii.gz and moving.nii.gz of a folder: its displacement field, as a file."""

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from voxelmorph.nn.models import VxmPairwise

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
images = [
    sitk.DICOMOrient(
        sitk.ReadImage(f"{folder}/{side}.nii.gz", sitk.sitkFloat32), job["orientation"]
    )
    for side in ("fixed", "moving")
]
step = 2 ** len(job["features"])  # each level halves the image
values = []
for image in images:
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)  # (i, j, k), as in its training
    array = np.clip((array - array.min()) / max(np.ptp(array), 1e-9), 0, 1)
    padded = np.pad(array, [(0, -length % step) for length in array.shape])
    values.append(torch.from_numpy(padded)[None, None])
network = VxmPairwise(
    3, 1, 1, nb_features=job["features"], integration_steps=job["steps"], device="cpu"
)
network.load_state_dict(torch.load(job["weights"], map_location="cpu", weights_only=True))
network.eval()
with torch.no_grad():
    found = network(values[1], values[0], return_field_type="displacement")
fixed = images[0]
size = fixed.GetSize()
voxels = found[0].numpy()[:, : size[0], : size[1], : size[2]]  # (3, i, j, k), in voxels
matrix = np.array(fixed.GetDirection()).reshape(3, 3) * np.array(fixed.GetSpacing())
field = sitk.GetImageFromArray(np.einsum("ab,bijk->kjia", matrix, voxels), isVector=True)
field.CopyInformation(fixed)
path = str(folder / "field.mha")
sitk.WriteImage(field, path)
(folder / "answer.json").write_text(json.dumps({"transforms": [path]}))
