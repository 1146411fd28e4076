"""Network weights as NAME.safetensors with a readable card, NAME.json, beside them.

The card describes the use of the weights, their training data and their scores, and holds the
checksum of the weights that it describes: a card is never read with others. Nothing is ever
unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError, validate_call
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from hybridreg.io.files import errors_of, naming, read_text, whole_file
from hybridreg.io.output import write_json

ENDING = ".safetensors"
SCHEMA = 2  # of cards; those of schema 1 lack the arguments, spacing, kernel and shooting
_PACKAGED = Path(__file__).parents[1] / "weights"
_NAMED_IN = ("weights", "correction")  # fields of methods
_COPY_BOTH = "copy both files again from where they came"

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Card:
    """Model card: the use, input and training of network weights.

    kind: what they are for, such as "fusion"; they are read only if this kind is requested.
    architecture: a description of the network. arguments: for building it again with
    ``Checkpoint.built``. training_grid: size of the training patches.
    intensity_rule: how intensities are scaled: a rule of ``intensity.to_unit``, or "unit" for
    values that are in [0, 1]. spacing_mm: of the input voxels, for networks that work in physical
    space.
    kernel, shooting: for networks that predict a momentum, see ``geodesics.Kernel`` and
    ``momentum.shot``. data_licence, weights_licence: "not stated" if unknown. split: the names
    of the training, validation and test data.
    domain: what the images of the training were like, see ``training_domain.TrainingDomain``.
    validation: scores by which the weights were chosen; test: scores computed once, at the end.
    training: how they were trained; version: of hybridreg; schema: of the card itself.
    """

    # Unknown names are errors, so that misspelled ones are not ignored.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    kind: str
    architecture: str
    training_grid: str
    intensity_rule: str
    data: str
    data_licence: str
    weights_licence: str
    split: dict[str, list[str]]
    seed: int
    validation: dict[str, float]
    test: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    schema: int = SCHEMA
    arguments: dict[str, Any] = field(default_factory=dict)
    spacing_mm: float | None = None
    kernel: dict[str, float] | None = None
    shooting: dict[str, Any] | None = None
    domain: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights by their names in a network, and their card."""

    tensors: Mapping[str, Tensor]
    card: Card
    path: Path

    def built(self, network_of: Callable[..., Network]) -> Network:
        """The network built from the card's arguments, with these weights, ready for use.

        network_of: a function of these arguments, with type annotations. ValueError for arguments
        that it does not take, and for weights that do not fit.
        """
        with errors_of(self.path), errors_of(card_path(self.path).name):
            try:
                network = validate_call(network_of)(**self.card.arguments)
            except ValidationError as error:
                problem = error.errors()[0]
                where = ".".join(map(str, problem["loc"]))
                raise ValueError(f"arguments.{where}: {problem['msg'].lower()}") from error
        return self.fill(network)

    def require(self, **wanted: Any):
        """Refuses weights whose card differs in fields such as spacing_mm,
        kernel or intensity_rule.
        """
        for name, value in wanted.items():
            found = getattr(self.card, name)
            if found != value:
                raise ValueError(
                    f"{self.path}: these weights were trained with {name} {found!r}, and {value!r} "
                    "is requested: leave it as it was in training, or train with it"
                )

    def fill(self, network: Network) -> Network:
        """Loads these weights into a network, ready for use; ValueError if they do not fit it."""
        with errors_of(self.path):
            _check_fit(self.tensors, network.state_dict(), self.card.architecture)
        network.load_state_dict(dict(self.tensors))
        return network.eval()


def write_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], *, card: Card) -> Path:
    """Writes weights (a network's ``state_dict()``) and their card; returns their path.

    Each file is complete or absent, and weights with the card of others are not read.
    """
    path = Path(path)
    with errors_of(path):
        if path.suffix != ENDING:
            raise ValueError(f"weights are written as NAME{ENDING}: choose such a name")
        _check_finite(tensors)
    content = bytes_of({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    with whole_file(path) as partial:
        partial.write_bytes(content)
    with whole_file(card_path(path)) as partial:
        write_json(partial, {**asdict(card), "sha256": _checksum(content)})
    return path


def read_checkpoint(name: str | Path, *, kind: str) -> Checkpoint:
    """The weights of a kind in a file, or packaged weights by name (``packaged_weights``)."""
    path = checkpoint_path(name)
    with naming(path):
        content = path.read_bytes()
        card, checksum = _read_card(card_path(path))
        if card.kind != kind:
            raise ValueError(
                f"these weights are for {card.kind!r} ({card.architecture}), and weights for "
                f"{kind!r} are needed: give another file"
            )
        if checksum != _checksum(content):
            raise ValueError(
                "these are not the weights that its card describes: one of the two is truncated, "
                f"damaged or of another training; {_COPY_BOTH}"
            )
        try:
            tensors = tensors_of(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"this is no safetensors file ({error}); {_COPY_BOTH}") from error
        _check_finite(tensors)
    return Checkpoint(tensors, card, path)


def checkpoint_path(name: str | Path) -> Path:
    """The file of a path or of a name of packaged weights; it need not exist."""
    path = Path(name)
    if path.suffix == ENDING:
        return path
    packaged = packaged_weights()
    if str(name) not in packaged:
        raise ValueError(
            f"there are no weights {str(name)!r}; packaged are: {', '.join(packaged) or 'none'}; "
            f"or give a file NAME{ENDING}"
        )
    return packaged[str(name)]


def packaged_weights() -> dict[str, Path]:
    """The weights that come with hybridreg, by name;
    some only for non-commercial use (see cards).
    """
    return {path.stem: path for path in sorted(_PACKAGED.rglob(f"*{ENDING}"))}


def read_card(name: str | Path) -> Card:
    """The card of weights alone, of any kind; a path, or a name of packaged weights."""
    path = checkpoint_path(name)
    with naming(path):
        return _read_card(card_path(path))[0]


def provenance(name: str | Path) -> dict[str, str]:
    """What weights were made from and may be used for, as in their card."""
    card = read_card(name)
    shown = ("kind", "architecture", "data", "data_licence", "weights_licence")
    return {field: getattr(card, field) for field in shown}


def weights_in(settings: Any) -> Iterator[str]:
    """The weights that the described settings of a method name, anywhere in them.

    Files of other formats are left out: networks of other packages have no card.
    """
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key in _NAMED_IN and isinstance(value, str):
                if Path(value).suffix == ENDING or value in packaged_weights():
                    yield value
            else:
                yield from weights_in(value)
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            yield from weights_in(value)


def card_path(path: Path) -> Path:
    """The path of the card of weights."""
    return path.with_suffix(".json")


def _read_card(path: Path) -> tuple[Card, str]:
    """The card and the checksum of the weights that it describes."""
    if not path.is_file():
        raise ValueError(f"its card {path.name} is missing beside it: copy it as well")
    try:
        values = json.loads(read_text(path))
        checksum = values.pop("sha256")
        if (schema := values.setdefault("schema", 1)) not in (1, SCHEMA):
            raise ValueError(
                f"it has schema {schema}, and this version of hybridreg reads up to {SCHEMA}"
            )
        return TypeAdapter(Card).validate_json(json.dumps(values)), checksum
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ValueError(f"its card {path.name}: {where}: {problem['msg'].lower()}") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(
            f"its card {path.name} is damaged or no card of weights ({error}); {_COPY_BOTH}"
        ) from error


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_finite(tensors: Mapping[str, Tensor]):
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} has weights that are NaN or infinite: the training diverged")


def _check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], architecture: str):
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not known" for name in found if name not in wanted]
    for name in found.keys() & wanted.keys():
        shapes = tuple(found[name].shape), tuple(wanted[name].shape)
        if shapes[0] != shapes[1]:
            problems.append(f"{name} has shape {shapes[0]} instead of {shapes[1]}")
    if problems:
        raise ValueError(
            f"the weights do not fit the network: {'; '.join(sorted(problems)[:3])}"
            f"{' and more' if len(problems) > 3 else ''}. They are for: {architecture}"
        )
