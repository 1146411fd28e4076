"""FireANTs on fixed.nii.gz and moving.nii.gz of a folder: its displacement field, as a file."""

import json
import sys
from pathlib import Path

from fireants.io import BatchedImages, Image
from fireants.registration.greedy import GreedyRegistration

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
fixed, moving = (
    BatchedImages([Image.load_file(f"{folder}/{side}.nii.gz", device="cpu")])
    for side in ("fixed", "moving")
)
registration = GreedyRegistration(fixed_images=fixed, moving_images=moving, **job)
registration.optimize()
field = str(folder / "field.nii.gz")
registration.save_as_ants_transforms([field])
(folder / "answer.json").write_text(json.dumps({"transforms": [field]}))
