"""What a comparison itself costs: its page, many records, and each record.

    python examples/benchmarks/comparison_cost.py

Records are made up, 10,000 of 1,250 cases and 8 methods with two labels each; the cost of a record
is that of small 2D phantoms, without what their registrations and assessments take.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from comparisons import HEAD, TABLE
from sections import table, write_section

from hybridreg.cluster import Limits, Local
from hybridreg.comparison import compare
from hybridreg.comparison.contenders import Contender
from hybridreg.comparison.entries import Entry, LabelScores, write_entry
from hybridreg.comparison.results import Comparison, read_comparison, write_comparison, write_page
from hybridreg.io.images import write_image
from hybridreg.io.tables import CaseRow
from hybridreg.phantoms import blobs
from hybridreg.records import Record

CASES, METHODS, OWN_CASES = 1250, 8, 20


def seconds(function: Callable, *given) -> tuple[float, object]:
    start = time.perf_counter()
    found = function(*given)
    return time.perf_counter() - start, found


def made_up(folder: Path):
    """The folder of a comparison with random scores."""
    random = np.random.default_rng(0)
    found = [Contender(f"method {n}", "identity", {"name": n}) for n in range(METHODS)]
    entries = []
    for case in range(CASES):
        for number, each in enumerate(found):
            dice = float(np.clip(random.normal(0.6 + 0.02 * number, 0.05), 0, 1))
            scores = {"dice": dice, "hd95_mm": 9 - 8 * dice, "ndv_percent": float(random.random())}
            known = {"register_s": 1.0 + number, "cpu_s": 3.0, "scores": scores, "verdict": "pass"}
            record = Record(f"case {case}", f"s{case}", each.name, config=each.config, **known)
            labels = [LabelScores(n, f"label {n}", dice, 1.0) for n in (1, 2)]
            entries.append(Entry(record, {}, tuple(labels)))
            write_entry(folder, entries[-1])
    settings = {"reference": found[0].name, "score": None, "margin": 0.01, "starts": 0}
    write_comparison(Comparison(folder, entries, found, (), settings))


def own_seconds(folder: Path) -> float:
    """Wall seconds for each record beside those of its process, on one worker."""
    rows = []
    for number in range(OWN_CASES):
        pair = blobs(dimension=2, translation_mm=(3.0, number / 10)).pair
        paths = {side: folder / f"{side}{number}.nii" for side in ("fixed", "moving")}
        for side, path in paths.items():
            write_image(path, getattr(pair, side))
        rows.append(CaseRow(f"case {number}", **paths, subject=f"s{number}"))
    used, found = seconds(
        lambda: compare(
            rows, ["rigid-fast"], folder / "out", place=Local(1), limits=Limits(threads=1)
        )
    )
    return (used - sum(record.total_s for record in found.records)) / len(found.records)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE, help="file of the tables")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (many := Path(folder) / "many").mkdir()
        made_up(many)
        loaded, comparison = seconds(read_comparison, many)
        summarized, _ = seconds(lambda: comparison.summary)
        rendered, page = seconds(write_page, comparison)
        own = own_seconds(Path(folder))
        rows = [
            (f"{len(comparison.entries)} records: load", f"{loaded:.1f} s"),
            ("summarize", f"{summarized:.1f} s"),
            ("render page and tables", f"{rendered:.1f} s"),
            ("their page", f"{page.stat().st_size / 1e6:.1f} MB"),
            ("own cost of a record", f"{own:.2f} s"),
        ]
    write_section(
        options.table, "Cost of a comparison", table(("What", "Measured"), rows), head=HEAD
    )


if __name__ == "__main__":
    main()
