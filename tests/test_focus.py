"""What the fusion network learns from: patches against scipy's blur, and the order of its answers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate
from torch import Generator
from typer.testing import CliRunner

from hybridreg.cli.app import app
from hybridreg.cli.train import seconds
from hybridreg.fusion.focus import FocusTask, Patches, accuracies, trained_network
from hybridreg.io.photographs import read_photographs

CAMERA, CLOCK, COINS = "camera.png", "clock_motion.png", "coins.png"


def photograph(seed: int = 0, size: tuple[int, int] = (57, 63), low=100, high=156) -> torch.Tensor:
    """Noise on a ramp: every patch can be told from every other."""
    generator = Generator().manual_seed(seed)
    noise = torch.randint(low, high, size, generator=generator)
    return (noise + torch.arange(size[1]) // 4).to(torch.uint8)


def gaussian() -> np.ndarray:
    """Sigma 2, cut to 7 x 7."""
    along = np.exp(-(np.arange(-3, 4) ** 2) / 8)
    return np.outer(along, along) / along.sum() ** 2


def windows(image: np.ndarray) -> np.ndarray:
    """All 16 x 16 patches, one a row."""
    return np.lib.stride_tricks.sliding_window_view(image, (16, 16)).reshape(-1, 256)


def place(patch: np.ndarray, image: np.ndarray) -> int:
    return int(np.abs(windows(image) - patch.ravel()).max(1).argmin())


def test_patches_are_of_the_photograph_and_blurred_one_to_five_times():
    photo = photograph()
    image = photo.numpy() / 255
    blurred = [image]
    for _ in range(5):
        blurred.append(correlate(blurred[-1], gaussian(), mode="nearest"))
    sharp, soft = Patches({"a": photo}, varied=False).draw(60, Generator().manual_seed(1))
    assert sharp.shape == soft.shape == (60, 1, 16, 16)
    levels = set()
    for a, b in zip(sharp.numpy(), soft.numpy(), strict=True):
        where = place(a, image)
        assert np.abs(windows(image)[where] - a.ravel()).max() < 1e-6
        errors = [np.abs(windows(level)[where] - b.ravel()).max() for level in blurred]
        assert min(errors) < 1e-5  # float32 against float64
        levels.add(int(np.argmin(errors)))
    assert levels == {1, 2, 3, 4, 5}


def test_varied_patches_are_mirrored_turned_and_of_other_contrast():
    photo = photograph()
    image = photo.numpy() / 255
    laid = [np.rot90(m, turns) for m in (image, image.T) for turns in range(4)]
    sharp, _ = Patches({"a": photo}, varied=True).draw(60, Generator().manual_seed(2))
    ways, gains = set(), []
    for patch in sharp[:, 0].double().numpy():
        flat = patch.ravel() - patch.mean()
        found = []
        for way, turned in enumerate(laid):
            rows = windows(turned) - windows(turned).mean(1, keepdims=True)
            match = (rows @ flat) / np.linalg.norm(rows, axis=1) / np.linalg.norm(flat)
            best = np.abs(match).argmax()
            gain = np.linalg.norm(flat) / np.linalg.norm(rows[best]) * np.sign(match[best])
            found.append((abs(match[best]), way, gain))
        score, way, gain = max(found)
        assert score > 0.9999
        ways.add(way)
        gains.append(gain)
    assert ways == set(range(8))
    assert 0.5 <= np.abs(gains).min() < 0.7 and 1.3 < np.abs(gains).max() <= 1.5
    assert 15 < sum(gain < 0 for gain in gains) < 45  # of 60, half as negatives


def test_smaller_copies_of_large_photographs_are_drawn_too():
    """Stripes of 8 pixels have stripes of 4 in the half-sized copy; no other copy has."""
    stripes = torch.zeros(128, 128, dtype=torch.uint8)
    stripes[(torch.arange(128) // 4) % 2 == 0] = 255
    sharp, _ = Patches({"stripes": stripes}, varied=True).draw(100, Generator().manual_seed(3))
    across = torch.where(
        (sharp.std(2).amax((1, 2)) > sharp.std(3).amax((1, 2)))[:, None],
        sharp[:, 0, :, 8],
        sharp[:, 0, 8],
    )
    crossings = ((across[:, 1:] > 0.5) != (across[:, :-1] > 0.5)).sum(1)
    assert (crossings >= 7).any() and (crossings <= 4).any()


def test_patches_without_detail_are_not_drawn():
    photo = photograph(size=(80, 120))
    photo[:, :70] = 90
    sharp, _ = Patches({"a": photo}, varied=False).draw(200, Generator().manual_seed(4))
    assert (sharp.flatten(1).var(1, correction=0) > 25 / 255**2).all()
    faint = photograph(low=100, high=108) // 8 * 8  # steps of 8 over many columns
    with pytest.raises(ValueError, match="too uniform"):
        Patches({"a": faint // 16}, varied=False).draw(1, Generator().manual_seed(4))


def test_the_same_generator_draws_the_same_patches():
    patches = Patches({"a": photograph(), "b": photograph(1)}, varied=True)
    first, again, other = (patches.draw(8, Generator().manual_seed(s))[1] for s in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.fixture(scope="module")
def learned() -> tuple[FocusTask, torch.nn.Module]:
    """A task and its network after a few steps, which the contrast of such noise asks no more
    of.
    """
    task = FocusTask({"a": photograph()}, {"b": photograph(1)}, batch_size=32, learning_rate=1e-3)
    random = Generator().manual_seed(0)
    network = task.network(random)
    optimizer, schedule = task.optimizer(network)
    for _ in range(25):
        optimizer.zero_grad()
        task.losses(network, task.batch(random))["softmax"].backward()
        optimizer.step()
        schedule.step()
    return task, network


def test_a_few_steps_teach_the_network_to_tell_sharp_from_blurred(learned):
    task, network = learned
    before = task.network(Generator().manual_seed(0))
    batch = next(iter(task.validation()))
    with torch.no_grad():
        losses = [task.losses(n, batch)["softmax"].item() for n in (before, network)]
        accuracy = task.scores(network, batch)["accuracy"].item()
    assert losses[0] == pytest.approx(np.log(2), rel=0.05)  # it knows nothing
    assert losses[1] < 0.2 and accuracy > 0.95
    fractions = accuracies(network, {"b": photograph(1), "c": photograph(2)}, number=32)
    assert set(fractions) == {"b", "c", "accuracy"} and fractions["accuracy"] > 0.95


def test_the_weight_of_the_sharp_image_is_the_large_one_in_either_order(learned):
    _, network = learned
    sharp = photograph(3).numpy() / 255
    soft = correlate(correlate(sharp, gaussian()), gaussian())
    a, b = (torch.from_numpy(x).float() for x in (sharp, soft))
    assert network.weight_map(a, b).mean() > 0.9
    assert network.weight_map(b, a).mean() < 0.1


def test_tasks_that_cannot_be_learned_or_evaluated_are_refused():
    a, b = photograph(), photograph(1)
    for photographs, judged, message in (
        ({}, {"b": b}, "give photographs for training, and others"),
        ({"a": a}, {}, "give photographs for training, and others"),
        ({"a": a, "b": b}, {"b": b}, "b is used for both training and evaluation"),
        ({"a": a[:45]}, {"b": b}, "a has 63 x 45 pixels; photographs need 46 x 46"),
        ({"a": a}, {"b": b[:, :30]}, "b has 30 x 57 pixels"),
        ({"a": torch.full((60, 60), 9, dtype=torch.uint8)}, {"b": b}, "too uniform"),
    ):
        with pytest.raises(ValueError, match=message):
            FocusTask(photographs, judged)
    with pytest.raises(ValueError, match="optimizer is one of adam, sgd; found 'lion'"):
        FocusTask({"a": a}, {"b": b}, optimizer_name="lion")


def test_the_command_trains_from_a_folder_and_tells_what_came_out(tmp_path):
    pytest.importorskip("lightning")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(photograph(number).numpy()).save(tmp_path / f"photos/{number}.png")
    config = tmp_path / "config.toml"
    config.write_text('images = ["photos"]\nbatch_size = 4\nweights_licence = "CC0"\n')
    run = ["train", "fusion", str(config), "-o", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(app, [*run, "--max-time", "1s"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    card = answer["card"]
    assert card["split"] == {"train": ["1", "2"], "validation": ["0"], "test": []}
    assert card["training"]["ended"] == "the time was up" and card["weights_licence"] == "CC0"
    assert card["validation"]["accuracy"] >= 0.5
    network = trained_network(answer["checkpoint"])
    assert network.weight_map(torch.rand(20, 24), torch.rand(20, 24)).shape == (20, 24)
    again = CliRunner().invoke(app, [*run, "--max-time", "1s"])
    assert again.exit_code == 2 and "holds a run already" in json.loads(again.stdout)["error"]


@pytest.mark.parametrize(
    ("task", "line", "arguments", "message"),
    [
        ("fusion", "", ["--max-time", "soon"], "30m, 2h or 00:30:00"),
        ("fusion", 'validation = ["no.png"]', [], "no.png: there is no such file"),
        ("fusion", "batch = 3", [], "no field 'batch'; did you mean 'batch_size'"),
        ("fusion", "batch_size = 'x'", [], "fusion.batch_size"),
        ("fusion", "learning_rate =", [], "not valid TOML"),
        ("fusions", "", [], "no training task 'fusions'; did you mean 'fusion'"),
        ("fusion-fast", 'teacher = "nobody"', [], "no weights 'nobody'"),
    ],
)
def test_wrong_settings_end_in_words_before_any_work(tmp_path, task, line, arguments, message):
    pytest.importorskip("lightning")
    for number in range(2):
        Image.fromarray(photograph(number).numpy()).save(tmp_path / f"{number}.png")
    config = tmp_path / "config.toml"
    config.write_text(f'images = ["."]\n{line}\n')
    run = ["train", task, str(config), "-o", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(app, run + arguments)
    assert done.exit_code == 2 and message in json.loads(done.stdout)["error"]
    assert not (tmp_path / "run").exists()


def test_times_are_read_as_people_write_them():
    for text, value in (
        ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400),
        ("01:30", 90), ("00:30:00", 1800), ("2:00:00:00", 172800),
    ):  # fmt: skip
        assert seconds(text) == value
    for text in ("30", "", "-5m", "1h30", "1:2:3"):
        with pytest.raises(ValueError, match="a time is given as"):
            seconds(text)


def test_our_weights_are_right_on_photographs_they_never_saw(data):
    network = trained_network()
    photographs = read_photographs(
        [data / "natural_skimage" / name for name in (CAMERA, CLOCK, COINS)]
    )
    fractions = accuracies(network, photographs, number=200)
    assert fractions["accuracy"] >= 0.97
