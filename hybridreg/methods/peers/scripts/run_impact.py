"""IMPACT on fixed.nii.gz and moving.nii.gz of a folder: its displacement field, as a file."""

import json
import sys
from pathlib import Path

import torch  # isort: skip  the module links its libraries
import itk

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
Volume = itk.Image[itk.F, 3]
fixed, moving = (itk.imread(f"{folder}/{side}.nii.gz", itk.F) for side in ("fixed", "moving"))
torch.set_num_threads(itk.MultiThreaderBase.GetGlobalDefaultNumberOfThreads())
network = itk.ImpactModelConfiguration(
    job["weights"], 3, 1, [0] * 3, [job["voxel_mm"]] * 3, [0] * 3, job["layers"], False
)


def _prepared(stage, settings):
    stage.SetFixedImage(fixed)
    stage.SetMovingImage(moving)
    stage.SetDevice("cpu")
    stage.AddModelConfiguration(network)
    for name, value in {**job["both"], **settings}.items():
        getattr(stage, f"Set{name}")(value)
    return stage


coarse = _prepared(itk.ImpactCoarseRegistration[Volume, Volume].New(), job["coarse"])
coarse.Update()
fine = _prepared(itk.ImpactFineRegistration[Volume, Volume].New(), job["fine"])
fine.SetInitialDisplacementField(coarse.GetDisplacementField())
fine.Update()
path = str(folder / "field.mha")
itk.imwrite(fine.GetDisplacementField(), path)
(folder / "answer.json").write_text(json.dumps({"transforms": [path]}))
