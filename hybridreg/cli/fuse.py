"""``hybridreg fuse``: two aligned images in, one image out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.refusals import check_files, check_name, check_new_file
from hybridreg.cli.session import Session, session
from hybridreg.registry import DEFAULT_RULE, RULES

_WINDOW = "auto, brain, bone, wide, 'width,level' in HU, 'low..high', percentiles or 8bit."


def fuse(
    fixed: Annotated[Path, typer.Option("--fixed", "-f", help="The one image.")],
    moved: Annotated[
        Path, typer.Option("--moved", "-m", help="The other, aligned and on the same grid.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Fused image: .nii.gz, .mha, .nrrd; 2D also .png.")
    ],
    rule: Annotated[
        str | None,
        typer.Option(
            help="salience, liu-2017, liu-2017-fast, maximum, mean ...; a wrong name lists all.",
            show_default="salience",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Network of the rule: a .safetensors file or the name of packaged weights."
        ),
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(
            help="Fuse slice by slice: axial, coronal or sagittal.", show_default="as a whole"
        ),
    ] = None,
    fixed_window: Annotated[
        str, typer.Option(help=f"Intensity window of the fixed image: {_WINDOW}")
    ] = "auto",
    moved_window: Annotated[
        str, typer.Option(help="Intensity window of the moved image.")
    ] = "auto",
    fixed_mask: Annotated[
        Path | None,
        typer.Option(help="Where the fixed image has data; elsewhere the other is used."),
    ] = None,
    moved_mask: Annotated[Path | None, typer.Option(help="The same for the moved image.")] = None,
    feather_mm: Annotated[
        float, typer.Option(min=0.0, help="Width of the transition at the border of such a mask.")
    ] = 5.0,
    overlay: Annotated[
        str | None,
        typer.Option(
            help="Instead of fusing, overlay the moved image (such as PET) on the fixed one in "
            "color: hot or cold."
        ),
    ] = None,
    opacity: Annotated[
        float, typer.Option(help="Opacity of the overlay where it is brightest.")
    ] = 0.7,
    scores: Annotated[
        bool, typer.Option("--scores", help="Score the result and trivial fusions for comparison.")
    ] = False,
    threads: options.Threads = None,
    keep_identifiers: options.KeepIdentifiers = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Fuse two aligned images into one, with a JSON file that describes how."""
    with session(as_json=json, quiet=quiet) as current:
        if overlay and (rule or weights or slices or scores or fixed_mask or moved_mask):
            raise ValueError(
                "an overlay is not a fusion: leave out --rule, --weights, --slices, masks, --scores"
            )
        check_new_file(out, overwrite=overwrite)
        check_files(fixed, moved, fixed_mask, moved_mask)
        check_name(RULES, rule)
        current.limit_threads(threads)
        from hybridreg.fusion_files import check_fused_path, describe_input, write_fusion
        from hybridreg.io.images import read_image

        check_fused_path(out, overwrite=overwrite)
        paths = {"fixed": fixed, "moved": moved}
        images = {side: read_image(path, color=True) for side, path in paths.items()}
        if out.name.lower().endswith(".png") and images["fixed"].grid.dimension == 3:
            raise ValueError(f"{out}: PNG holds 2D images and these are volumes: write .nii.gz")
        windows = {"fixed_window": fixed_window, "moved_window": moved_window}
        if overlay:
            from hybridreg.fusion_files import overlay_images

            result = overlay_images(**images, **windows, colormap=overlay, opacity=opacity)
        else:
            masks = {"fixed_valid": fixed_mask, "moved_valid": moved_mask}
            how = {"slices": slices, "feather_mm": feather_mm, "scored": scores}
            result = _fused(images, rule, weights, masks, **windows, **how)
            show_fusion(current, result)
        inputs = {
            side: describe_input(path, images[side], keep_identifiers=keep_identifiers)
            for side, path in paths.items()
        }
        sidecar = write_fusion(out, result, inputs=inputs)
        current.answer = {"out": str(out), "sidecar": str(sidecar), **result.summary()}
        current.say(f"wrote {out} and {sidecar.name}")


def _fused(images: dict, rule: str | None, weights: str | None, masks: dict, **how):
    """The fusion by the given or the default rule, with masks read from their files."""
    from hybridreg.fusion_files import fuse_images, network_of
    from hybridreg.io.images import read_mask

    rule = rule or DEFAULT_RULE
    valid = {side: path and read_mask(path) for side, path in masks.items()}
    return fuse_images(**images, **valid, **how, rule=rule, network=network_of(rule, weights))


def show_fusion(current: Session, fusion):
    """Prints how two images were fused, and the scores if there are any."""
    fused = fusion.fused
    current.say(f"fused by {fused.rule}" + (f", {fused.plane} slices" if fused.plane else ""))
    for side, scaling in zip(("fixed", "moved"), fusion.scalings, strict=True):
        current.say(f"  {side}: {scaling}")
    if fused.flicker is not None:
        current.say(f"  steps between slices: {fused.flicker.ratio:.2f} of the larger source's")
    _show_scores(current, fusion)


def _show_scores(current: Session, fusion):
    """Prints the scores of a fusion and of trivial ones, and why some are undefined."""
    if not fusion.scores:
        return
    from hybridreg.fusion_scores import SCORES

    rows = [
        (name, score.better, *(_number(found.values[name]) for found in fusion.scores.values()))
        for name, score in SCORES.items()
    ]
    current.show("", rows, ("score", "better", *fusion.scores))
    reasons = {r: None for found in fusion.scores.values() for r in found.reasons.values()}
    for reason in reasons:
        current.say(f"  a score is undefined: {reason}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
