"""Runs every method on every case, and keeps what is there already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from hybridreg.cluster import Ended, Limits, Local, Place, run
from hybridreg.comparison.checks import check
from hybridreg.comparison.contenders import Contender, Source, contenders
from hybridreg.comparison.entries import Entry, entry_of_result, read_entry, write_entry
from hybridreg.comparison.jobs import Conditions, Job, compute, input_files
from hybridreg.comparison.results import Comparison, write_comparison
from hybridreg.comparison.scores import headline
from hybridreg.comparison.starts import capture_mm
from hybridreg.io.files import errors_of, named_by_role, sha256_of_all, whole_file
from hybridreg.io.output import COMPARISON, write_json
from hybridreg.io.tables import CaseRow, absolute, read_case_table, without_files
from hybridreg.records import COLUMNS, Record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How results are compared.

    reference: the method that the others are tested against; None for the first that was asked for.
    score: the main score, a name in ``records.HEADLINES``; None for the first measured of Dice,
    landmark error, error of the transform and mutual information. margin: by how much, in units of
    the main score, a method may be worse than the reference and still count as not inferior.
    starts: perturbed starts of every case, for the capture range.
    """

    reference: str | None = None
    score: str | None = None
    margin: float | None = None
    starts: int = 0

    def __post_init__(self):
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"the margin must be more than 0, found {self.margin}")
        if self.starts < 0:
            raise ValueError(f"the number of starts must not be negative, found {self.starts}")


def compare(
    cases: str | Path | Sequence[CaseRow],
    methods: Sequence[Source] | Mapping[str, Source],
    folder: str | Path,
    *,
    settings: Settings = Settings(),
    transforms: Mapping[str, str] | None = None,
    seed: int | None = None,
    device: str = "cpu",
    initial: str | Path | None = None,
    report: bool = True,
    retry: bool = False,
    place: Place = Local(),
    limits: Limits = Limits(),
    callback: Callable[[Ended], None] = lambda ended: None,
    announce: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """Runs every method on every case, and writes records, tables and a page into a folder.

    cases: a table, or its rows. methods, transforms: see ``contenders``; the rows "identity" and
    "rigid" are always there. seed, device, initial: as of ``pipeline.register``. report: write the
    page of every case and method, and pictures of the worst. retry: run failed ones again.
    announce: called with the number of registrations to come, notes having been logged before.

    What was finished from the same inputs with the same settings is kept, failures too. A method
    that fails, crashes or exceeds the limits has a record with the reason. ValueError before
    anything runs for methods and cases that cannot be compared.
    """
    rows = list(cases) if not isinstance(cases, (str, Path)) else read_case_table(cases)
    folder, conditions = Path(folder), Conditions(seed, device, initial, report)
    found, absent = contenders(methods, transforms, seed=seed, device=device)
    found = [_with(each, initial) for each in found]
    settings = _complete(settings, found)
    _check_rows(rows)
    notes = check(rows, found)
    notes += tuple(f"{name} is left out: {reason}" for name, reason in absent.items())
    for note in notes:
        log.warning("%s", note)
    rows = [absolute(row) for row in rows]
    _begin(folder)
    runner = _Runner(folder.resolve(), rows, found, conditions, retry)
    announce(len(runner.pairs) * (1 + settings.starts) - runner.kept)
    try:
        runner.run(place, limits, callback)
        if settings.starts:
            runner.run_starts(settings.starts, place, limits, callback)
    finally:  # also what was done before Ctrl-C
        comparison = Comparison(
            folder, tuple(runner.entries()), tuple(found), notes, asdict(settings), runner.kept
        )
        write_comparison(comparison)
    return comparison


def _with(contender: Contender, initial: str | Path | None) -> Contender:
    """The contender with the initial transform, by name, among its settings."""
    if initial is None:
        return contender
    return replace(contender, settings={**contender.settings, "initial": str(initial)})


def _complete(settings: Settings, found: Sequence[Contender]) -> Settings:
    asked = [each.name for each in found if not each.added]
    name = settings.reference or asked[0]
    if name not in [each.name for each in found]:
        raise ValueError(f"the reference {name!r} is not compared; there are {', '.join(asked)}")
    if settings.score is not None:
        headline(settings.score)
    return replace(settings, reference=name)


def _check_rows(rows: Sequence[CaseRow]):
    if not rows:
        raise ValueError("there are no cases")
    names = [row.name.casefold() for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two cases have the name {twice[0]!r}: each needs its own")
    more = {column for row in rows for column in row.more}
    if taken := sorted(more & {*COLUMNS}):
        raise ValueError(f"the records have columns {', '.join(taken)} already: rename yours")


def _begin(folder: Path):
    """Makes the folder of a comparison, or checks that it is one (ValueError)."""
    with errors_of(folder):
        if folder.exists() and not folder.is_dir():
            raise ValueError("this is a file; the output is a folder: choose another name")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / COMPARISON).is_file():
            raise ValueError(
                f"this folder has files but no {COMPARISON}, so it holds no comparison: "
                "choose another "
                "or an empty one"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / COMPARISON).is_file():
            with whole_file(folder / COMPARISON) as partial_file:
                write_json(partial_file, {"schema": 1})


class _Runner:
    """The jobs of a comparison, and the entries that they leave."""

    def __init__(
        self,
        root: Path,
        rows: Sequence[CaseRow],
        found: Sequence[Contender],
        conditions: Conditions,
        retry: bool,
    ):
        self.root, self.conditions = root, conditions
        self.pairs = [(row, each) for row in rows for each in found]
        self.inputs = _hashes(self.pairs, conditions.initial)
        self.known: dict[tuple[str, str], Entry] = {}
        for row, each in self.pairs:
            entry = self._finished(row, each)
            if entry is not None and not (retry and entry.record.status == "failed"):
                self.known[row.name, each.name] = entry
        self.kept = len(self.known)

    def run(self, place: Place, limits: Limits, callback: Callable[[Ended], None]):
        todo = {
            f"{row.name}/{each.name}": Job(row, each, self._own_inputs(row, each))
            for row, each in self.pairs
            if (row.name, each.name) not in self.known
        }
        self._run(todo, self._keep, place, limits, callback)

    def run_starts(
        self, count: int, place: Place, limits: Limits, callback: Callable[[Ended], None]
    ):
        todo = {
            f"{row.name}/{each.name}/start {number}": Job(row, each, {}, number)
            for row, each in self.pairs
            if not each.pattern and (entry := self.known.get((row.name, each.name)))
            if entry.record.status == "done"
            for number in range(count)
            if str(number) not in entry.starts
        }
        self._run(todo, self._keep_start, place, limits, callback)

    def entries(self) -> Iterator[Entry]:
        """One of every case and method, in their order; "missing" where it was not reached."""
        for row, each in self.pairs:
            known = {"subject": row.subject or row.name, "more": row.more}
            entry = self.known.get((row.name, each.name))
            if entry is None:
                missing = {"status": "missing", "reason": "not reached", "config": each.config}
                entry = Entry(Record(row.name, method=each.name, **missing), {})
            elif (reached := capture_mm(entry.starts)) is not None:
                known["scores"] = {**entry.record.scores, "capture_mm": reached}
            yield replace(entry, record=replace(entry.record, **known))

    def _run(self, todo: Mapping[str, Job], keep, place, limits, callback):
        def on_end(ended: Ended):
            job = todo[ended.name]
            made = job.contender.transform_of(job.row)
            reason = without_files(ended.reason, job.row)
            reason = named_by_role(reason, {str(made): "the transform"} if made else {})
            keep(job, replace(ended, reason=reason))
            callback(replace(ended, reason=reason))

        run(
            partial(compute, self.root, self.conditions), todo, place=place, limits=limits,
            callback=on_end,
        )  # fmt: skip

    def _keep(self, job: Job, ended: Ended):
        row, each = job.row, job.contender
        used = {
            "total_s": ended.seconds,
            "cpu_s": ended.cpu_s or None,
            "peak_memory_mb": round(ended.peak_memory_bytes / 1e6) or None,
        }
        known = {"subject": row.subject or row.name, "more": row.more, **used}
        known |= {"register_s": None} if each.pattern else {}  # it was only read
        if ended.failed:
            failure = {"status": "failed", "reason": ended.reason, "method": each.name}
            record = Record(row.name, config=each.config, **failure, **known)
            entry = Entry(record, self._wanted(row, each))
        else:
            entry = entry_of_result(self.root, row.name, each.name, **known)
        self._remember(entry)

    def _keep_start(self, job: Job, ended: Ended):
        entry = self.known[job.row.name, job.contender.name]
        found = ended.result or {"start_mm": None, "end_mm": None}
        start = (found["start_mm"], found["end_mm"])
        self._remember(replace(entry, starts={**entry.starts, str(job.start): start}))

    def _remember(self, entry: Entry):
        write_entry(self.root, entry)
        self.known[entry.record.name, entry.record.method] = entry

    def _finished(self, row: CaseRow, each: Contender) -> Entry | None:
        """The entry made from the same inputs with the same settings, if any."""
        for read in (read_entry, entry_of_result):
            entry = read(self.root, row.name, each.name)
            if entry and entry.record.config == each.config:
                if entry.inputs == self._wanted(row, each):
                    return entry
        return None

    def _wanted(self, row: CaseRow, each: Contender) -> dict[str, str]:
        return {**self.inputs[row.name], **self._own_inputs(row, each)}

    def _own_inputs(self, row: CaseRow, each: Contender) -> dict[str, str]:
        return self.inputs[f"{row.name}/{each.name}"] if each.pattern else {}


def _hashes(
    pairs: Sequence[tuple[CaseRow, Contender]], initial: str | Path | None
) -> dict[str, dict[str, str]]:
    """The hashes of the inputs by case, and of transforms made elsewhere by "case/method"."""
    files: dict[str, dict[str, Path]] = {}
    for row, each in pairs:
        files.setdefault(row.name, input_files(row, initial))
        if each.pattern:
            path = each.transform_of(row)
            files[f"{row.name}/{each.name}"] = {"transform": path} if path.is_file() else {}
    hashes = sha256_of_all(path for paths in files.values() for path in paths.values())
    return {
        key: {role: hashes[path] for role, path in paths.items()} for key, paths in files.items()
    }
