"""elastix's log: progress, convergence of the metric, and causes of failure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hybridreg.methods.base import TraceEntry
from hybridreg.methods.elastix.parameter_maps import (
    Parameters,
    iterations,
    metric_names,
    stage_name,
)
from hybridreg.methods.elastix.worker import STAGE

TAIL_LINES = 60


class Journal:
    """A log that is read while it is being written.

    stages: the parameter maps of the registration, for the total number of iterations.
    """

    def __init__(self, path: Path, stages: Sequence[Parameters]):
        self.trace: list[TraceEntry] = []
        self._path = path
        self._position = 0
        self._stages = stages
        self._names = [metric_names(stage) for stage in stages]
        self._iterations = [iterations(stage) for stage in stages]
        self._stage = self._level = 0
        self._done = 0  # iterations of this level
        self._columns: list[tuple[int, str]] = []  # those with metrics: where, and what

    def read(self):
        """Reads the lines written since the last call."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            self._take(line)

    def _take(self, line: str):
        if line[:1].isdigit():
            cells = line.split("\t")
            if line.startswith("1:ItNr"):
                self._columns = list(self._metrics(cells))
            elif self._columns and cells[0].isdigit():
                self._add(cells)
        elif line.startswith(STAGE):
            self._stage, self._level, self._done = int(line.removeprefix(STAGE)), 0, 0
        elif line.startswith("Resolution: "):
            self._level, self._done = int(line.split()[1]), 0
        elif line.startswith("Time spent in resolution"):
            self._columns = []

    def _metrics(self, columns: Sequence[str]):
        names = self._names[self._stage]
        for place, column in enumerate(columns):
            if column == "2:Metric":
                yield place, "metric"
            elif part := re.fullmatch(r"2:Metric(\d+)", column):
                yield place, names[int(part[1])]
            elif column.startswith("ExactMetric"):
                yield place, "exact metric" + column.removeprefix("ExactMetric")

    def _add(self, cells: Sequence[str]):
        try:
            terms = {name: float(cells[place]) for place, name in self._columns}
        except (IndexError, ValueError):
            return  # not a line of the table
        stage = stage_name(self._stages[self._stage])
        self.trace.append(TraceEntry(stage, self._level, int(cells[0]), terms))
        self._done = int(cells[0]) + 1

    @property
    def fraction(self) -> float:
        """The fraction of all iterations done."""
        before = sum(map(sum, self._iterations[: self._stage]))
        before += sum(self._iterations[self._stage][: self._level])
        total = sum(map(sum, self._iterations))
        return (before + self._done) / max(total, 1)

    @property
    def doing(self) -> str:
        """Such as "B-spline, level 2 of 3"."""
        name = stage_name(self._stages[self._stage])
        return f"{name}, level {self._level + 1} of {len(self._iterations[self._stage])}"


def unused(text: str) -> list[set[str]]:
    """The names of the parameters that elastix did not read, for each stage that was completed."""
    stages = re.split(rf"(?m)^{STAGE}\d+$", text)[1:]
    return [set(re.findall(r"(?m)^  Unused parameter: (\S+)", stage)) for stage in stages]


def asked_for(text: str) -> set[str]:
    """The names of the parameters that elastix looked for and did not find."""
    return set(re.findall(r'(?m)^WARNING: The parameter "(\w+)"', text))


def tail(text: str) -> str:
    """The last lines, without the warnings for each parameter that keeps its default."""
    text = re.sub(r'WARNING: The parameter "\w+", requested.*\n.*default value.*\n', "", text)
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def cause(text: str) -> str:
    """The error message of elastix; empty if there is none."""
    found = re.findall(r"(?m)^Description: (.*(?:\n(?!\s*\n|Error occurred).*)*)", text)
    found = found or re.findall(r"(?m)^(?:ERROR: |std::exception: |Error: )(.+)", text)
    if not found:
        return ""
    words = re.sub(r"(?:ITK )?ERROR: |\w+\(0x[0-9a-f]+\): ", "", found[0])
    return " ".join(words.split()).rstrip(".")


def advice(text: str) -> str:
    """What to do about an error message, if known."""
    for pattern, what in _ADVICE.items():
        if re.search(pattern, text):
            return what
    return "see the end of elastix's log"


_ADVICE = {
    "No space left on device": (
        "free space in the folder for temporary files, or name another in TMPDIR"
    ),
    "Too many samples map outside moving image buffer": (
        "the images or masks overlap too little: start from a transform that aligns them "
        "(initial='centers' or 'mass'), give a fixed mask of the common region "
        "(fixed_mask='auto' for the patient), enlarge the moving mask, or choose a smaller "
        "MaximumStepLength or RequiredRatioOfValidSamples"
    ),
    "No valid voxels|Could not find enough image samples|bounding box lies entirely out": (
        "the fixed mask is too small or too thin: enlarge it, crop the fixed image to it, set "
        '(ErodeMask "false"), or use (ImageSampler "RandomSparseMask")'
    ),
    "less than 4|minimum of four pixels": (
        "the image has too few slices for its pyramid: use a thicker volume, or register in 2D"
    ),
    "Casting entry number|should be a boolean": (
        "correct the value of this parameter in the parameter file"
    ),
    "could not be created|is not installed": (
        "the parameter file names a component that this build of elastix does not have: correct "
        "the name or choose another one"
    ),
    "Schedule": "give the schedule one number for each level, or one for each level and axis",
    "Number[Oo]f\\w+ (?:should|can not)|number of (?:fixed|moving) image": (
        "the parameter file has another number of components than metrics: name one component for "
        "all metrics, or one for each"
    ),
    "not finite|nan": (
        "the optimization diverged: choose a smaller MaximumStepLength, or scale the intensities"
    ),
}
