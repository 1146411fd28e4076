"""Finds the phantom implant in a radiograph over other tissue; writes the output folder given on the command line."""

import sys

import torch

import hybridreg
from hybridreg.exposure import Exposure
from hybridreg.methods.pehl.backgrounds import backgrounds
from hybridreg.phantoms.implant import implant_arm, implant_case, implant_corners
from hybridreg.poses import pose, projection_error
from hybridreg.radiographs import Radiograph
from hybridreg.transforms import AffineTransform, rigid

random = torch.Generator().manual_seed(5)
view = implant_arm()
true = pose((4.0, 12.0, -5.0, 14.0, -2.0, 10.0))  # degrees and mm, C-arm to CT
case = implant_case(true, view)

# What the detector records: other tissue in front, scatter, blur and noise.
tissue = backgrounds(1, view.shape, random)
total = Radiograph(case.pair.fixed[0].data + tissue, view)
radiograph = Exposure(photons=20_000, blur_mm=0.5, scatter=0.2)(total, random)

# Some degrees and millimeters beside the true pose.
away = rigid((-6.0, 3.0, 5.0), (1.0, 6.0, -1.0), (0, 0, 0))
start = AffineTransform(true.matrix @ away.matrix)

how = {"initial": start, "truth": true}
for name in ("pehl-implant", "projection-hybrid"):
    outcome = hybridreg.register(radiograph, case.pair.moving, name, **how)
    error = projection_error(outcome.transform, true, implant_corners(), view).mean()
    seconds = outcome.times_s["register"]
    print(f"{name}: {error:.2f} mm on the detector, {outcome.verdict.status}, {seconds:.1f} s")
outcome.save(sys.argv[1] if len(sys.argv) > 1 else "out")
