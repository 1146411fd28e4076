"""The child process in which elastix runs: one registration per line of JSON on standard input.

Run as ``python -m hybridreg.methods.elastix.worker`` by ``process``. It imports no torch. Every
request names a folder with the images as .npy files; output of C++ goes to ``elastix.log``
in that folder, so that the pipe contains only answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

LOG = "elastix.log"
STAGE = "hybridreg: stage "


def main():
    """Answers requests until standard input closes, which it also does when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    itk = _load()
    for line in sys.stdin:
        json.dump(_answer(itk, json.loads(line)), answers)
        answers.write("\n")
        answers.flush()


def _load() -> SimpleNamespace:
    """The few wrapped classes that are needed, by dimension, each under a short name."""
    try:
        return _load_fast()
    except (ImportError, AttributeError):
        return _load_lazily()


def _load_fast() -> SimpleNamespace:
    """Only the modules that are needed, by their private names: 2 s in place of 14 to 27.

    ITK's own loader imports nearly all of it for elastix (itk 5.4, itk-elastix 0.25).
    """
    from itk import elxParameterObjectPython as parameters
    from itk import itkDisplacementFieldTransformPython as field
    from itk import itkElastixRegistrationMethodPython as elastix
    from itk import itkMatrixPython as matrix
    from itk import itkPyBufferPython as buffer
    from itk import vnl_matrixPython as vnl

    return SimpleNamespace(
        parameters=parameters.elastixParameterObject,
        vnl=vnl.vnl_matrixD,
        elastix={d: getattr(elastix, f"itkElastixRegistrationMethodIF{d}IF{d}") for d in (2, 3)},
        field={d: getattr(field, f"itkDisplacementFieldTransformD{d}") for d in (2, 3)},
        matrix={d: getattr(matrix, f"itkMatrixD{d}{d}") for d in (2, 3)},
        image={d: getattr(buffer, f"itkPyBufferIF{d}") for d in (2, 3)},
        mask={d: getattr(buffer, f"itkPyBufferIUC{d}") for d in (2, 3)},
        vectors={d: getattr(buffer, f"itkPyBufferIVD{d}{d}") for d in (2, 3)},
    )


def _load_lazily() -> SimpleNamespace:
    """The same by ITK's public names."""
    import itk

    def images(kind):
        return {d: itk.PyBuffer[itk.Image[kind[d], d]] for d in (2, 3)}

    image = {d: itk.Image[itk.F, d] for d in (2, 3)}
    return SimpleNamespace(
        parameters=itk.ParameterObject,
        vnl=itk.vnl_matrix[itk.D],
        elastix={d: itk.ElastixRegistrationMethod[image[d], image[d]] for d in (2, 3)},
        field={d: itk.DisplacementFieldTransform[itk.D, d] for d in (2, 3)},
        matrix={d: itk.Matrix[itk.D, d, d] for d in (2, 3)},
        image=images({2: itk.F, 3: itk.F}),
        mask=images({2: itk.UC, 3: itk.UC}),
        vectors=images({d: itk.Vector[itk.D, d] for d in (2, 3)}),
    )


def _answer(itk: SimpleNamespace, job: dict) -> dict:
    try:
        with _printing_to(Path(job["folder"])), _ending_with_the_parent():
            return {"maps": _register(itk, job)}
    except Exception as error:  # noqa: BLE001  whatever it is, the parent must hear of it
        return {"error": f"{type(error).__name__}: {error}"}


@contextmanager
def _printing_to(folder: Path) -> Iterator[None]:
    """Works in the folder, with all output, also of C++, redirected to its log."""
    before = os.dup(2)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.chdir(folder)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.dup2(before, 2)
        os.close(before)
        os.close(log)
        os.chdir(folder.anchor)


@contextmanager
def _ending_with_the_parent() -> Iterator[None]:
    """Makes the kernel end this process when the other end of standard input closes.

    Python notices it only between two registrations, since elastix holds the interpreter.
    A parent that has already ended sends no signal, so it is checked first.
    """
    if sys.platform != "linux":
        yield
        return
    import fcntl
    import select

    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # the default is to end the process
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
    parent = select.poll()
    parent.register(0, 0)  # a closed pipe is always reported
    if parent.poll(0):
        sys.exit()
    try:
        yield
    finally:
        fcntl.fcntl(0, fcntl.F_SETFL, flags)
        signal.signal(signal.SIGIO, signal.SIG_IGN)


def _register(itk: SimpleNamespace, job: dict) -> list[dict[str, list[str]]]:
    """The transform parameter maps of the stages, each started from all before it.

    Stage by stage instead of one call, since elastix requires as many images as a stage has
    metrics. The transforms are bit-equal to those of one call (itk-elastix 0.25.4).
    """
    images = {
        role: [_image(itk, described) for described in job[role]]
        for role in ("fixed", "moving", "fixed_masks", "moving_masks")
    }
    field = None
    if job["field"]:
        vectors = _image(itk, job["field"], vectors=True)  # ITK sees into its memory: keep it
        field = itk.field[job["dimension"]].New()
        field.SetDisplacementField(vectors)
    maps = job["initial"]
    for number, stage in enumerate(job["stages"]):
        os.write(1, f"{STAGE}{number}\n".encode())
        maps = _stage(itk, job, stage, images, maps, field if number == 0 else None)
    return maps[-len(job["stages"]) :]


def _stage(itk: SimpleNamespace, job: dict, stage: dict, images: dict, maps: list, field) -> list:
    """All transform parameter maps after one stage: those it started from and its own."""
    elastix = itk.elastix[job["dimension"]].New()
    _add_images(elastix, *(images[side][: stage["images"]] for side in ("fixed", "moving")))
    for mask in images["fixed_masks"]:
        elastix.AddFixedMask(mask)
    for mask in images["moving_masks"]:
        elastix.AddMovingMask(mask)
    if field is not None:
        elastix.SetExternalInitialTransform(field)  # keeps no reference of its own
    elif maps:
        elastix.SetInitialTransformParameterObject(_parameter_object(itk, maps))
    if job["points"]:
        elastix.SetFixedPointSetFileName(job["points"][0])
        elastix.SetMovingPointSetFileName(job["points"][1])
    elastix.SetParameterObject(_parameter_object(itk, [stage["parameters"]]))
    elastix.SetLogToConsole(True)  # an output folder would make elastix write files
    elastix.SetLogToFile(False)
    elastix.Update()
    result = elastix.GetTransformParameterObject()
    count = result.GetNumberOfParameterMaps()
    return [{k: list(v) for k, v in result.GetParameterMap(i).items()} for i in range(count)]


def _add_images(elastix, fixed: list, moving: list):
    """Adds the images so that elastix compares them in this order.

    It numbers all inputs but the first of each side by one counter, and takes them in the order of
    their names as text: MovingImage, MovingImage10, MovingImage9. From seven channels on the wrong
    images would be compared (elastix 5.3.1).
    """
    counter = 0
    for add, (first, *others) in ((elastix.AddFixedImage, fixed), (elastix.AddMovingImage, moving)):
        add(first)
        names = [str(counter + i) for i in range(len(others))]
        for name in names:
            add(others[sorted(names).index(name)])
        counter += len(others)


def _parameter_object(itk: SimpleNamespace, maps: list[dict]):
    parameters = itk.parameters.New()
    for parameter_map in maps:
        parameters.AddParameterMap({name: tuple(v) for name, v in parameter_map.items()})
    return parameters


def _image(itk: SimpleNamespace, described: dict, *, vectors: bool = False):
    """An ITK image over the values of a .npy file, with the geometry of the grid."""
    data = np.load(described["file"], mmap_mode="c", allow_pickle=False)
    dimension = data.ndim - vectors
    kinds = itk.vectors if vectors else itk.mask if data.dtype == np.uint8 else itk.image
    image = kinds[dimension].GetImageViewFromArray(data, is_vector=vectors)
    image.SetSpacing(described["spacing"])
    image.SetOrigin(described["origin"])
    rows = itk.vnl(dimension, dimension)
    for i, row in enumerate(described["direction"]):
        for j, value in enumerate(row):
            rows.put(i, j, value)
    image.SetDirection(itk.matrix[dimension](rows))
    return image


if __name__ == "__main__":
    main()
