"""What many cases cost beyond themselves, and whether anything is lost when they are interrupted.

    HYBRIDREG_DATA=... python examples/benchmarks/scale.py PART ... [--scratch DIR] [--workers N]

killed    a run of field targets (2D brains, elastix) is killed (SIGKILL, all its processes) at ten
          random moments and started again each time; its store must end with the same bytes as that
          of a run that was never stopped, and no case may be reported twice
tiny      2,000 tiny cases: seconds a case, and the memory of the caller and its workers as it goes
workers   field targets of brains at 4 mm with one and with two workers: how much more two do
own       what a case costs beyond its work: one worker against the same function called here
patches   random 15^3 patches a second, from a store of 100 (``--pairs``) pairs of brains at 2 mm
          (made first, and kept in the scratch folder)

killed needs no quiet machine; the others measure times and do: ``--times`` means these four. A part
writes its row into scale.csv as it ends; scale.md is made from that.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from sections import table, write_section

from hybridreg.cluster import Ended, Local, run
from hybridreg.io.tables import CaseRow
from hybridreg.targets import Recipe, load_kind, make_targets
from hybridreg.targets.making import log_of, make_target

TABLE = Path(__file__).with_suffix(".csv")
HEAD = f"{__doc__.splitlines()[0]}\n\n`scale.py`, on 2 cores. What its parts do stands at its top."
COLUMNS = ("part", "asked", "reached", "details")
TIMED = ("tiny", "workers", "own", "patches")


def subjects(count: int | None = None) -> list[Path]:
    """The training persons of oasis_malf35."""
    data = Path(os.environ["HYBRIDREG_DATA"])
    persons = tomllib.loads((data / "splits.toml").read_text())["oasis_malf35"]["train"]
    return [data / "oasis_malf35" / "subjects" / f"{n}_SS.nii.gz" for n in persons[:count]]


def pairs(images: list[Path]) -> list[CaseRow]:
    """Ordered pairs, named by their files."""
    return [
        CaseRow(f"{a.name.split('.')[0]}-{b.name.split('.')[0]}", a, b)
        for a, b in itertools.permutations(images, 2)
    ]


def note(part: str, asked: str, reached: str, details: str):
    """Replaces the row of a part, and prints it."""
    rows = list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []
    rows = [row for row in rows if row["part"] != part]
    rows.append(dict(zip(COLUMNS, (part, asked, reached, details), strict=True)))
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["part"]))
    print(f"{part}: {reached} (asked: {asked}); {details}", flush=True)


def reached() -> str:
    rows = list(csv.DictReader(TABLE.open(newline="")))
    return table(["what", *COLUMNS[1:]], (row.values() for row in rows))


def tiny_case(name: str, number: int) -> dict:
    return {"number": number}


def resident_mb(processes: list[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def tiny(scratch: Path, workers: int):
    count, samples, start = 2000, [], 0.0
    me = psutil.Process()

    def callback(ended: Ended):
        nonlocal start
        start = start or time.perf_counter()
        assert not ended.failed, ended.reason
        if len(samples) * 100 < int(ended.name):
            samples.append((resident_mb([me]), resident_mb(me.children(recursive=True))))

    cases = {str(number): number for number in range(count)}
    run(tiny_case, cases, place=Local(workers), callback=callback)
    each = (time.perf_counter() - start) / (count - 1)
    early, late = (
        [statistics.mean(values) for values in zip(*part, strict=True)]
        for part in (samples[2:7], samples[-5:])
    )
    note(
        "tiny",
        "flat memory over 2,000 cases",
        f"caller {early[0]:.0f} to {late[0]:.0f} MB, workers {early[1]:.0f} to {late[1]:.0f} MB",
        f"{1000 * each:.0f} ms a case, {workers} workers; means after cases 200-700 and 1500-2000",
    )


def seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def spread(rows: list[CaseRow], store: Path, recipe: Recipe, workers: int) -> float:
    """Seconds a case takes once all workers have ended one: without what starting costs."""
    shutil.rmtree(store, ignore_errors=True)
    reported: list[float] = []

    def on_end(ended: Ended):
        assert not ended.failed, ended.reason
        reported.append(time.perf_counter())

    make_targets(rows, store, recipe, place=Local(workers), callback=on_end)
    first = reported[workers - 1]  # all workers are warm
    return (reported[-1] - first) / (len(rows) - workers)


def workers_part(scratch: Path, workers: int):
    rows = pairs(subjects(5))
    recipe = Recipe("field", load_kind("field", method="rigid"), spacing_mm=4.0)
    one, two = (spread(rows, scratch / f"workers{n}.zarr", recipe, n) for n in (1, 2))
    note(
        "workers",
        "2 workers do at least 1.8 times the work of one",
        f"{one / two:.2f} times",
        f"rigid at 4 mm, {len(rows)} pairs: {one:.2f} s a case with one worker, "
        f"{two:.2f} s with two",
    )


def own(scratch: Path, workers: int):
    """The same targets made here, warm, and by one warm worker; the difference is what it adds.

    Both compute with one thread.
    """
    import torch

    from hybridreg.io.target_store import TargetStore

    rows = pairs(subjects(3))
    recipe = Recipe("field", load_kind("field", method="rigid"), spacing_mm=4.0)
    through = spread(rows, scratch / "own.zarr", recipe, 1)

    shutil.rmtree(scratch / "here.zarr", ignore_errors=True)
    store = TargetStore.begin(scratch / "here.zarr", recipe.name, recipe.settings)
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    make = partial(make_target, store.path, recipe)
    here = [seconds_of(partial(make, row.name, row)) for row in rows]
    direct = statistics.mean(here[1:])
    note(
        "own",
        "own cost under 0.5 s a case",
        f"{through - direct:.2f} s",
        f"rigid at 4 mm: {through:.2f} s through a worker, {direct:.2f} s called directly",
    )


def patches(scratch: Path, workers: int, count: int):
    """Reading alone: the store is made first, which takes a while, and kept."""
    from hybridreg.io.target_patches import TargetPatches

    store = scratch / "patches.zarr"
    rows = pairs(subjects())
    rows = [*rows, *[CaseRow(f"{r.name}-2", r.fixed, r.moving) for r in rows]][:count]
    recipe = Recipe("known", load_kind("known"), spacing_mm=2.0)
    made = make_targets(rows, store, recipe, place=Local(workers))
    assert not made.failures, made.failures
    dataset = TargetPatches(store, arrays=("displacement",), patches_per_case=256)
    read = 0
    start = time.perf_counter()
    for _ in dataset:
        read += 1
        if time.perf_counter() - start > 60:
            break
    rate = read / (time.perf_counter() - start)
    note(
        "patches",
        "at least 300 a second",
        f"{rate:.0f} a second",
        f"15^3 of both images and the field, {count} pairs at 2 mm, 1 process, {read} patches, "
        "8 cases in memory, 256 patches a case, filling the buffer included",
    )


def content(path: Path) -> str:
    """One hash over the names and bytes of all files."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return digest.hexdigest()


def killed(scratch: Path, workers: int):
    slices = sorted((Path(os.environ["HYBRIDREG_DATA"]) / "oasis_2d_mermaid").glob("*.nrrd"))
    images = scratch / "slices"
    images.mkdir(exist_ok=True)
    for path in slices[:6]:  # of the training persons
        shutil.copy(path, images)
    command = [sys.executable, "-m", "hybridreg", "targets", "--pairs-of", str(images)]
    command += ["--kind", "field", "--method", "bspline", "--workers", str(workers), "--json"]
    whole, broken = scratch / "whole.zarr", scratch / "broken.zarr"
    for store in (whole, broken):
        shutil.rmtree(store, ignore_errors=True)
        log_of(store).unlink(missing_ok=True)
    lasted = seconds_of(lambda: subprocess.run([*command, "-o", str(whole)], check=True))
    chance, kills, grown = random.Random(0), 0, []
    for _ in range(10):
        process = subprocess.Popen([*command, "-o", str(broken)], start_new_session=True)
        time.sleep(chance.uniform(0.06, 0.22) * lasted)  # a few cases end before each kill
        if process.poll() is None:
            kills += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        grown.append(len(list(broken.glob("cases/*/zarr.json"))))
    subprocess.run([*command, "-o", str(broken)], check=True)
    reported = [json.loads(line)["case"] for line in log_of(broken).read_text().splitlines()]
    found = len(list((broken / "cases").iterdir())) - 1
    same = content(whole) == content(broken)
    note(
        "killed",
        "same arrays and attributes as an unbroken run, nothing lost or done twice",
        "the same bytes" if same else "DIFFERENT",
        f"{found} field targets, {kills} kills of a {lasted:.0f} s run, after which there were "
        f"{', '.join(map(str, grown))}; "
        f"{len(reported)} ends reported, {len(reported) - len(set(reported))} twice",
    )


PARTS = {"killed": killed, "tiny": tiny, "workers": workers_part, "own": own, "patches": patches}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--times", action="store_true", help="the parts that need a quiet machine")
    parser.add_argument("--scratch", type=Path, default=Path("scale_scratch"))
    parser.add_argument("--pairs", type=int, default=100, help="in the store of patches")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    for part in [*options.parts, *(TIMED if options.times else ())]:
        more = {"count": options.pairs} if part == "patches" else {}
        PARTS[part](options.scratch.absolute(), options.workers, **more)
    write_section(TABLE.with_suffix(".md"), "Results", reached(), head=HEAD)


if __name__ == "__main__":
    main()
