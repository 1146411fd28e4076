"""Every example in docs/ is complete, short, and runs."""

import os
import sys

import pytest
from extending import blocks, install

from hybridreg.config import load_method
from hybridreg.methods.base import RegistrationError
from hybridreg.phantoms import blobs
from hybridreg.registry import DESCRIPTORS, MEASURES, METHODS, RULES, TASKS
from hybridreg.testing import METHOD_CHECKS

# The contracts are run in test_plugin, in a process of its own.
SHOWN = [block for block in blocks() if block.language == "python" and not block.file]
RUN = [block for block in SHOWN if "check_method" not in block.code]
LONGEST = 40  # lines of code


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    install(folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


def test_no_example_is_longer_than_a_page():
    assert len(SHOWN) == len(RUN) + 1 >= 5
    for block in blocks():
        assert max(map(len, block.code.splitlines())) <= 100
        lines = [line for line in block.code.splitlines() if line.strip()]
        assert len(lines) <= LONGEST, f"{block.file or block.code[:40]}: {len(lines)} lines"


@pytest.mark.parametrize("block", RUN, ids=range(len(RUN)))
def test_what_is_shown_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.code, "extending.md", "exec"), {"__name__": "extending"})


@pytest.mark.parametrize(
    "table", [METHODS, MEASURES, DESCRIPTORS, RULES, TASKS], ids=lambda t: t.kind
)
def test_every_table_knows_the_names_of_the_page(table):
    mine = [name for name in table if name.startswith("my-")]
    assert mine and all(table.help(name) == "from mine" for name in mine)


def test_the_task_of_the_page_learns(tmp_path):
    pytest.importorskip("lightning")
    from hybridreg.config import load_training
    from hybridreg.io.checkpoints import read_checkpoint
    from hybridreg.training import train

    (tmp_path / "settings.toml").write_text("noise = 0.3\n")
    task = load_training("my-denoising", tmp_path / "settings.toml").task()
    card = read_checkpoint(train(task, tmp_path / "run", max_epochs=3), kind=task.kind).card
    assert card.validation and card.training["steps"] == 30


SHIFT = """#Insight Transform File V1.0
#Transform 0
Transform: AffineTransform_double_{0}_{0}
Parameters: {1}
FixedParameters: {2}
"""


def tool(**more):
    """A tool that answers with a shift of 3 mm, whatever it is shown."""
    text = SHIFT.format(2, "1 0 0 1 3 0", "0 0")
    code = f"import sys; open(sys.argv[2], 'w').write({text!r}) if open(sys.argv[1], 'rb') else 0"
    command = [sys.executable, "-c", code, "{fixed}", "{transform}"]
    return load_method({"name": "my-tool", "command": command, **more})


def test_the_tool_of_the_page_is_called_with_files_and_composed_with_the_start():
    case = blobs(dimension=2)
    points = case.pair.fixed.grid.points()
    found = tool().register(case.pair).transform
    assert (found(points) - points)[..., 0].allclose(points.new_tensor(3.0))
    refused = [
        check for check in METHOD_CHECKS if check.__name__ == "refuses_what_cannot_be_registered"
    ]
    refused[0](tool())
    missing = {"command": [os.path.join("no", "such", "tool")]}
    with pytest.raises(RegistrationError, match="is it installed"):
        tool(**missing).register(case.pair)
    failing = {"command": [sys.executable, "-c", "raise SystemExit('it says why')"]}
    with pytest.raises(RegistrationError, match="ended with 1") as error:
        tool(**failing).register(case.pair)
    assert "it says why" in error.value.log
