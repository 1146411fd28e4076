"""The child process that reads ITK's HDF5 transform files (.h5), by SimpleITK.

Run by ``limited_script``, with the path of one; writes the transforms in it to standard output as
.npz: ``types`` (ITK's names), and the numbers of each as parameters_0, fixed_0, parameters_1, ...
On damaged files HDF5 (1.12) prints pages of errors, crashes, hangs or exhausts memory, so
it runs outside the process that uses the transform. This imports nothing else of the package.
"""

from __future__ import annotations

import sys

import numpy as np
import SimpleITK as sitk


def main(path: str):
    """Writes the transforms of a file to standard output."""
    transform = sitk.ReadTransform(path)
    entries = [(_type(transform), *_numbers(transform))]
    if isinstance(transform, sitk.CompositeTransform):
        parts = [transform.GetNthTransform(i) for i in range(transform.GetNumberOfTransforms())]
        entries = [(_type(transform), np.zeros(0), np.zeros(0))]
        entries += [(_type(part, is_part=True), *_numbers(part)) for part in parts]
    arrays = {"types": np.array([entry[0] for entry in entries])}
    for i, (_, parameters, fixed) in enumerate(entries):
        arrays |= {f"parameters_{i}": parameters, f"fixed_{i}": fixed}
    np.savez(sys.stdout.buffer, **arrays)


def _type(transform: sitk.Transform, *, is_part: bool = False) -> str:
    name, dimension = transform.GetName(), transform.GetDimension()
    if name == "Transform":  # SimpleITK (2.5) has no class for it, but prints what ITK calls it
        name = str(transform).split()[1]
    if name == "CompositeTransform" and is_part:  # files hold no composite in another; this is
        name = "MatrixOffsetTransformBase"  # how SimpleITK (2.5) shows the affine of older ANTs
    order = f"_{transform.GetOrder()}" if name == "BSplineTransform" else ""
    return f"{name}_double_{dimension}_{dimension}{order}"


def _numbers(transform: sitk.Transform) -> tuple[np.ndarray, np.ndarray]:
    fixed = np.array(transform.GetFixedParameters())
    if isinstance(transform, sitk.DisplacementFieldTransform):  # many: as a tuple they take minutes
        return sitk.GetArrayFromImage(transform.GetDisplacementField()).ravel(), fixed
    return np.array(transform.GetParameters()), fixed


if __name__ == "__main__":
    main(sys.argv[1])
