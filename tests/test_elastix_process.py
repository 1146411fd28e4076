"""The child process: one for many questions, replaced when lost, and never left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from hybridreg import progress
from hybridreg.child_process import ChildProcess
from hybridreg.methods.base import RegistrationError
from hybridreg.methods.elastix import Elastix, process, warm_up
from hybridreg.methods.elastix.job import write_job
from hybridreg.phantoms import blobs
from hybridreg.transforms import DisplacementField, rigid

QUICK = {"MaximumNumberOfIterations": 5, "NumberOfResolutions": 2}
ENDLESS = {"MaximumNumberOfIterations": 10_000_000, "NumberOfResolutions": 1}


def quick(**changes) -> Elastix:
    return Elastix(("rigid.txt",), **({"overrides": QUICK, "threads": 1} | changes))


def endless(**changes) -> Elastix:
    return quick(overrides=ENDLESS, **changes)


@pytest.fixture(scope="module")
def pair():
    return blobs(dimension=2, translation_mm=(1.0, 2.0)).pair


def child_pid(threads: int = 1) -> int:
    return process.worker(threads).pid


def is_running(pid: int) -> bool:
    """Zombies, whose parent has not asked for them yet, are not running."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def eventually(holds, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_the_child_imports_neither_torch_nor_the_registration_code():
    code = (
        "import sys, hybridreg.methods.elastix.worker; print('torch' in sys.modules, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False")
    assert "hybridreg.cases" not in done.stdout and "hybridreg.methods.base" not in done.stdout


def test_warming_up_returns_before_the_child_is_ready():
    process.close()
    warm_up(1)
    assert is_running(child_pid())
    assert "elastixPython" not in Path(f"/proc/{child_pid()}/maps").read_text()  # takes seconds


def test_one_child_answers_many_questions_and_each_thread_count_has_its_own(pair):
    quick().register(pair)
    first = child_pid()
    quick().register(pair)
    assert child_pid() == first
    warm_up(2)
    assert child_pid(2) not in (first, None)


def test_a_child_that_was_killed_between_two_questions_is_replaced(pair):
    quick().register(pair)
    pid = child_pid()
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not is_running(pid))
    quick().register(pair)


def test_a_child_that_is_just_ending_when_it_is_asked_is_replaced(pair, monkeypatch):
    """For a moment after SIGKILL its threads still end, and it seems to live."""
    quick().register(pair)
    pid = child_pid()
    os.kill(pid, signal.SIGKILL)
    monkeypatch.setattr(ChildProcess, "is_alive", lambda self: True)
    quick().register(pair)
    assert child_pid() != pid


def test_a_child_that_dies_in_the_midst_is_asked_once_more_and_reported(pair, caplog):
    expected = quick().register(pair)
    pids = [child_pid()]

    def kill_the_first(fraction, doing):
        if child_pid() == pids[0]:
            os.kill(pids[0], signal.SIGKILL)

    slow = {"MaximumNumberOfIterations": 3000, "NumberOfResolutions": 1}
    alone = quick(overrides=slow).register(pair)
    with progress.listening(kill_the_first):
        result = quick(overrides=slow).register(pair)
    assert child_pid() != pids[0]
    assert torch.equal(result.transform.matrix, alone.transform.matrix)
    assert len(result.trace) == 3000 > len(expected.trace)
    assert [r.message for r in caplog.records] == [
        "elastix crashed (ended by SIGKILL) and was started once more"
    ]


def test_a_child_that_dies_twice_is_an_error_and_the_next_question_works(pair):
    quick().register(pair)
    killed = set()

    def kill(fraction, doing):
        if fraction > 0:  # it has started
            killed.add(child_pid())
            os.kill(child_pid(), signal.SIGKILL)

    with pytest.raises(RegistrationError, match="crashed twice .*SIGKILL"):
        with progress.listening(kill):
            endless().register(pair)
    assert len(killed) == 2
    quick().register(pair)
    assert child_pid() not in killed


def test_a_registration_over_its_time_is_stopped_with_its_child(pair):
    quick().register(pair)
    pid = child_pid()
    with pytest.raises(
        RegistrationError, match=r"\(rigid, level 1 of 1\) was still busy after 1 s"
    ) as error:
        endless(timeout_s=1).register(pair)
    assert "ItNr" in error.value.log or "\t" in error.value.log
    assert not is_running(pid)


def test_an_interrupt_ends_the_work_of_the_child(pair):
    quick().register(pair)
    pid = child_pid()

    def interrupt(fraction, doing):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress.listening(interrupt):
        endless().register(pair)
    assert not is_running(pid)


def test_a_child_is_replaced_after_so_many_cases(pair, monkeypatch):
    process.close()
    monkeypatch.setattr(process, "CASES", 2)
    quick().register(pair)
    first = child_pid()
    quick().register(pair)
    quick().register(pair)
    assert child_pid() != first
    assert not is_running(first)


def test_threads_of_the_parent_take_turns(pair):
    cases = [blobs(dimension=2, translation_mm=(float(n), 0.0)) for n in range(3)]
    alone = [quick().register(case.pair).transform.matrix for case in cases]
    found = [None] * len(cases)

    def register(n):
        found[n] = quick().register(cases[n].pair).transform.matrix

    threads = [threading.Thread(target=register, args=(n,)) for n in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


@pytest.mark.parametrize("outcome", ["done", "failed", "stopped"])
def test_nothing_is_left_in_the_temporary_folder(pair, outcome, tmp_path, monkeypatch):
    warm_up(1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if outcome == "done":
        quick().register(pair)
    else:
        broken = {"Metric": "NoMetric"} if outcome == "failed" else ENDLESS
        with pytest.raises(RegistrationError):
            quick(overrides=broken, timeout_s=1).register(pair)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_gets_a_child_of_its_own(pair):
    quick().register(pair)
    ours = child_pid()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        warm_up(1)
        os.write(write, json.dumps(child_pid() != ours).encode())
        process.close()
        os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"true"
    os.waitpid(pid, 0)
    os.close(read)
    quick().register(pair)
    assert child_pid() == ours


IDLE = """
    import time
    from hybridreg.methods.elastix import process

    process.warm_up(1)
    print(process.worker(1).pid, flush=True)
    time.sleep(60)
"""
LOADING = """
    from hybridreg import progress
    from hybridreg.methods.elastix import Elastix, process
    from hybridreg.phantoms import blobs

    def callback(fraction, doing):
        print(process.worker(1).pid, flush=True)

    endless = Elastix(("rigid.txt",), {"MaximumNumberOfIterations": 10_000_000}, threads=1)
    with progress.listening(callback):
        endless.register(blobs(dimension=2).pair)
"""
BUSY = LOADING.replace("print", "fraction > 0 and print")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child ends after its work")
@pytest.mark.parametrize("code", [IDLE, LOADING, BUSY], ids=["idle", "loading", "busy"])
def test_the_child_does_not_outlive_a_parent_that_is_killed(code, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # a killed parent cannot tidy up
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not is_running(pid))


def test_a_missing_itk_is_named(pair, tmp_path, monkeypatch):
    (tmp_path / "itk.py").write_text("raise ImportError('No module named itk')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process.close()
    with pytest.raises(RegistrationError, match="No module named itk.*is itk-elastix installed"):
        quick().register(pair)
    process.close()


@pytest.mark.slow
def test_the_public_names_of_itk_serve_where_its_private_ones_have_changed(pair):
    """Up to half a minute: ITK then loads nearly all of itself."""
    code = """
        import sys
        from hybridreg.methods.elastix import worker
        worker._load_fast = worker._load_lazily
        worker.main()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
    )
    stages = quick()._stages(pair)
    nudge = rigid([3.0], [1.0, 1.0], pair.fixed.grid.center)
    field = DisplacementField.sampled(nudge, pair.fixed.grid)
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), pair, stages, field)
        answer, _ = child.communicate(json.dumps(job).encode() + b"\n")
        same = process.worker(1).ask(job)
    assert json.loads(answer)["maps"] == same["maps"]
