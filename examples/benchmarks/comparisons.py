"""Methods compared on real images, by `hybridreg compare`: one command for each table.

    HYBRIDREG_DATA=... python examples/benchmarks/comparisons.py brain --peer-cases 2
    HYBRIDREG_DATA=... python examples/benchmarks/comparisons.py hippocampus
    HYBRIDREG_DATA=... python examples/benchmarks/comparisons.py cardiac
    HYBRIDREG_DATA=... python examples/benchmarks/comparisons.py lung

Cases are of test persons alone. Finished registrations are kept in the folder of --out, so a run
can be interrupted, and another method (`--methods`) costs only its own time; the page is
report.html there. Slow methods and those of other packages run on a few cases only (`--peer-cases`,
evenly spaced), in a table of their own with all methods on these cases; `--python` names the Python
of one that needs another. IMPACT compares MIND-SSC. Each registration has one thread, except that
`--threads` gives more; times are those of the machine as loaded as it was.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers import mind_network
from sections import write_section

from hybridreg.cluster import Limits, Local
from hybridreg.comparison import Settings, compare
from hybridreg.comparison.contenders import missing
from hybridreg.comparison.tables import markdown
from hybridreg.comparison.words import sentences
from hybridreg.config import load_method
from hybridreg.io.images import read_labels
from hybridreg.io.output import REPORT
from hybridreg.io.tables import CaseRow

TABLE = Path(__file__).with_suffix(".md")
HEAD = "\n\n".join(["Methods compared on real images", *__doc__.split("\n\n")[1:]])
BRAINS = (1015, 1017, 1036, 1128)
HIPPOCAMPI = range(340, 395)
HEARTS = ("HF-I-40", "HF-NI-04", "HF-NI-31", "HF-NI-36", "HYP-01", "HYP-38", "N-02", "N-40")
FRAMES_A_LEVEL = 20
NETWORK = "mind.pt"  # in the folder of --out
TABLES = {
    "ants-syn CC": {
        "name": "ants-syn",
        "metric": "CC",
        "sampling": 2,
        "iterations": (100, 70, 50, 0),
    },
    "impact MIND": {"name": "impact", "weights": NETWORK},
}
"""Methods with settings other than their own."""
NETWORKS = ("voxelmorph", "unigradicon")
"""Named as absent: their packages come without weights."""


@dataclass(frozen=True)
class Problem:
    """A table: its cases, the methods on all of them, and those on some;
    the first is the reference.
    """

    title: str
    cases: list[CaseRow]
    methods: tuple[str, ...]
    peers: tuple[str, ...] = ()
    margin: float | None = None
    note: str = ""


def brain(data: Path) -> Problem:
    """Every test person onto every other, 1 mm, skull-stripped T1."""
    cases = [brain_case(data, *pair) for pair in itertools.permutations(BRAINS, 2)]
    methods = (
        "brain-fast",
        "affine-fast",
        "greedy",
        "dirnet-brain",
        "quicksilver-brain",
        "brain-mr",
    )
    note = (
        "Mean Dice of about 138 labels; the person of the fixed image is the subject. "
        "All 12 pairs by "
        "`rigid`, `brain-mr`, elastix's default and greedy are in brain_mr.md, by `brain-lddmm` in "
        "lddmm.md."
    )
    peers = ("ants-syn", "ants-syn CC", "convex-adam", *NETWORKS)
    return Problem("Brain", cases, (*methods, "brain-any-contrast"), peers, 0.01, note)


def brain_case(data: Path, fixed: int, moving: int) -> CaseRow:
    folder = data / "oasis_malf35" / "subjects"
    return CaseRow(
        f"{fixed} from {moving}",
        *(folder / f"{person}_SS.nii.gz" for person in (fixed, moving)),
        subject=str(fixed),
        fixed_labels=folder / f"{fixed}_glm.nii.gz",
        moving_labels=folder / f"{moving}_glm.nii.gz",
    )


def hippocampus(data: Path) -> Problem:
    """Every test crop onto the next one."""
    folder = data / "msd_hippocampus"
    found = sorted(int(re.search(r"\d+", path.name)[0]) for path in (folder / "images").iterdir())
    test = [number for number in found if number in HIPPOCAMPI]
    cases = [
        CaseRow(
            f"{fixed} from {moving}",
            *(folder / "images" / f"hippocampus_{number:03}.nii.gz" for number in (fixed, moving)),
            subject=str(fixed),
            fixed_labels=folder / "labels" / f"hippocampus_{fixed:03}.nii.gz",
            moving_labels=folder / "labels" / f"hippocampus_{moving:03}.nii.gz",
        )
        for fixed, moving in itertools.pairwise([*test, test[0]])
    ]
    note = (
        "Mean Dice of the anterior and posterior part. Crops of the left and the right side of one "
        "person may both be here and count as two subjects: who is who is not published."
    )
    methods = ("deformable", "affine-fast", "greedy")
    peers = ("bspline", "ants-syn", "ants-syn CC", "convex-adam", "impact MIND", *NETWORKS)
    return Problem("Hippocampus", cases, methods, peers, 0.01, note)


def cardiac(data: Path) -> Problem:
    """Diastole onto systole, every slice level of the test persons."""
    cases = [case for person in HEARTS for case in frame_pairs(data / "sunnybrook_2d", person)]
    methods = ("cardiac-2d", "deformable-2d", "greedy", "dirnet-cardiac-2d")
    note = "Dice of the blood pool of the left ventricle; 1 pixel is taken as 1 mm."
    return Problem(
        "Cardiac, 2D", cases, methods, ("bspline", "ants-syn", "ants-syn CC"), 0.01, note
    )


def frame_pairs(folder: Path, person: str, *, onto: str = "systole") -> Iterator[CaseRow]:
    """Each slice level with two frames, of which the one with more blood is diastole.

    onto: the phase that is fixed, "systole" or "diastole".
    """
    levels: dict[int, list[Path]] = {}
    for path in sorted((folder / "images").glob(f"SC-{person}-IM-*.png")):
        number = int(re.search(r"-(\d+)\.dcm\.png$", path.name)[1])
        levels.setdefault((number - 1) // FRAMES_A_LEVEL, []).append(path)
    for level, frames in levels.items():
        if len(frames) == 2:
            labels = {path: folder / "labels" / path.name for path in frames}
            fixed, moving = sorted(
                frames, key=lambda path: _blood(labels[path]), reverse=onto == "diastole"
            )
            yield CaseRow(
                f"{person} level {level}",
                fixed,
                moving,
                subject=person,
                fixed_labels=labels[fixed],
                moving_labels=labels[moving],
            )


def _blood(path: Path) -> int:
    return int((read_labels(path).data != 0).sum())


def lung(data: Path) -> Problem:
    """Follow-up onto baseline of one person, by 51 points; with masks."""
    folder = data / "lung_ct_elastix"
    case = CaseRow(
        "followup onto baseline",
        folder / "3DCT_lung_baseline.mha",
        folder / "3DCT_lung_followup.mha",
        subject="1",
        fixed_mask=folder / "3DCT_lung_baseline_mask.mha",
        moving_mask=folder / "3DCT_lung_followup_mask.mha",
        fixed_labels=folder / "3DCT_lung_baseline_mask.mha",
        moving_labels=folder / "3DCT_lung_followup_mask.mha",
        fixed_landmarks=folder / "CT_3D_lung_fixed_point_set_corrected.txt",
        moving_landmarks=folder / "CT_3D_lung_moving_point_set_corrected.txt",
    )
    methods = ("lung-ct", "affine", "bspline", "deformable", "greedy", "ants-syn", "convex-adam")
    note = "One pair, on which `lung-ct` was tuned: it describes this pair and no others."
    return Problem("Lung", [case], methods, (), None, note)


PROBLEMS = {"brain": brain, "hippocampus": hippocampus, "cardiac": cardiac, "lung": lung}
SCORES = {"lung": "tre_mean_mm"}


def spaced(cases: list[CaseRow], count: int | None) -> list[CaseRow]:
    """So many of the cases, evenly spaced; all for None."""
    if count is None or count >= len(cases):
        return cases
    return [cases[number * len(cases) // count] for number in range(count)]


def source_of(name: str, folder: Path, pythons: dict[str, str]) -> str | dict:
    """A method as it is compared: a name, or a table of settings."""
    table = dict(TABLES.get(name, {}))
    tool = table.get("name", name)
    if tool in pythons:
        table |= {"name": tool, "python": pythons[tool]}
    if table.get("weights") == NETWORK:
        table["weights"] = str(mind_network(folder / NETWORK))
    return table or name


def installed(
    methods: Sequence[str], folder: Path, pythons: dict[str, str]
) -> tuple[dict, list[str]]:
    """The methods that can run, and a sentence on each other one."""
    found, absent = {}, []
    for name in methods:
        source = source_of(name, folder, pythons)
        if reason := missing(load_method(source)):
            absent.append(f"{name} is left out: {reason}")
        else:
            found[name] = source
    return found, absent


def run(name: str, problem: Problem, methods: Sequence[str], cases: list[CaseRow], options) -> str:
    pythons = dict(each.split("=", 1) for each in options.python)
    chosen, absent = installed(methods, options.out.absolute(), pythons)
    comparison = compare(
        cases,
        chosen,
        options.out / name,
        settings=Settings(margin=problem.margin, score=SCORES.get(name)),
        seed=0,
        report=options.pages,
        place=Local(options.workers),
        limits=Limits(threads=options.threads, time_s=1800),
        callback=lambda ended: print(
            ended.name, f"{ended.seconds:.0f} s", ended.reason, flush=True
        ),
    )
    words = "\n".join(f"- {sentence}" for sentence in sentences(comparison.summary))
    page = f"the page has {(comparison.folder / REPORT).stat().st_size / 1e6:.1f} MB"
    notes = "\n".join(f"- {note}" for note in [*comparison.notes, *absent, page])
    return f"{markdown(comparison.summary)}\n{words}\n{notes}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=list(PROBLEMS))
    parser.add_argument("--out", type=Path, default=Path("comparisons"))
    parser.add_argument("--methods", help="in place of those of the table, separated by commas")
    parser.add_argument("--cases", type=int, help="only so many, evenly spaced")
    parser.add_argument("--peer-cases", type=int, default=4)
    parser.add_argument(
        "--python", action="append", default=[], help="of a peer, such as ants-syn=ants/bin/python"
    )
    parser.add_argument("--workers", type=int)
    parser.add_argument("--table", type=Path, default=TABLE, help="file of the tables")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--title", help="of the section, in place of that of the table")
    parser.add_argument("--pages", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    problem = PROBLEMS[options.problem](Path(os.environ["HYBRIDREG_DATA"]))
    methods = options.methods.split(",") if options.methods else problem.methods
    cases = spaced(problem.cases, options.cases)
    found = run(options.problem, problem, methods, cases, options)
    note = f"{problem.note} {len(cases)} of {len(problem.cases)} cases."
    title = options.title or problem.title
    write_section(options.table, title, f"{note}\n\n{found}", head=HEAD)
    if problem.peers and options.peer_cases:
        few = spaced(problem.cases, options.peer_cases)
        found = run(options.problem, problem, [*methods, *problem.peers], few, options)
        few_title = f"{title}: slow methods too, {len(few)} of the cases"
        write_section(options.table, few_title, found, head=HEAD)


if __name__ == "__main__":
    main()
