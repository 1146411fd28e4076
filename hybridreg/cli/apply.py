"""``hybridreg apply``: a transform on images, labels or points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.refusals import check_files, check_new_file
from hybridreg.cli.session import Session, session

if TYPE_CHECKING:
    from hybridreg.geometry import Grid


def apply(
    transform: Annotated[
        list[Path],
        typer.Option(
            "--transform",
            "-t",
            help="Transform file, fixed to moving; of several the last is applied first.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    reference: Annotated[
        Path | None,
        typer.Option(
            "--fixed",
            "-f",
            help="Image whose grid the result is sampled on; of --points, the image they lie in.",
        ),
    ] = None,
    moving: Annotated[
        Path | None,
        typer.Option(
            "--moving", "-m", help="Image or label map to resample; every frame of a time series."
        ),
    ] = None,
    fixed_frame: options.FixedFrame = None,
    moving_frame: options.MovingFrame = None,
    points: Annotated[
        Path | None,
        typer.Option(
            help="Points to map, fixed to moving, instead of an image; written as --out ends: "
            ".csv, .fcsv, .mrk.json or .txt (elastix)."
        ),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="The input is a label map: nearest neighbor.")
    ] = False,
    inverse: Annotated[
        bool,
        typer.Option(
            "--inverse",
            help="Use the inverse: fixed images onto the moving grid, points moving to fixed.",
        ),
    ] = False,
    interpolation: options.Interpolated = options.Interpolation.linear,
    default_value: Annotated[
        float | None,
        typer.Option(
            help="Value outside the moving image.",
            show_default="lowest of the moving image, as register; 0 for labels",
        ),
    ] = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Resample an image or label map through a transform, or map points by it."""
    with session(as_json=json, quiet=quiet) as current:
        if (points is None) == (moving is None):
            raise ValueError("give either --moving (an image or label map) or --points")
        if moving is not None and reference is None:
            raise ValueError("resampling needs --fixed: the image whose grid the result gets")
        check_new_file(out, overwrite=overwrite)
        check_files(transform, reference, moving, points)
        current.limit_threads(threads)
        from hybridreg.io.images import read_image, read_labels, write_image
        from hybridreg.io.landmarks import landmark_writer
        from hybridreg.io.series import check_series_path, timing_of
        from hybridreg.io.transforms import read_transform
        from hybridreg.transforms import compose
        from hybridreg.warping import warp

        if points is not None:
            landmark_writer(out)  # raises for an unknown file type before any work
        elif len(transform) == 1:
            _check_side(transform[0], moving, inverse=inverse)
        total = compose(*[read_transform(path) for path in transform])
        if inverse:
            total = total.inverse()
        if points is not None:
            grid = None if reference is None else read_image(reference, frame=fixed_frame).grid
            _map_points(current, total, points, out, grid)
        else:
            timing = None if moving_frame is not None else timing_of(moving)
            if timing is not None:
                check_series_path(out)
            onto = read_image(reference, frame=fixed_frame).grid
            how = {"onto": onto, "interpolation": interpolation, "default": default_value}
            current.answer = {"out": str(out), "size": onto.size, "spacing_mm": onto.spacing}
            if timing is not None:
                _resample_series(moving, total, out, timing, labels=labels, **how)
                current.answer |= {"frames": timing.count, "frame_spacing": timing.spacing}
            else:
                read = read_labels if labels else read_image
                write_image(out, warp(read(moving, frame=moving_frame), total, **how))
        current.say(f"wrote {out}")


def _resample_series(moving: Path, transform, out: Path, timing, *, labels: bool, default, **how):
    """Resamples every frame through the transform, sampled once, with one value outside for all."""
    from hybridreg import progress
    from hybridreg.io.series import read_series, write_series
    from hybridreg.transforms import DisplacementField
    from hybridreg.warping import lowest, warp

    frames = read_series(moving, labels=labels)
    field = DisplacementField.sampled(transform, how["onto"])
    if default is None:
        default = min(lowest(frame).min().item() for frame in frames)
    for number, frame in enumerate(frames):
        progress.report(number / len(frames), f"frame {number + 1} of {len(frames)}")
        frames[number] = warp(frame, field, default=default, **how)
    write_series(out, frames, timing)


def _check_side(transform: Path, moving: Path, *, inverse: bool):
    """Refuses to resample the wrong image of a registration through its transform or inverse."""
    from hybridreg.io.output import registered_side

    side, wanted = registered_side(transform, moving), "fixed" if inverse else "moving"
    if side not in (None, wanted):
        raise ValueError(
            f"the image to resample is the {side} image of this registration (by its hash), which "
            f"only the {'transform itself' if inverse else 'inverse'} resamples: "
            f"{'leave out' if inverse else 'give'} --inverse, or exchange the images"
        )


def _map_points(current: Session, transform, points: Path, out: Path, grid: Grid | None):
    from dataclasses import replace

    from hybridreg.io.landmarks import read_landmarks, write_landmarks

    landmarks = read_landmarks(points, grid=grid)
    moved = replace(landmarks, points=transform(landmarks.points))
    write_landmarks(out, moved)
    distance = (moved.points - landmarks.points).norm(dim=-1)
    current.answer = {
        "out": str(out),
        "points": len(distance),
        "mean_displacement_mm": distance.mean().item(),
    }
