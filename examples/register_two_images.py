"""Registers a phantom CT to a phantom T1 and writes the output folder given on the command line."""

import sys

import hybridreg
from hybridreg.phantoms import head_case

case = head_case(angles_deg=(5.0, -3.0, 8.0), translation_mm=(6.0, 4.0, -5.0))
outcome = hybridreg.register(case.pair.fixed, case.pair.moving, "rigid")
center = case.pair.fixed.grid.center
print("the fixed center lies in the moving image at mm", outcome.transform(center).tolist())
outcome.save(sys.argv[1] if len(sys.argv) > 1 else "out")
