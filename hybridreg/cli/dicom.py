"""``hybridreg dicom``: a DICOM series as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.refusals import check_files, check_new_file
from hybridreg.cli.session import Session, session


def dicom(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM files, or a multi-frame file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write, such as ct.nii.gz.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Which series: number, id or start of its UID.")
    ] = None,
    frame: Annotated[
        int | None, typer.Option(help="Which volume of a series of several (echo, time), from 0.")
    ] = None,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample", help="Resample tilted or unevenly spaced slices to a regular grid."
        ),
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the series.")] = (False),
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Check a DICOM series slice by slice and write it as one image in modality units."""
    with session(as_json=json, quiet=quiet) as current:
        if out is None and not list_only:
            raise ValueError("give the file to write with --out, or --list to list the series")
        if not list_only:
            check_new_file(out, overwrite=overwrite)
        check_files(folder)
        if list_only:
            list_dicom(current, folder)
            return
        from hybridreg.io.dicom import read_dicom
        from hybridreg.io.images import write_image

        image = read_dicom(folder, series=series, frame=frame, resample=resample)
        write_image(out, image)
        grid = image.grid
        current.answer = {"out": str(out), "size": grid.size, "spacing_mm": grid.spacing}
        spacing = " x ".join(f"{s:.4g}" for s in grid.spacing)
        current.say(f"wrote {out}: {' x '.join(map(str, grid.size))} voxels of {spacing} mm")


def list_dicom(current: Session, folder: Path):
    """Prints the series of a folder, and sets them as the JSON answer."""
    from hybridreg.io.dicom import list_series

    found = list_series(folder)
    current.answer = {
        "series": [
            {
                "id": one.id,
                "number": one.number,
                "modality": one.modality,
                "description": one.description,
                "localizer": one.is_localizer,
                "images": one.slices,
                "size": one.size,
                "spacing_mm": one.spacing,
                "problem": one.problem,
                "volumes": one.volumes,
                "notes": one.notes,
            }
            for one in found
        ]
    }
    for one in found:
        current.say(str(one))
        if one.problem:
            current.say(f"  {one.problem}")
        if one.size and one.spacing and (one.volumes or not one.problem):
            spacing = " x ".join(f"{s:.4g}" for s in one.spacing)
            current.say(f"  {' x '.join(map(str, one.size))} voxels of {spacing} mm")
        for note in one.notes:
            current.say(f"  {note}")
        for number, label in enumerate(one.volumes):
            current.say(f"  frame {number}: {label}")
