"""The demo says where its minutes go, all of them."""

import json
import re
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from hybridreg.cli import demo
from hybridreg.cli.app import app
from hybridreg.methods.base import RegistrationResult
from hybridreg.phantoms import blobs
from hybridreg.pipeline import run


class Outcome(SimpleNamespace):
    """What the demo needs of one."""

    def save(self, *_, **__):
        time.sleep(0.02)


@pytest.fixture
def quick(monkeypatch):
    error = SimpleNamespace(to_dict=lambda: {"truth": {"mean_mm": 2.0, "p95_mm": 3.0}})
    times = {"register": 61.0, "resample": 2.0, "invert": 3.0, "verdict": 7.0, "fuse": 30.0}
    made = Outcome(scores=(error, error), times_s=times, fused=None)
    monkeypatch.setattr("hybridreg.pipeline.run", lambda *_, **__: made)
    monkeypatch.setattr(demo, "_case", lambda method: None)


def test_the_demo_says_what_each_part_took_and_how_long_it_was_in_all(quick, tmp_path):
    done = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo")])
    assert done.exit_code == 0
    assert done.output.count("registration 61 s, moved image and inverse 5 s, verdict 7 s") == 2
    assert re.search(r"^\d+ s in all, \d+ s of it to load the libraries$", done.output, re.M)
    done = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo"), "--json"])
    answer = json.loads(done.stdout)
    parts = [answer[part]["times_s"] for part in ("rigid", "bspline")]
    assert answer["times_s"]["all"] >= sum(part["all"] for part in parts) > 0
    assert all(part["all"] >= part["save"] >= 0.02 for part in parts)


def test_the_parts_and_the_rest_add_up_to_the_whole():
    times = {"all": 100.0, "register": 61.0, "resample": 2.0, "invert": 3.0, "fuse": 4.2}
    said = demo._spent(times)
    whole, *parts = (int(n) for n in re.findall(r"(\d+) s", said))
    assert whole == sum(parts) == 100 and "the rest 30 s" in said


def test_every_part_of_a_run_is_reported(monkeypatch):
    monkeypatch.setattr("hybridreg.pipeline.describe_method", lambda method: {"name": "still"})
    still = SimpleNamespace(register=lambda pair, initial: RegistrationResult(initial))
    outcome = run(blobs(dimension=2), still, fuse="mean")
    reported = {part for parts in demo._PARTS.values() for part in parts}
    assert set(outcome.times_s) <= reported
    assert reported - set(outcome.times_s) == {"phantom", "save"}
