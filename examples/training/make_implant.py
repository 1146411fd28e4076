"""Writes the CT of the phantom implant: python make_implant.py implant.nii.gz"""

import sys

from hybridreg import write_image
from hybridreg.phantoms.implant import implant, implant_grid

write_image(sys.argv[1], implant(implant_grid()))
