"""Many cases at once: each is watched by itself, and costs only itself when it goes wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import psutil
import pytest

from hybridreg.cluster import ClusterError, Ended, Limits, Local, Scheduler, Slurm, run

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # children do not find this folder

MEGABYTES = 1_000_000


def compute(name: str, case) -> dict:
    """What the case says: a number to double, or a way to go wrong."""
    match case:
        case int():
            return {"doubled": 2 * case}
        case "refuse":
            raise ValueError("the moving image is constant")
        case "break":
            raise KeyError("a fault of ours")
        case "no json":
            return {"value": {1, 2}}
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "die once", path:
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {"survived": True}
        case "hang":
            subprocess.run(["sleep", "60"], check=False)
        case "fill":  # in a process of its own: the whole tree counts
            code = "b = bytearray(300_000_000); import time; time.sleep(60)"
            subprocess.run([sys.executable, "-c", code], check=False)
        case "kill the worker":
            psutil.Process(os.getppid()).kill()
            time.sleep(60)
        case "threads":
            names = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
            return {name: os.environ[name] for name in names}
        case "allocator":
            return {"trims from": os.environ.get("MALLOC_TRIM_THRESHOLD_")}
    return {}


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> tuple[dict[str, Ended], list[Ended]]:
    """How all of them ended, by name; and in the order in which they were reported."""
    once = ("die once", tmp_path_factory.mktemp("once") / "died")
    ways = ["refuse", "break", "no json", "die", "crash", "hang", "fill", "kill the worker"]
    cases = {"first": 1, **{way: way for way in (*ways, "threads", "allocator")}, "die once": once}
    cases |= {f"case {number}": number for number in range(20)}
    reported: list[Ended] = []
    limits = Limits(time_s=2.0, memory_bytes=250 * MEGABYTES)
    found = run(compute, cases, place=Local(2), limits=limits, callback=reported.append)
    assert len(found) == len(cases)
    return {ended.name: ended for ended in found}, reported


def test_every_case_ends_and_is_reported_once(ends):
    by_name, reported = ends
    assert sorted(by_name) == sorted(ended.name for ended in reported)
    for number in range(20):
        assert by_name[f"case {number}"].result == {"doubled": 2 * number}
    assert not by_name["first"].failed and by_name["first"].attempts == 1


@pytest.mark.parametrize(
    ("name", "reason", "attempts"),
    [
        ("refuse", "the moving image is constant", 1),
        ("break", "unexpected KeyError: 'a fault of ours'", 1),
        ("no json", "unexpected TypeError: Object of type set is not JSON serializable", 1),
        ("die", "its process was killed (SIGKILL): the system does so when memory runs out", 2),
        ("crash", "its process was ended by SIGSEGV", 2),
        ("hang", "it took longer than its limit of 2 s", 2),
        ("kill the worker", "the workers that had it died, twice", 2),
    ],
)
def test_what_goes_wrong_costs_its_case_and_says_why(ends, name, reason, attempts):
    ended = ends[0][name]
    assert (ended.result, ended.reason, ended.attempts) == (None, reason, attempts)
    assert ("KeyError" in ended.details) == (name == "break")


def test_memory_counts_over_all_that_a_case_started(ends):
    ended = ends[0]["fill"]
    assert ended.reason.endswith("more than its limit of 0.25 GB") and ended.attempts == 2


def test_what_a_case_used_is_reported(ends):
    used = ends[0]["fill"]
    assert used.peak_memory_bytes > 250 * MEGABYTES  # of both attempts, the largest that was seen
    assert ends[0]["threads"].peak_memory_bytes > 5 * MEGABYTES
    assert 0 <= ends[0]["hang"].cpu_s < 2 < ends[0]["hang"].seconds  # it sleeps


def test_a_case_whose_process_died_once_is_computed_by_the_next_one(ends):
    ended = ends[0]["die once"]
    assert ended.result == {"survived": True} and ended.attempts == 2


def test_every_case_computes_with_one_thread(ends):
    assert set(ends[0]["threads"].result.values()) == {"1"}


def test_cases_are_spared_the_allocator_that_dask_sets_for_its_workers(ends):
    assert ends[0]["allocator"].result == {"trims from": None}


def test_no_process_is_left_over(ends):
    left = [process.cmdline() for process in psutil.Process().children(recursive=True)]
    assert not [words for words in left if "hybridreg.cluster.child" in words]


def test_a_scheduler_that_does_not_answer_is_said_at_once(monkeypatch):
    monkeypatch.setattr("hybridreg.cluster.places._ANSWER_S", 0.5)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*run"):
        run(compute, {"a": 1}, place=Scheduler("tcp://127.0.0.1:9"))
    with pytest.raises(ClusterError, match="no Dask scheduler answers at nonsense"):
        run(compute, {"a": 1}, place=Scheduler("nonsense"))


def test_no_cases_need_no_cluster():
    assert run(compute, {}, place=Scheduler("tcp://127.0.0.1:9")) == []


@pytest.mark.parametrize("wrong", [{"time_s": 0}, {"memory_bytes": -1}, {"threads": 0}])
def test_limits_that_nothing_can_keep_are_refused(wrong):
    with pytest.raises(ValueError, match="must be more than 0"):
        Limits(**wrong)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        Local(0)


SLURM = """
jobs = 7
cores = 4
memory = "16 GB"
walltime = "02:00:00"
queue = "long"
account = "imaging"
host = "127.0.0.1"
job_script_prologue = ["module load python"]
"""


def test_a_slurm_file_becomes_a_job_script_and_a_limit_of_memory(tmp_path):
    pytest.importorskip("dask_jobqueue")
    (tmp_path / "slurm.toml").write_text(SLURM)
    place = Slurm(tmp_path / "slurm.toml")
    with place.cluster() as cluster:
        script = cluster.job_script()
    for line in (
        "#SBATCH -p long",
        "#SBATCH -A imaging",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=15G",
        "#SBATCH -t 02:00:00",
        "module load python",
    ):
        assert line in script.splitlines()
    assert f"{sys.executable} -m distributed.cli.dask_worker tcp://127.0.0.1:" in script
    assert "--nthreads 4" in script
    assert place.memory_bytes == pytest.approx(0.9 * 4e9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jobs = ", "is not valid TOML"),
        ("cores = 1", "must say jobs, memory"),
        (SLURM.replace("host", "#"), "must name the network interface"),
        (SLURM + "colour = 'red'", "cannot be used: .*colour"),
        (SLURM.replace('host = "127.0.0.1"', 'interface = "none0"'), "cannot be used"),
    ],
)
def test_mistakes_in_a_slurm_file_are_said(text, words, tmp_path):
    pytest.importorskip("dask_jobqueue")
    path = tmp_path / "slurm.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught, Slurm(path).cluster():
        pass
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match="there is no Slurm file"):
        Slurm(tmp_path / "none.toml").options()


INTERRUPTED = """
import subprocess, sys
from hybridreg.cluster import Local, run

def compute(name, case):
    subprocess.run(["sleep", "600"])

if __name__ == "__main__":
    try:
        run(compute, {str(i): i for i in range(9)}, place=Local(1))
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


def grandchildren(pid: int, name: str) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children(recursive=True) if p.name() == name]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_broken_off_leaves_no_process_behind(end, tmp_path):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not (working := grandchildren(process.pid, "sleep")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    everything = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, end)
    said = process.communicate(timeout=60)[1]
    assert working and not psutil.wait_procs(everything, timeout=30)[1]
    if end == signal.SIGINT:
        assert said.strip() == "interrupted"


@pytest.mark.slow
def test_a_scheduler_and_workers_started_by_their_own_commands(tmp_path):
    """As on several machines: one of two workers is killed in the middle and costs nothing."""
    with _dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
               "--scheduler-file", tmp_path / "scheduler.json"):  # fmt: skip
        address = _address(tmp_path / "scheduler.json")
        with _dask("worker", address), _dask("worker", address) as second:
            cases = {str(number): number for number in range(60)}

            def callback(ended: Ended):
                if ended.name == "20":
                    os.killpg(second.pid, signal.SIGKILL)

            ends = run(compute, cases, place=Scheduler(address), callback=callback)
            assert {ended.name: ended.result for ended in ends} == {
                name: {"doubled": 2 * number} for name, number in cases.items()
            }


@pytest.mark.slow
def test_a_scheduler_without_workers_is_given_up(tmp_path):
    with _dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
               "--scheduler-file", tmp_path / "scheduler.json"):  # fmt: skip
        address = _address(tmp_path / "scheduler.json")
        with pytest.raises(ClusterError, match="no worker has been there for 2 s"):
            run(compute, {"a": 1}, place=Scheduler(address), patience_s=2.0)


class _dask:  # noqa: N801  reads as the command that it starts
    """A command of Dask that runs inside the block."""

    def __init__(self, *words):
        self.words = list(map(str, words))

    def __enter__(self) -> subprocess.Popen:
        options = [] if self.words[0] == "scheduler" else ["--nthreads", "1", "--host", "127.0.0.1",
                                                           "--no-dashboard"]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dask", *self.words, *options],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self.process

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _address(file: Path) -> str:
    import json

    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return json.loads(file.read_text())["address"]
