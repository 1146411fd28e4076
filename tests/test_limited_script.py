"""Scripts in child processes keep to their limits, whatever they read."""

import subprocess
import sys

import pytest

from hybridreg.io.limited_script import run_limited


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("import sys\nif __name__ == '__main__':\n    print(eval(sys.argv[1]))\n")
    return path


def test_a_script_gets_its_arguments_and_none_of_its_folders_modules(script):
    (script.parent / "json.py").write_text("raise SystemExit('wrong module')")
    done = run_limited(script, "len(__import__('json').dumps([sys.argv[1:]]))", wait_s=60)
    assert done.returncode == 0 and int(done.stdout) > 40
    assert run_limited(script, "exit(3)", wait_s=60).returncode == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_a_script_that_asks_for_too_much_fails(script):
    done = run_limited(script, "len(bytes(1 << 30))", wait_s=60, memory_bytes=1 << 29)
    assert done.returncode == 1 and b"MemoryError" in done.stderr
    limits = "__import__('resource').getrlimit"
    for name, limit in (("CPU", 7), ("CORE", 0), ("AS", 1 << 32)):
        question = f"{limits}(__import__('resource').RLIMIT_{name})[0]"
        done = run_limited(script, question, wait_s=60, cpu_s=7, memory_bytes=1 << 32)
        assert int(done.stdout) == limit
    with pytest.raises(subprocess.TimeoutExpired):
        run_limited(script, "__import__('time').sleep(9)", wait_s=0.3)
