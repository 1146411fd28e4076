"""One conversation with the child: images in, transforms out, failures explained."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hybridreg import progress
from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationError, TraceEntry
from hybridreg.methods.elastix import log
from hybridreg.methods.elastix.job import write_job
from hybridreg.methods.elastix.parameter_maps import Parameters
from hybridreg.methods.elastix.process import ChildDied, worker
from hybridreg.methods.elastix.worker import LOG
from hybridreg.transforms import Transform


class Run(NamedTuple):
    """What elastix gave: a transform parameter map for each stage, the trace, and its whole log."""

    maps: list[Mapping[str, Sequence[str]]]
    trace: tuple[TraceEntry, ...]
    log: str


def run(
    pair: ImagePair,
    stages: Sequence[Parameters],
    initial: Transform,
    *,
    threads: int | None,
    timeout_s: float | None,
) -> Run:
    """Runs elastix on a pair, reporting its progress. RegistrationError with the cause."""
    with tempfile.TemporaryDirectory(prefix="hybridreg-elastix-") as name:
        folder = Path(name)
        job = write_job(folder, pair, stages, initial)
        journal = log.Journal(folder / LOG, stages)

        def watch():
            journal.read()
            progress.report(journal.fraction, journal.doing)

        def ask() -> dict:
            return worker(threads).ask(job, timeout_s=timeout_s, meanwhile=watch)

        try:
            try:
                answer = ask()
            except ChildDied:
                if (folder / LOG).is_file():
                    raise
                answer = ask()  # the child was already ending when it was asked: take a fresh one
        except TimeoutError:
            answer = {"failure": _TOO_LONG.format(seconds=timeout_s)}
        except ChildDied as died:
            began = (folder / LOG).is_file()
            answer = {"failure": (_CRASHED if began else _NOT_STARTED).format(how=died)}
        journal.read()
        text = _text(folder / LOG)
    if failure := _failure(answer, text):
        raise RegistrationError(f"elastix ({journal.doing}) {failure}", log.tail(text))
    return Run(answer["maps"], tuple(journal.trace), text)


_TOO_LONG = (
    "was still busy after {seconds:g} s and was stopped: allow it more time, or ask for fewer "
    "iterations or samples"
)
_NOT_STARTED = "did not start ({how}): is itk-elastix installed for this Python?"
_CRASHED = (
    "crashed ({how}). Does the computer have enough memory for images of this size? Some "
    "components crash on images that they do not fit: try another metric, sampler or optimizer"
)


def _failure(answer: Mapping, text: str) -> str | None:
    """What went wrong and what to do; None where nothing did."""
    if "failure" in answer:
        return answer["failure"]
    if "error" in answer:
        said = log.cause(text) or answer["error"]
    elif not all(map(_is_finite, answer["maps"])):
        said = "its transform has numbers that are not finite"
    else:
        return None
    return f"failed: {said}. What to do: {log.advice(said)}"


def _is_finite(parameters: Mapping[str, Sequence[str]]) -> bool:
    return all(math.isfinite(float(value)) for value in parameters["TransformParameters"])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
