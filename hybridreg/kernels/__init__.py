"""Numerics over all voxels of a lattice, several times faster on the CPU than tensor operations.

float32 on the CPU is computed by compiled loops (numba); anything else, a GPU for one, by torch,
with results that agree. Images are (C, *shape); displacements (D, *shape), components (x, y[, z])
in mm along the axes of their lattice. numba is imported, and compiles, when a kernel is first used.
"""
