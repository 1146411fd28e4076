"""``hybridreg demo``: registers a phantom head and prints the true error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridreg import progress
from hybridreg.cli import options
from hybridreg.cli.session import Session, session

_WHAT = {
    "rigid": "CT to T1, rigid: rotated by 8, -5 and 12 degrees, translated by 14 mm",
    "bspline": "T1 to T1, deformable: deformed smoothly by up to 8 mm",
}
_PARTS = {  # names of the printed times, and the parts of a run that they sum
    "phantom": ("phantom",),
    "registration": ("register",),
    "moved image and inverse": ("resample", "jacobian", "invert"),
    "scores": ("check", "evaluate", "similarity", "decompose"),
    "verdict": ("verdict",),
    "fusion": ("fuse",),
    "report and files": ("save",),
}


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
        from hybridreg.case_log import CaseLog
        from hybridreg.io.output import check_output

        parts = {"rigid": out / "ct-to-t1-rigid", "bspline": out / "t1-to-t1-deformable"}
        for folder in parts.values():
            check_output(folder, overwrite=overwrite)
        record = CaseLog()
        with record.timing("all"):
            with record.timing("start"):
                current.limit_threads(threads)
                import hybridreg.pipeline  # noqa: F401  loads torch and the rest
            for number, (method, folder) in enumerate(parts.items()):
                with progress.within(number / 2, (number + 1) / 2):
                    current.answer[method] = _run(current, method, folder, threads, overwrite)
        total, start = record.times_s["all"], record.times_s["start"]
        current.answer["times_s"] = {"start": start, "all": total}
        current.say(f"{_seconds(total)} in all, {_seconds(start)} of it to load the libraries")


def _run(current: Session, method: str, folder: Path, threads: int | None, overwrite: bool) -> dict:
    from hybridreg.case_log import CaseLog
    from hybridreg.config import load_method, with_settings
    from hybridreg.io.output import FUSED
    from hybridreg.pipeline import run
    from hybridreg.registry import DEFAULT_RULE

    record = CaseLog()
    current.say(_WHAT[method])
    rule = DEFAULT_RULE if method == "rigid" else None  # two images of one contrast add nothing
    with record.timing("all"):
        with record.timing("phantom"):
            case = _case(method)
        outcome = run(case, with_settings(load_method(method), threads=threads), fuse=rule)
        with record.timing("save"):
            outcome.save(folder, overwrite=overwrite)
    error = outcome.scores[1].to_dict()["truth"]
    before = outcome.scores[0].to_dict()["truth"]
    current.say(
        f"  error against the truth, mean over the head: {before['mean_mm']:.2f} mm before, "
        f"{error['mean_mm']:.2f} mm after (95th percentile {error['p95_mm']:.2f} mm)"
    )
    times = record.times_s | outcome.times_s
    current.say(f"  {_spent(times)}")
    if outcome.fused:
        current.say(f"  fused by {rule} into one image: {folder / FUSED}")
    current.say(f"  open {folder / 'report.html'}")
    return {"folder": str(folder), "before": before, "after": error, "times_s": times}


def _case(method: str):
    from hybridreg.phantoms import head_case

    if method == "rigid":
        pose = {"angles_deg": (8.0, -5.0, 12.0), "translation_mm": (9.0, -6.0, 9.0)}
        return head_case(fixed="ct", moving="t1", **pose)
    return head_case(fixed="t1", moving="t1", deformation_mm=8.0)


def _spent(times: dict[str, float]) -> str:
    """How the time was spent; time outside all parts is the rest."""
    spent = {name: sum(times.get(part, 0.0) for part in parts) for name, parts in _PARTS.items()}
    spent["the rest"] = times["all"] - sum(spent.values())
    shown = ", ".join(f"{name} {_seconds(s)}" for name, s in spent.items() if s >= 0.5)
    return f"{_seconds(times['all'])}: {shown}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s"
