"""uniGradICON on fixed.nii.gz and moving.nii.gz of a folder: its displacement field, as a file."""

import json
import sys
from pathlib import Path

import itk
from icon_registration.itk_wrapper import register_pair
from unigradicon import get_unigradicon, preprocess

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
network = get_unigradicon(weights_location=job["weights"])
moving, fixed = (
    preprocess(itk.imread(f"{folder}/{side}.nii.gz", itk.F), job["modality"])
    for side in ("moving", "fixed")
)
found, _ = register_pair(network, moving, fixed, finetune_steps=job["steps"] or None)
vectors = itk.Image[itk.Vector[itk.F, 3], 3]
sampled = itk.TransformToDisplacementFieldFilter[vectors, itk.D].New(
    Transform=found, UseReferenceImage=True, ReferenceImage=fixed
)
field = str(folder / "field.mha")
itk.imwrite(sampled, field)
(folder / "answer.json").write_text(json.dumps({"transforms": [field]}))
