"""Training: it continues where it was killed as if nothing had been, and ends with whole weights."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Generator, Tensor, nn

pytest.importorskip("lightning")
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from hybridreg.io.checkpoints import Card, read_checkpoint
from hybridreg.progress import listening
from hybridreg.training import train

STEPS = 4  # an epoch


class Killed(Exception):
    """Stands for what ends a process without a word, at a place of our choosing."""


def half_every_five(step: int) -> float:
    return 0.5 ** (step / 5)


@dataclass(frozen=True, eq=False)
class Lines:
    """Learns y = 2 a - 3 b from noisy samples; dropout draws from the global random numbers.

    killed_after: calls of losses, validation included, until the run is killed.
    """

    kind: str = "lines"
    steps_per_epoch: int = STEPS
    killed_after: int = 1_000_000
    step_s: float = 0.0
    learning_rate: float = 0.05
    poisoned: bool = False
    calls: list = None

    @property
    def settings(self) -> dict:
        return {"learning_rate": self.learning_rate}

    def network(self, generator: Generator) -> nn.Module:
        network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        return network

    def optimizer(self, network: nn.Module):
        optimizer = Adam(network.parameters(), self.learning_rate)
        return optimizer, LambdaLR(optimizer, half_every_five)

    def batch(self, generator: Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(8, 2, generator=generator)
        noise = 0.1 * torch.randn(8, 1, generator=generator)
        return x, x @ torch.tensor([[2.0], [-3.0]]) + noise

    def validation(self):
        return [self.batch(Generator().manual_seed(seed)) for seed in (1, 2)]

    def losses(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        if self.calls is not None:
            self.calls.append(batch[0].sum().item())
            if len(self.calls) > self.killed_after:
                raise Killed
        time.sleep(self.step_s)
        found = network(batch[0])
        error = (found - batch[1]).square().mean() * (float("nan") if self.poisoned else 1)
        return {"error": error, "size": 1e-3 * found.square().mean()}

    def scores(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"worst": (network(batch[0]) - batch[1]).abs().max()}

    def test(self, network: nn.Module) -> dict[str, float]:
        return {"at_one": network(torch.ones(1, 2)).item()}

    def card(self) -> Card:
        return Card(
            kind=self.kind,
            architecture="2-16-1",
            training_grid="none",
            intensity_rule="none",
            data="made up",
            data_licence="CC0",
            weights_licence="CC0",
            split={},
            seed=0,
            validation={},
            training={"loss": "squares"},
        )


def weights(checkpoint: Path) -> dict[str, Tensor]:
    return dict(read_checkpoint(checkpoint, kind="lines").tensors)


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first)


def state(folder: Path) -> dict:
    return torch.load(folder / "state.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory) -> Path:
    """The folder of a run of three epochs."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    train(Lines(), folder, max_epochs=3, seed=5)
    return folder


def test_the_checkpoint_has_the_weights_of_the_lowest_validation_loss_and_says_so(never_stopped):
    checkpoint = read_checkpoint(never_stopped / "lines.safetensors", kind="lines")
    card, task = checkpoint.card, Lines()
    network = checkpoint.fill(task.network(Generator()))
    with torch.no_grad():
        losses = [sum(task.losses(network, b).values()).item() for b in task.validation()]
    assert card.validation["loss"] == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert card.test["at_one"] == pytest.approx(network(torch.ones(1, 2)).item(), rel=1e-6)
    with (never_stopped / "logs/start_1/metrics.csv").open() as file:
        logged = [row["validation/loss"] for row in csv.DictReader(file)]
    assert min(float(loss) for loss in logged if loss) == pytest.approx(card.validation["loss"])
    assert (card.seed, card.training["steps"], card.training["epochs"]) == (5, 3 * STEPS, 3)
    assert card.training["ended"] == "all epochs were done"
    assert {"error", "size", "worst", "loss"} == set(card.validation)
    assert card.training["loss"] == "squares" and card.version


# Two validation batches follow four steps: stops within an epoch, at its last step, in the
# validation, at the first step of the next one, and so on.
@pytest.mark.parametrize("calls", [1, 2, 4, 5, 6, 7, 9, 16])
def test_a_run_killed_anywhere_continues_as_if_it_had_never_stopped(never_stopped, tmp_path, calls):
    task = Lines(killed_after=calls, calls=[])
    settings = {"max_epochs": 3, "seed": 5, "save_every_s": 0}
    with pytest.raises(Killed):
        train(task, tmp_path / "run", **settings)
    assert not (tmp_path / "run/lines.safetensors").exists()
    again = replace(task, killed_after=1_000_000, calls=[])
    checkpoint = train(again, tmp_path / "run", resume=True, **settings)
    assert same(checkpoint, never_stopped / "lines.safetensors")
    last, wanted = state(tmp_path / "run"), state(never_stopped)
    assert last["global_step"] == wanted["global_step"] == 3 * STEPS
    assert all(torch.equal(last["state_dict"][n], v) for n, v in wanted["state_dict"].items())
    # Of 12 steps and 6 validation batches, only what came after the last save is done again.
    assert len(again.calls) <= 18 - calls + 3


def test_a_process_killed_by_the_system_continues_where_its_state_says(never_stopped, tmp_path):
    folder = tmp_path / "run"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_training import Lines, train\n"
        "train(Lines(step_s=0.05), sys.argv[2], max_epochs=3, seed=5, save_every_s=0)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, Path(__file__).parent, folder])
    try:
        while not (folder / "state.ckpt").exists():
            assert child.poll() is None, "it ended before it saved anything"
            time.sleep(0.01)
        time.sleep(0.1)
    finally:
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    at = state(folder)["global_step"]
    assert 0 < at < 3 * STEPS
    task = Lines(calls=[])
    checkpoint = train(task, folder, max_epochs=3, seed=5, resume=True)
    assert same(checkpoint, never_stopped / "lines.safetensors")
    from hybridreg.training.loop import generator

    assert task.calls[0] == task.batch(generator(5, at, 0))[0].sum().item()  # the very next batch


def test_a_longer_run_continues_a_finished_one(never_stopped, tmp_path):
    train(Lines(), tmp_path / "run", max_epochs=2, seed=5)
    checkpoint = train(Lines(), tmp_path / "run", max_epochs=3, seed=5, resume=True)
    assert same(checkpoint, never_stopped / "lines.safetensors")
    task = Lines(calls=[])
    assert same(train(task, tmp_path / "run", max_epochs=3, seed=5, resume=True), checkpoint)
    assert not task.calls  # nothing was left to do
    with pytest.raises(ValueError, match="already had more than 1 epochs"):
        train(Lines(), tmp_path / "run", max_epochs=1, seed=5, resume=True)


def test_batches_drawn_by_other_processes_are_the_same(never_stopped, tmp_path):
    checkpoint = train(Lines(), tmp_path / "run", max_epochs=3, seed=5, workers=1)
    assert same(checkpoint, never_stopped / "lines.safetensors")


def test_another_seed_gives_other_weights_and_the_global_random_numbers_are_left_alone(
    never_stopped, tmp_path
):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    checkpoint = train(Lines(), tmp_path / "run", max_epochs=3, seed=6)
    assert torch.equal(torch.rand(3), expected)
    assert not same(checkpoint, never_stopped / "lines.safetensors")


def test_training_stops_when_validation_gets_no_better(tmp_path):
    class Worse(Lines):
        """Every step leads away from where it begins: the first validation is the best."""

        def losses(self, network, batch):
            terms = super().losses(network, batch)
            return {"error": terms["error"] if not network.training else -terms["error"]}

    checkpoint = train(Worse(), tmp_path / "run", max_epochs=50, patience=2)
    card = read_checkpoint(checkpoint, kind="lines").card
    assert card.training["ended"] == "the validation loss was not lower for 2 epochs"
    assert (card.training["best_step"], card.training["steps"]) == (STEPS, 3 * STEPS)
    for patience, epochs in ((2, 3), (3, 4)):
        train(Worse(), tmp_path / "run", max_epochs=50, patience=patience, resume=True)
        card = read_checkpoint(checkpoint, kind="lines").card
        assert card.training["steps"] == epochs * STEPS


def test_the_time_is_kept_over_all_starts_of_a_run(tmp_path, monkeypatch):
    from lightning.pytorch.callbacks import timer

    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(timer, "time", clock)

    class OneSecondAStep(Lines):
        def losses(self, network, batch):
            clock.now += network.training
            return super().losses(network, batch)

    for limit in (6, 11):
        folder = train(OneSecondAStep(), tmp_path / "run", max_time_s=limit, resume=True)
        training = read_checkpoint(folder, kind="lines").card.training
        assert training["ended"] == "the time was up"
        assert training["steps"] == training["seconds"] == limit


def test_a_time_that_is_up_before_anything_was_validated_says_so(tmp_path):
    with pytest.raises(Killed):
        train(Lines(killed_after=2, calls=[]), tmp_path / "run", save_every_s=0)
    with pytest.raises(ValueError, match="up before the first validation: resume with more"):
        train(Lines(), tmp_path / "run", max_time_s=1e-6, resume=True)


def test_a_training_that_diverges_says_so(tmp_path):
    with pytest.raises(ValueError, match="training diverged: the validation loss is nan after 4"):
        train(Lines(poisoned=True), tmp_path / "run", max_epochs=3)


def test_half_precision_learns_as_well(never_stopped, tmp_path):
    checkpoint = train(Lines(), tmp_path / "run", max_epochs=3, seed=5, precision="bfloat16")
    found, wanted = (
        read_checkpoint(path, kind="lines").card.validation["loss"]
        for path in (checkpoint, never_stopped / "lines.safetensors")
    )
    assert not same(checkpoint, never_stopped / "lines.safetensors")
    assert found == pytest.approx(wanted, rel=0.1)  # bfloat16 has three digits


def test_progress_rises_to_the_end_and_tells_the_loss(tmp_path):
    reports = []
    with listening(lambda fraction, doing: reports.append((fraction, doing))):
        train(Lines(), tmp_path / "run", max_epochs=3)
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions) and len(fractions) == 3 * STEPS
    assert fractions[0] < 0.1 and fractions[-1] > 0.9
    assert reports[-1][1].startswith("epoch 3, loss ")


def test_each_start_leaves_its_logs(never_stopped):
    names = [path.name for path in (never_stopped / "logs/start_1").iterdir()]
    assert "metrics.csv" in names and any(name.startswith("events.out") for name in names)


def test_a_run_is_not_started_where_something_else_lies(never_stopped, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").touch()
    task = Lines()
    for folder, settings, message in (
        (tmp_path / "file", {}, "this is a file; a run is a folder"),
        (tmp_path / "full", {"resume": True}, "has other files in it"),
        (never_stopped, {}, "holds a run already: continue it"),
        (never_stopped, {"resume": True, "seed": 6}, "other settings .seed: 5 then, 6 now"),
    ):
        with pytest.raises(ValueError, match=message):
            train(task, folder, max_epochs=1, **{"seed": 5, **settings})
    with pytest.raises(ValueError, match="a run of 'lines', not of 'curves'"):
        train(replace(task, kind="curves"), never_stopped, resume=True, seed=5)
    with pytest.raises(ValueError, match="task: learning_rate: 0.05 then, 0.1 now"):
        train(replace(task, learning_rate=0.1), never_stopped, resume=True, seed=5)
    assert os.listdir(tmp_path / "full") == ["letter.txt"]


def test_a_resume_state_is_never_unpickled(tmp_path):
    class Mischief:
        def __reduce__(self):
            return Path.touch, (tmp_path / "done",)

    train(Lines(), tmp_path / "run", max_epochs=1)
    for content in (pickle.dumps(Mischief()), (tmp_path / "run/state.ckpt").read_bytes()[:900]):
        (tmp_path / "run/state.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match="state is damaged or not written by hybridreg"):
            train(Lines(), tmp_path / "run", max_epochs=2, resume=True)
    torch.save({"state_dict": Mischief()}, tmp_path / "run/state.ckpt")
    with pytest.raises(ValueError, match="state is damaged or not written by hybridreg"):
        train(Lines(), tmp_path / "run", max_epochs=2, resume=True)
    assert not (tmp_path / "done").exists()


def test_settings_that_mean_nothing_are_refused_before_any_work(tmp_path):
    for settings, message in (
        ({"precision": "half"}, "precision is one of float32, bfloat16, float16"),
        ({"precision": "float16"}, "float16 needs a GPU"),
        ({"max_time_s": 0}, "time must be more than 0"),
        ({"max_epochs": -1}, "epochs must be more than 0"),
        ({"patience": 0}, "patience must be more than 0"),
        ({"device": "cuda:1", "devices": 2}, "cuda:1 is one device and 2"),
    ):
        with pytest.raises(ValueError, match=message):
            train(Lines(), tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_without_lightning_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ValueError, match=r"pip install 'hybridreg\[train\]'"):
        train(Lines(), tmp_path / "run")


def test_an_interrupt_leaves_a_run_that_continues(never_stopped, tmp_path):
    class Impatient(Lines):
        def losses(self, network, batch):
            terms = super().losses(network, batch)
            if len(self.calls) == 7:
                signal.raise_signal(signal.SIGINT)
            return terms

    handler = signal.default_int_handler
    before = signal.signal(signal.SIGINT, handler)  # shells have background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Impatient(calls=[]), tmp_path / "run", max_epochs=3, seed=5)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    checkpoint = train(Lines(), tmp_path / "run", max_epochs=3, seed=5, resume=True)
    assert same(checkpoint, never_stopped / "lines.safetensors")


@pytest.mark.slow
def test_two_processes_share_the_work_and_leave_one_checkpoint(never_stopped, tmp_path):
    script = tmp_path / "both.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_training import Lines, train\n"
        "print(train(Lines(), sys.argv[1], max_epochs=3, seed=5, devices=2))\n"
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run"], capture_output=True, text=True, check=True
    )
    checkpoint = tmp_path / "run/lines.safetensors"
    assert done.stdout.split() == [str(checkpoint)]
    card = read_checkpoint(checkpoint, kind="lines").card
    assert (card.training["steps"], card.training["devices"]) == (3 * STEPS, 2)
    assert not same(checkpoint, never_stopped / "lines.safetensors")  # twice the data a step
    assert json.loads((tmp_path / "run/run.json").read_text())["devices"] == 2
