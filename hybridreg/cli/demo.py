"""``hybridreg demo``: a phantom head registered before one's eyes, with its true error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridreg.cli import options
from hybridreg.cli.session import Session, session


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path(
        "hybridreg-demo"
    ),
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
):
    """Register a phantom head, CT to MR and MR to MR, print the true error, and fuse CT with MR."""
    with session(as_json=json, quiet=quiet) as current:
        from hybridreg.io.output import check_output

        parts = {"rigid": out / "ct-to-t1-rigid", "bspline": out / "t1-to-t1-deformable"}
        for folder in parts.values():
            check_output(folder, overwrite=overwrite)
        current.limit_threads(threads)
        for number, (method, folder) in enumerate(parts.items()):
            from hybridreg import progress

            with progress.within(number / 2, (number + 1) / 2):
                current.answer[method] = _run(current, method, folder, threads, overwrite)


def _run(current: Session, method: str, folder: Path, threads: int | None, overwrite: bool) -> dict:
    from hybridreg.config import load_method, with_settings
    from hybridreg.fusing import DEFAULT_RULE
    from hybridreg.io.output import FUSED
    from hybridreg.phantoms import head_case
    from hybridreg.pipeline import run

    if method == "rigid":
        what = "CT to T1, rigid: turned by 8, -5 and 12 degrees, shifted by 14 mm"
        case = head_case(
            fixed="ct", moving="t1", angles_deg=(8.0, -5.0, 12.0), translation_mm=(9.0, -6.0, 9.0)
        )
    else:
        what = "T1 to T1, deformable: bent smoothly by up to 8 mm"
        case = head_case(fixed="t1", moving="t1", deformation_mm=8.0)
    current.say(what)
    rule = DEFAULT_RULE if method == "rigid" else None  # two images of one contrast add nothing
    outcome = run(case, with_settings(load_method(method), threads=threads), fuse=rule)
    outcome.save(folder, overwrite=overwrite)
    error = outcome.scores[1].to_dict()["truth"]
    before = outcome.scores[0].to_dict()["truth"]
    current.say(
        f"  error against the truth, mean over the head: {before['mean_mm']:.2f} mm before, "
        f"{error['mean_mm']:.2f} mm after (95th percentile {error['p95_mm']:.2f} mm); "
        f"registered in {outcome.times_s['register']:.0f} s"
    )
    if outcome.fused:
        current.say(f"  fused by {rule} into one image: {folder / FUSED}")
    current.say(f"  open {folder / 'report.html'}")
    return {"folder": str(folder), "before": before, "after": error}
