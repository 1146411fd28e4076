"""Weights and cards: what is written is read again, and what is not sound is refused in words."""

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hybridreg.io import checkpoints
from hybridreg.io.checkpoints import (
    Card,
    card_path,
    packaged_weights,
    read_checkpoint,
    weights_in,
    write_checkpoint,
)

CARD = Card(
    kind="test",
    architecture="two layers",
    training_grid="any",
    intensity_rule="none",
    data="none",
    data_licence="CC0",
    weights_licence="Apache-2.0",
    split={"train": ["a", "b"], "validation": ["c"]},
    seed=3,
    validation={"accuracy": 0.75},
    training={"steps": 12, "ended": "all epochs were done"},
)


def network(width: int = 5) -> nn.Module:
    generator = torch.Generator().manual_seed(width)
    made = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    for parameter in made.parameters():
        nn.init.normal_(parameter, generator=generator)
    made(torch.randn(20, 3, generator=generator))  # so that the normalization has statistics
    return made


@pytest.fixture
def written(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "net.safetensors", network().state_dict(), card=CARD)


def test_weights_and_card_come_back_as_they_were_written(written):
    checkpoint = read_checkpoint(written, kind="test")
    filled = checkpoint.fill(network(5))
    assert checkpoint.card == CARD
    assert not filled.training
    for name, values in network().state_dict().items():
        assert torch.equal(filled.state_dict()[name], values), name


def test_weights_stored_in_half_precision_fill_a_network_of_full_precision(tmp_path):
    halves = {
        name: values.half() if values.is_floating_point() else values
        for name, values in network().state_dict().items()
    }
    path = write_checkpoint(tmp_path / "half.safetensors", halves, card=CARD)
    filled = read_checkpoint(path, kind="test").fill(network())
    weights = filled[0].weight
    assert weights.dtype == torch.float32
    assert torch.equal(weights, network()[0].weight.half().float())


def test_a_transposed_view_is_written_as_it_reads(tmp_path):
    values = torch.arange(6.0).reshape(2, 3).T
    path = write_checkpoint(tmp_path / "view.safetensors", {"w": values, "v": values}, card=CARD)
    assert torch.equal(read_checkpoint(path, kind="test").tensors["v"], values)


def test_weights_for_something_else_are_refused(written):
    with pytest.raises(
        ValueError, match=r"net\.safetensors: these weights are for 'test'.*'fusion'"
    ):
        read_checkpoint(written, kind="fusion")


def test_weights_without_their_card_are_refused(written):
    card_path(written).unlink()
    with pytest.raises(ValueError, match=r"card net\.json is missing.*copy it"):
        read_checkpoint(written, kind="test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("data_licence"), "data_licence: field required"),
        (lambda card: card.update(seeds=4), "seeds"),
        (lambda card: card.update(seed="three"), "seed: .*integer"),
        (lambda card: card.pop("sha256"), "no card of weights"),
    ],
)
def test_a_card_that_is_not_complete_is_refused(written, change, message):
    card = json.loads(card_path(written).read_text())
    change(card)
    card_path(written).write_text(json.dumps(card))
    with pytest.raises(ValueError, match=f"net.json.*{message}"):
        read_checkpoint(written, kind="test")


def layers(width: int, depth: int = 2) -> nn.Module:
    return network(width) if depth == 2 else nn.Linear(3, width)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 5}, None),
        ({"width": "wide"}, r"net\.json: arguments\.width: .*integer"),
        ({"width": 5, "heads": 3}, r"net\.json: arguments\.heads: unexpected"),
        ({}, r"net\.json: arguments\.width: missing"),
        ({"width": 6}, r"0\.weight has shape \(5, 3\) instead of \(6, 3\)"),
    ],
)
def test_a_network_is_built_again_from_its_card(tmp_path, arguments, message):
    card = replace(CARD, arguments=arguments)
    path = write_checkpoint(tmp_path / "net.safetensors", network(5).state_dict(), card=card)
    checkpoint = read_checkpoint(path, kind="test")
    if message is None:
        assert torch.equal(checkpoint.built(layers)[0].weight, network(5)[0].weight)
        return
    with pytest.raises(ValueError, match=message):
        checkpoint.built(layers)


def test_weights_of_another_spacing_or_kernel_are_refused(tmp_path):
    kernel = {"a": 16.0, "b": 16.0, "c": 1.0, "power": 2.0}
    card = replace(CARD, spacing_mm=2.0, kernel=kernel)
    path = write_checkpoint(tmp_path / "net.safetensors", network().state_dict(), card=card)
    checkpoint = read_checkpoint(path, kind="test")
    checkpoint.require(spacing_mm=2.0, kernel=kernel)
    with pytest.raises(ValueError, match="trained with spacing_mm 2.0, and 1.0 is requested"):
        checkpoint.require(spacing_mm=1.0)
    with pytest.raises(ValueError, match="trained with kernel .*'a': 16.0.*'a': 4.0"):
        checkpoint.require(kernel={**kernel, "a": 4.0})


def test_cards_of_the_first_schema_are_read_and_those_of_the_future_refused(written):
    path = card_path(written)
    card = json.loads(path.read_text())
    new = ("schema", "arguments", "spacing_mm", "kernel", "shooting")
    path.write_text(json.dumps({name: card[name] for name in card if name not in new}))
    assert read_checkpoint(written, kind="test").card.schema == 1
    path.write_text(json.dumps({**card, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99, and this version of hybridreg reads up to 2"):
        read_checkpoint(written, kind="test")


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "\0\1\2", "[" * 100_000])
def test_a_card_that_is_no_card_is_refused(written, text):
    card_path(written).write_text(text)
    with pytest.raises(ValueError, match="net.json is damaged or no card"):
        read_checkpoint(written, kind="test")


def test_weights_cut_short_anywhere_or_with_one_bit_changed_are_refused(written):
    content = written.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (*(content[:n] for n in range(0, len(content), 37)), bytes(flipped)):
        written.write_bytes(damaged)
        with pytest.raises(ValueError, match="truncated, damaged or of another training"):
            read_checkpoint(written, kind="test")


def test_a_file_that_is_no_safetensors_is_refused_and_never_unpickled(written, tmp_path):
    class Mischief:
        def __reduce__(self):
            return Path.touch, (tmp_path / "done",)

    content = pickle.dumps(Mischief())
    card = json.loads(card_path(written).read_text())
    card["sha256"] = hashlib.sha256(content).hexdigest()
    card_path(written).write_text(json.dumps(card))
    written.write_bytes(content)
    with pytest.raises(ValueError, match="no safetensors file"):
        read_checkpoint(written, kind="test")
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (network(6), r"0\.weight has shape \(5, 3\) instead of \(6, 3\)"),
        (nn.Sequential(*network(), nn.Linear(2, 2)), "3.bias is missing.*two layers"),
        (network()[:2], "2.bias is not known"),
    ],
)
def test_weights_that_do_not_fit_the_network_are_refused(written, wanted, message):
    before = {name: values.clone() for name, values in wanted.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        read_checkpoint(written, kind="test").fill(wanted)
    assert all(torch.equal(before[name], v) for name, v in wanted.state_dict().items())


def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path, monkeypatch):
    weights = {"w": torch.tensor([1.0, float("nan")])}
    path = tmp_path / "nan.safetensors"
    with pytest.raises(ValueError, match="w has weights that are NaN"):
        write_checkpoint(path, weights, card=CARD)
    assert not any(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_check_finite", lambda tensors: None)
        write_checkpoint(path, weights, card=CARD)
    with pytest.raises(ValueError, match=r"nan\.safetensors: w has weights that are NaN"):
        read_checkpoint(path, kind="test")


def test_a_write_that_fails_between_the_files_leaves_nothing_that_is_read(written, monkeypatch):
    def full(path, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(written, network(5).state_dict() | {"x": torch.ones(2)}, card=CARD)
    with pytest.raises(ValueError, match="not the weights that its card describes"):
        read_checkpoint(written, kind="test")
    assert {path.name for path in written.parent.iterdir()} == {"net.safetensors", "net.json"}


def test_a_missing_file_or_name_is_said_with_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(tmp_path / "none.safetensors", kind="test")
    with pytest.raises(ValueError, match="no weights 'none'; packaged are"):
        read_checkpoint("none", kind="test")
    with pytest.raises(ValueError, match="NAME.safetensors"):
        write_checkpoint(tmp_path / "net.pt", {}, card=CARD)


def test_packaged_weights_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_PACKAGED", tmp_path)
    (tmp_path / "noncommercial").mkdir()
    path = tmp_path / "noncommercial" / "ours.safetensors"
    write_checkpoint(path, network().state_dict(), card=replace(CARD, kind="mine"))
    assert packaged_weights() == {"ours": path}
    assert read_checkpoint("ours", kind="mine").path == path


def test_packaged_weights_are_small_and_have_cards_that_state_their_licences():
    sizes = []
    for name, path in packaged_weights().items():
        card = json.loads(card_path(path).read_text())
        assert read_checkpoint(name, kind=card["kind"]).card.version
        assert "not stated" not in (card["data_licence"], card["weights_licence"])
        sizes.append(path.stat().st_size)
    assert all(size <= 15e6 for size in sizes) and sum(sizes) <= 60e6


def test_weights_of_another_format_have_no_card_to_read():
    settings = {"stages": [{"weights": "dirnet-brain"}, {"name": "impact", "weights": "mind.pt"}]}
    assert list(weights_in({**settings, "correction": ""})) == ["dirnet-brain"]
