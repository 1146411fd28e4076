"""The methods of a comparison, by name, each with its settings and their hash."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hybridreg.config import describe_method, files_of, load_method, method_table, with_settings
from hybridreg.io.tables import CaseRow
from hybridreg.methods.base import RegistrationMethod
from hybridreg.methods.given import Given
from hybridreg.records import config_hash
from hybridreg.registry import PEERS

ALWAYS = ("identity", "rigid")  # rows of every comparison
ALL_PEERS = "peers"

Source = str | Path | Mapping[str, Any] | RegistrationMethod


@dataclass(frozen=True)
class Contender:
    """One method of a comparison.

    source: as ``pipeline.register`` takes it. settings: all that its results depend on besides the
    case. added: a baseline that was not asked for. pattern: of the files of transforms made
    elsewhere, in place of a method.
    """

    name: str
    source: Source
    settings: Mapping[str, Any] = field(hash=False)
    added: bool = False
    pattern: str = ""

    @property
    def config(self) -> str:
        return config_hash(self.settings)

    def transform_of(self, row: CaseRow) -> Path | None:
        """The file of its transform of a case; None for a method that registers."""
        return path_of(self.pattern, row) if self.pattern else None

    def source_for(self, row: CaseRow) -> Source:
        path = self.transform_of(row)
        return self.source if path is None else Given(str(path))


def contenders(
    methods: Sequence[Source] | Mapping[str, Source],
    transforms: Mapping[str, str] | None = None,
    *,
    seed: int | None = None,
    device: str = "cpu",
) -> tuple[list[Contender], dict[str, str]]:
    """The methods that are compared, the baselines first, and those left out by name with reasons.

    methods: each a preset, a method's name, a TOML file, a table or an object; an object or a table
    without a file is named by its key in a mapping. "peers" stands for all installed peers.
    transforms: name -> pattern, see ``path_of``. ValueError for anything unknown or named twice.
    """
    named = list(methods.items()) if isinstance(methods, Mapping) else [*map(_named, methods)]
    absent = {}
    if any(source == ALL_PEERS for _, source in named):
        named = [pair for pair in named if pair[1] != ALL_PEERS]
        asked = {name for name, _ in named}
        for peer in PEERS:
            if reason := missing(load_method(peer)):
                absent[peer] = reason
            elif peer not in asked:
                named.append((peer, peer))
    known = {name for name, _ in named}
    baselines = [(name, name) for name in ALWAYS if name not in known]
    found = [_contender(*pair, seed, device, added=True) for pair in baselines]
    found += [_contender(*pair, seed, device) for pair in named]
    for name, pattern in (transforms or {}).items():
        pattern = str(Path(pattern).absolute())
        found.append(Contender(name, "given", {"transforms": pattern}, pattern=pattern))
    if not named and not transforms:
        raise ValueError("there is nothing to compare: name at least one method")
    _check_names(found)
    return found, absent


def path_of(pattern: str, row: CaseRow) -> Path:
    """A pattern with {name}, {subject}, {fixed}, {moving} (file names without ending) and further
    columns of the table replaced by those of a case (ValueError for others)."""
    values = {"name": row.name, "subject": row.subject, **row.more}
    values |= {side: getattr(row, side).name.split(".")[0] for side in ("fixed", "moving")}

    def value(found: re.Match) -> str:
        if found[1] not in values:
            raise ValueError(
                f"the pattern {pattern!r} has {found[0]}; known are "
                f"{', '.join(f'{{{name}}}' for name in values)}"
            )
        return values[found[1]]

    return Path(re.sub(r"\{(\w+)\}", value, pattern))


def missing(method: Any) -> str:
    """What must be installed before a method, or one inside it, can run; empty if nothing."""
    reasons = [part.missing() for part in parts(method) if hasattr(part, "missing")]
    return next(filter(None, reasons), "")


def parts(method: Any) -> Iterator[Any]:
    """A method and all methods, measures and descriptors inside it."""
    yield method
    if is_dataclass(method):
        for each in fields(method):
            value = getattr(method, each.name)
            for item in value if isinstance(value, tuple) else (value,):
                if is_dataclass(item):
                    yield from parts(item)


def _named(source: Source) -> tuple[str, Source]:
    if isinstance(source, (str, Path)):
        path = Path(source)
        return (path.stem if path.suffix == ".toml" else str(source)), source
    if isinstance(source, Mapping):
        return str(source.get("name", "")), source
    return type(source).__name__, source


def _contender(
    name: str, source: Source, seed: int | None, device: str, *, added: bool = False
) -> Contender:
    if isinstance(source, (str, Path)) and Path(source).suffix == ".toml":
        source = method_table(Path(source))  # as it is now
    described = isinstance(source, (str, Path, Mapping))
    method = with_settings(load_method(source) if described else source, seed=seed, device=device)
    if reason := missing(method):
        raise ValueError(f"{name}: {reason}")
    settings = {"method": describe_method(method)}
    settings |= files_of(settings)
    versions = {
        k: v for part in parts(method) for k, v in getattr(part, "versions", dict)().items()
    }
    settings |= {"versions": versions} if versions else {}
    return Contender(name, source, json.loads(json.dumps(settings, default=str)), added)


def _check_names(found: Iterable[Contender]):
    seen: dict[str, str] = {}
    for each in found:
        if not re.fullmatch(r"\w([\w .+-]*[\w+-])?", each.name):
            raise ValueError(
                f"the method {each.name!r} names a folder: use letters, digits, '-', '_', '+', '.' "
                "and spaces"
            )
        if each.name.casefold() in seen:
            raise ValueError(
                f"two methods have the name {each.name!r}: each needs its own, so rename one file "
                "(in Python, give a mapping from names to methods)"
            )
        seen[each.name.casefold()] = each.name
