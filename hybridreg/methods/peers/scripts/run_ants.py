"""ANTs' SyN on fixed.nii.gz and moving.nii.gz of a folder: its transforms, as files, the last applied first."""

import json
import sys
from pathlib import Path

import ants

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
fixed, moving = (ants.image_read(f"{folder}/{side}.nii.gz") for side in ("fixed", "moving"))
paths = {"mask": folder / "fixed_mask.nii.gz", "moving_mask": folder / "moving_mask.nii.gz"}
masks = {name: ants.image_read(str(path)) for name, path in paths.items() if path.exists()}
done = ants.registration(
    fixed,
    moving,
    outprefix=f"{folder}/ants_",
    **masks,
    **job,
)
named = [name for name in done["fwdtransforms"] if name != "Identity"]
(folder / "answer.json").write_text(json.dumps({"transforms": named}))
