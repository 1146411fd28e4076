"""One registration by the child process: images in, transforms out, failures explained."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hybridreg import progress
from hybridreg.cases import ImagePair
from hybridreg.io.working_folder import working_folder
from hybridreg.methods.base import RegistrationError, TraceEntry
from hybridreg.methods.elastix import log
from hybridreg.methods.elastix.job import write_job
from hybridreg.methods.elastix.parameter_maps import Parameters
from hybridreg.methods.elastix.process import ChildDied, worker
from hybridreg.methods.elastix.worker import LOG
from hybridreg.transforms import Transform

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """The output of elastix: a transform parameter map for each stage, the trace, and its log."""

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
    with working_folder("hybridreg-elastix-") as folder:
        try:
            job = write_job(folder, pair, stages, initial)
        except OSError as error:
            raise RegistrationError(
                f"the working folder of elastix in {folder.parent} could not be filled ({error}): "
                "free space there, or name another place in the environment variable TMPDIR"
            ) from error
        try:
            answer = _asked(job, stages, threads=threads, timeout_s=timeout_s)
        except ChildDied as died:
            # Crashes of elastix depend on timing (threads, memory): a second run often succeeds.
            # A child that was already ending had not started the job: nothing to report.
            level = logging.WARNING if (folder / LOG).is_file() else logging.INFO
            logger.log(level, "elastix crashed (%s) and was started once more", died)
            (folder / LOG).unlink(missing_ok=True)
            answer = _asked_again(job, stages, threads=threads, timeout_s=timeout_s)
        journal = log.Journal(folder / LOG, stages)
        journal.read()
        text = _text(folder / LOG)
    if failure := _failure(answer, text):
        raise RegistrationError(f"elastix ({journal.doing}) {failure}", log.tail(text))
    return Run(answer["maps"], tuple(journal.trace), text)


def _asked(
    job: Mapping, stages: Sequence[Parameters], *, threads: int | None, timeout_s: float | None
) -> Mapping:
    """The child's answer, or that it timed out. ChildDied if it crashes."""
    journal = log.Journal(Path(job["folder"]) / LOG, stages)

    def watch():
        journal.read()
        progress.report(journal.fraction, journal.doing)

    try:
        return worker(threads).ask(job, timeout_s=timeout_s, meanwhile=watch)
    except TimeoutError:
        return {"failure": _TOO_LONG.format(seconds=timeout_s)}


def _asked_again(job: Mapping, stages: Sequence[Parameters], **limits) -> Mapping:
    try:
        return _asked(job, stages, **limits)
    except ChildDied as died:
        began = (Path(job["folder"]) / LOG).is_file()
        return {"failure": (_CRASHED if began else _NOT_STARTED).format(how=died)}


_TOO_LONG = (
    "was still busy after {seconds:g} s and was stopped: allow it more time, or ask for fewer "
    "iterations or samples"
)
_NOT_STARTED = "did not start ({how}): is itk-elastix installed for this Python?"
_CRASHED = (
    "crashed twice ({how}). Does the computer have enough memory for images of this size? Some "
    "components crash on images that they do not fit: try another metric, sampler or optimizer"
)


def _failure(answer: Mapping, text: str) -> str | None:
    """What went wrong and what to do; None if nothing did."""
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
