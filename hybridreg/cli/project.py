"""``hybridreg project``: projects a CT to a digitally reconstructed radiograph of a C-arm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.refusals import check_files, check_new_file
from hybridreg.cli.session import session
from hybridreg.io.formats import WRITTEN_VOLUMES, beside, ending_of

if TYPE_CHECKING:
    from hybridreg.transforms import AffineTransform


def project(
    ct: Annotated[Path, typer.Option("--input", "-i", help="CT in HU: a file or a DICOM folder.")],
    geometry: Annotated[
        Path, typer.Option("--geometry", "-g", help="TOML file of detector and X-ray source.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Radiograph to write; beside it go its geometry and its pose."
        ),
    ],
    pose: Annotated[
        str,
        typer.Option(
            help="Transform file, C-arm to CT, or rx,ry,rz,tx,ty,tz in degrees and mm "
            "about --isocenter."
        ),
    ] = "0,0,0,0,0,0",
    isocenter: Annotated[
        str | None,
        typer.Option(
            help="Point x,y,z of the CT, in LPS mm, that a pose of zeros puts at the isocenter.",
            show_default="middle of the CT",
        ),
    ] = None,
    calcium: Annotated[
        float,
        typer.Option(min=0.0, help="Contrast of bone: above 1 for rays softer than the CT's."),
    ] = 1.0,
    mu: Annotated[
        bool, typer.Option("--mu", help="The input is linear attenuation per mm, not HU.")
    ] = False,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Project a CT to a radiograph (DRR), in line integrals of its attenuation."""
    with session(as_json=json, quiet=quiet) as current:
        numbers = _numbers(pose, 6)
        middle = None if isocenter is None else _numbers(isocenter, 3)
        if isocenter is not None and middle is None:
            raise ValueError(f"--isocenter is a point x,y,z in LPS mm; found {isocenter!r}")
        if isocenter is not None and numbers is None:
            raise ValueError("--isocenter belongs to a pose of six numbers: a file has its own")
        check_files(ct, geometry, None if numbers else pose)
        if ending_of(out) not in WRITTEN_VOLUMES:
            raise ValueError(f"{out}: radiographs are written as {', '.join(WRITTEN_VOLUMES)}")
        files = {"out": out, "geometry": beside(out, ".toml"), "pose": beside(out, ".tfm")}
        if files["geometry"].resolve() == geometry.resolve():
            raise ValueError(f"{geometry} would be written over: give --out another name")
        for path in files.values():
            check_new_file(path, overwrite=overwrite)
        current.limit_threads(threads)
        from hybridreg.checks import check_ct, check_view
        from hybridreg.drr import Projector, attenuation
        from hybridreg.io.images import read_image
        from hybridreg.io.radiographs import read_geometry, write_radiograph
        from hybridreg.io.transforms import write_transform
        from hybridreg.poses import pose as from_numbers

        detector = read_geometry(geometry)
        image = read_image(ct)
        check_ct(image.grid)
        if numbers:
            at = from_numbers(numbers, image.grid.center.tolist() if middle is None else middle)
        else:
            at = _from_file(Path(pose))
        check_view(detector, image.grid, at)
        volume = image if mu else attenuation(image, calcium=calcium)
        radiograph = Projector(volume).radiograph(detector, at)
        if not radiograph.data.any():
            raise ValueError("no ray meets the CT: check the pose, the geometry and --isocenter")
        write_radiograph(out, radiograph)
        write_transform(files["pose"], at)
        current.answer = {name: str(path) for name, path in files.items()}
        current.answer |= {
            "size": detector.grid.size[:2],
            "largest_integral": radiograph.data.max().item(),
        }
        current.say(
            f"wrote {out}, its geometry {files['geometry'].name} and its pose {files['pose'].name}"
        )


def _numbers(text: str, count: int) -> list[float] | None:
    """``count`` numbers separated by commas; None for any other text."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return found if len(found) == count else None


def _from_file(path: Path) -> AffineTransform:
    from hybridreg.io.transforms import read_transform
    from hybridreg.transforms import AffineTransform, compose

    found = compose(read_transform(path))
    if not isinstance(found, AffineTransform) or len(found.translation) != 3:
        raise ValueError(f"{path}: a pose is one rigid transform in 3D; this is another kind")
    return found
