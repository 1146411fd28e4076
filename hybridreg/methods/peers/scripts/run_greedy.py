"""greedy on fixed.nii.gz and moving.nii.gz of a folder: its displacement field, as a file."""

import json
import sys
from pathlib import Path

import picsl_greedy

folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
field = folder / "field.nii.gz"
options = [
    f"-i {folder}/fixed.nii.gz {folder}/moving.nii.gz -o {field}",
    f"-m {job['metric']} -n {job['iterations']}",
    f"-threads {job['threads']}" if job["threads"] else "",
    f"-gm {folder}/fixed_mask.nii.gz" if (folder / "fixed_mask.nii.gz").exists() else "",
    f"-mm {folder}/moving_mask.nii.gz" if (folder / "moving_mask.nii.gz").exists() else "",
]
tool = picsl_greedy.Greedy3D if job["dimension"] == 3 else picsl_greedy.Greedy2D
tool().execute(" ".join(options))
(folder / "answer.json").write_text(json.dumps({"transforms": [str(field)]}))
