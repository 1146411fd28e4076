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
        path = Path(name) / LOG
        job = write_job(Path(name), pair, stages, initial)
        journal = log.Journal(path, stages)

        def watch():
            journal.read()
            progress.report(journal.fraction, journal.doing)

        answer: dict = {}
        try:
            answer = worker(threads).ask(job, timeout_s=timeout_s, meanwhile=watch)
        except (TimeoutError, ChildDied) as error:
            answer["lost"] = error
        journal.read()
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    failure = _failure(answer, text, doing=journal.doing, timeout_s=timeout_s)
    if failure is not None:
        raise RegistrationError(failure, log.tail(text))
    return Run(answer["maps"], tuple(journal.trace), text)


def _failure(answer: dict, text: str, *, doing: str, timeout_s: float | None) -> str | None:
    """What went wrong and what to do; None where nothing did."""
    lost = answer.get("lost")
    if isinstance(lost, TimeoutError):
        return (
            f"elastix was still busy ({doing}) after {timeout_s:g} s and was stopped: allow it "
            "more time, or ask for fewer iterations or samples"
        )
    if lost is not None and not text:
        return f"elastix did not start ({lost}): is itk-elastix installed for this Python?"
    if lost is not None:
        return (
            f"elastix crashed ({doing}): {lost}. Does the computer have enough memory for images "
            "of this size? Some components crash on images they do not fit: try another metric, "
            "sampler or optimizer"
        )
    if "error" in answer:
        said = log.cause(text) or answer["error"]
        return f"elastix failed ({doing}): {said}. What to do: {log.advice(said)}"
    if not all(_is_finite(parameters) for parameters in answer["maps"]):
        return (
            f"elastix failed ({doing}): its transform has numbers that are not finite. What to do: "
            f"{log.advice('not finite')}"
        )
    return None


def _is_finite(parameters: Mapping[str, Sequence[str]]) -> bool:
    return all(math.isfinite(float(value)) for value in parameters["TransformParameters"])
