"""``hybridreg compare`` as a person or a script calls it, and its page in a browser."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_cli import call
from test_comparison import cases as cases_files  # noqa: F401  a fixture
from test_report import Page, chromium
from typer.testing import CliRunner

from hybridreg.cli.app import app
from hybridreg.comparison.contenders import Contender
from hybridreg.comparison.entries import Entry, LabelScores
from hybridreg.comparison.plots import box_plots
from hybridreg.comparison.results import Comparison, read_comparison, write_comparison
from hybridreg.records import Record

METHODS = ("identity", "ours", "greedy", "slow & <odd>")


def made_up(folder: Path, cases: int, methods=METHODS, labels: int = 3) -> Comparison:
    """A comparison with random scores; the second method is the best,
    and the last one fails at times.
    """
    random = np.random.default_rng(0)
    hard = random.normal(0.6, 0.08, cases)
    entries = []
    for case in range(cases):
        for number, method in enumerate(methods):
            failed = number == len(methods) - 1 and case % 5 == 4
            value = float(
                np.clip(hard[case] + (0.1, 0.2)[number == 1] + random.normal(0, 0.02), 0, 1)
            )
            scores = {} if failed else {"dice": value, "hd95_mm": 9 - 8 * value, "ndv_percent": 0.0}
            record = Record(
                f"case {case}",
                f"s{case // 2}",
                method,
                "failed" if failed else "done",
                "" if failed else "pass",
                "it crashed (SIGSEGV)" if failed else "",
                register_s=None if failed else 2.0**number,
                cpu_s=3.0,
                peak_memory_mb=800.0,
                scores=scores,
            )
            shown = () if failed else tuple(
                LabelScores(n, f"label {n}", value, 1.0) for n in range(labels)
            )  # fmt: skip
            entries.append(Entry(record, {}, shown))
    found = [
        Contender(name, name, {"method": {"name": name}}, name == "identity") for name in methods
    ]
    settings = {"reference": "ours", "score": None, "margin": 0.01, "starts": 0}
    folder.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(folder, entries, found, ("a note",), settings)
    write_comparison(comparison)
    return comparison


def test_a_command_compares_and_continues(cases_files, tmp_path):  # noqa: F811
    quick = tmp_path / "rigid.toml"
    quick.write_text('name = "linear"\ntransform = "rigid"\n')
    command = ("compare", cases_files / "cases.csv", "--methods", quick, "-o", tmp_path / "out",
               "--workers", 1, "--no-report", "--json")  # fmt: skip
    answer = call(*command)
    assert (answer["records"], answer["new"], answer["kept"]) == (6, 6, 0)
    assert any("too few for p-values" in note for note in answer["notes"])
    assert "rigid has the best mean Dice" in " ".join(answer["summary"])
    assert call(*command)["kept"] == 6
    assert (tmp_path / "out" / "report.html").is_file()
    (tmp_path / "out" / "report.html").unlink()
    call("report", tmp_path / "out", "--json")
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--methods", "rigit"], "did you mean 'rigid'"),
        (["--methods", "rigid", "--transform-of", "lab"], "NAME=PATTERN"),
        (
            ["--methods", "rigid", "--transform-of", "lab={subjet}.h5"],
            r"has \{subjet\}; known are \{name\}",
        ),
        (["--transform-of", "a=b", "--transform-of", "a=c"], "the name 'a' twice"),
        (["--methods", "rigid", "--margin", "-1"], "margin must be more than 0"),
        (["--methods", "rigid", "--score", "dise"], "did you mean 'dice'"),
    ],
)
def test_wrong_options_are_refused(options, says, cases_files, tmp_path):  # noqa: F811
    done = CliRunner().invoke(
        app, ["compare", str(cases_files / "cases.csv"), "-o", str(tmp_path / "out"), *options]
    )
    assert done.exit_code == 2 and re.search(says, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


def test_the_page_tells_of_every_method_and_escapes_their_names(tmp_path):
    made_up(tmp_path, 24)
    text = (tmp_path / "report.html").read_text()
    assert "<odd>" not in text and "slow &amp; &lt;odd&gt;" in text
    page = Page(text)
    shown = {section["id"] for section in page.all("section")}
    assert {"summary", "notes", "methods", "tests", "distributions", "cost", "labels"} <= shown
    assert {"worst", "failures", "records", "details"} <= shown
    assert "it crashed (SIGSEGV)" in text
    assert all(image["src"].startswith("data:") and image["alt"] for image in page.all("img"))
    assert "ours has the best mean Dice" in text and "greedy is worse than ours" in text


def test_a_score_that_is_the_same_everywhere_has_no_plot(tmp_path):
    tables = made_up(tmp_path, 8).summary.tables
    assert not tables["ndv_percent"].cases.any()
    assert [name for name, _ in box_plots(tables, ["dice", "ndv_percent"])] == ["Mean Dice"]


def test_many_records_make_a_page_of_bounded_size(tmp_path):
    made_up(tmp_path, 600, labels=1)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert "The worst 1000 of 2400" in (tmp_path / "report.html").read_text()
    again = read_comparison(tmp_path)
    assert len(again.entries) == 2400 and again.summary.row("ours").done == 600


def opened(folder: Path, profile: Path, fragment: str = "") -> tuple[str, str]:
    """The page as a browser without network leaves it, and what the browser complains about."""
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--log-level=0",
        "--virtual-time-budget=5000", f"--user-data-dir={profile}", "--dump-dom",
        (folder / "report.html").as_uri() + fragment,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(complaints)


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_page_opens_from_disk_without_errors_and_sorts(tmp_path):
    comparison = made_up(tmp_path / "out", 24, ("identity", "ours", "greedy", "slow"))
    text, complaints = opened(tmp_path / "out", tmp_path / "profile", "#methods,1")
    assert complaints == ""
    page = Page(text)
    assert page.all("html")[0]["data-state"] == "ready"
    (heading,) = [cell for cell in page.all("th") if cell.get("aria-sort")]
    assert heading["aria-sort"] == "ascending"
    mean = {row.name: row.scores["dice"].mean for row in comparison.summary.rows}
    shown = re.findall(r'<th scope="row">([a-z]+)</th>', text)[:4]
    assert shown == sorted(mean, key=mean.get) != list(mean)
