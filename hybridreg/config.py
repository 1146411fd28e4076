"""A method as a TOML table and back: the dataclass is the schema."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hybridreg.io.files import sha256_of
from hybridreg.methods import METHODS
from hybridreg.parameter_folder import parameter_folder
from hybridreg.quality import Intent


def methods() -> dict[str, str]:
    """Every method class by name, with one line of help: ours and those of other packages."""
    known = {name: help_line for name, (_, help_line) in METHODS.items()}
    for point in entry_points(group="hybridreg.methods"):
        known.setdefault(point.name, f"from {point.dist.name if point.dist else point.value}")
    return known


def presets() -> dict[str, str]:
    """Every packaged preset by name, with the first comment line of its file."""
    found = {}
    for path in sorted(parameter_folder().glob("*.toml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        found[path.stem] = first.removeprefix("#").strip()
    return found


def load_method(name: str | Path | Mapping[str, Any]):
    """The method that a preset's name, a method's name, a TOML file or a table describes.

    Raises ValueError with the list of valid names or fields for anything unknown.
    """
    return _build({key: value for key, value in _table(name).items() if key != "intent"})


def load_intent(name: str | Path | Mapping[str, Any]) -> Intent:
    """What the same preset, file or table declares itself meant for, under ``[intent]``."""
    declared = _table(name).get("intent", {})
    valid = [field.name for field in fields(Intent)]
    for key in declared:
        if key not in valid:
            raise ValueError(_unknown("an intent has no field", key, valid))
    return Intent(**declared)


def _table(name: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(name, Mapping):
        return name
    path = Path(name)
    if path.suffix == ".toml":
        return _read_toml(path)
    if str(name) in presets():
        return _read_toml(parameter_folder() / f"{name}.toml")
    return {"name": str(name)}


def preset_of(method: object) -> str | None:
    """The name, where a method is given by the name of a packaged preset."""
    return str(method) if isinstance(method, str) and method in presets() else None


def describe_method(method) -> dict[str, Any]:
    """The table that ``load_method`` would build this method from."""
    table: dict[str, Any] = {"name": _name_of(type(method))}
    for field in fields(method):
        table[field.name] = _plain(getattr(method, field.name))
    return table


def files_of(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{"files": {path: SHA-256}} of the elastix files that described methods name; else empty.

    Packaged ones are left out: they belong to the version.
    """
    found = {name: sha256_of(Path(name)) for name in _parameter_files(settings)}
    return {"files": found} if found else {}


def _parameter_files(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (name for name in value.get("parameter_files", ()) if Path(name).is_file())
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _parameter_files(item)


def with_settings(method, **settings):
    """The method with fields such as threads, seed or device set, in its nested methods too.

    Settings that are None are left alone, and so are methods without such a field.
    """
    changes = {}
    for field in fields(method):
        value = getattr(method, field.name)
        if settings.get(field.name) is not None:
            changes[field.name] = settings[field.name]
        elif is_dataclass(value):
            changes[field.name] = with_settings(value, **settings)
        elif isinstance(value, tuple) and value and all(is_dataclass(item) for item in value):
            changes[field.name] = tuple(with_settings(item, **settings) for item in value)
    return replace(method, **changes)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no method file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def _build(table: Mapping[str, Any]):
    if "name" not in table:
        raise ValueError(f"a method table needs a name, found only {sorted(table)}")
    cls = _class(str(table["name"]))
    hints = get_type_hints(cls)
    valid = [field.name for field in fields(cls)]
    values = {}
    for key, value in table.items():
        if key == "name":
            continue
        if key not in valid:
            raise ValueError(_unknown(f"the method {table['name']!r} has no field", key, valid))
        values[key] = _validated(f"{table['name']}.{key}", hints[key], _nested(value))
    try:
        return cls(**values)
    except TypeError:
        missing = [f.name for f in fields(cls) if f.name not in values]
        raise ValueError(
            f"the method {table['name']!r} needs more than was given; fields not set: "
            f"{', '.join(missing)}"
        ) from None


def _nested(value):
    """Tables with a name, alone or in a list, become methods."""
    if isinstance(value, Mapping) and "name" in value:
        return _build(value)
    if isinstance(value, list) and any(isinstance(v, Mapping) and "name" in v for v in value):
        return tuple(_nested(item) for item in value)
    return value


def _validated(where: str, hint, value):
    config = None if is_dataclass(hint) else ConfigDict(arbitrary_types_allowed=True)
    adapter = TypeAdapter(hint, config=config)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{where}: {problem['msg'].lower()}, found {value!r}") from None


def _class(name: str) -> type:
    if name in METHODS:
        module, _, attribute = METHODS[name][0].partition(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group="hybridreg.methods", name=name):
        return point.load()
    raise ValueError(_unknown("there is no method", name, [*presets(), *methods()]))


def _name_of(cls: type) -> str:
    for name in methods():
        if _class(name) is cls:
            return name
    raise ValueError(f"{cls.__qualname__} is not in the table of methods")


def _unknown(what: str, found: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(found, valid, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} {found!r}{hint}; valid are: {', '.join(valid)}"


def _plain(value):
    if is_dataclass(value):
        known = any(_class(name) is type(value) for name in methods())
        return describe_method(value) if known else asdict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
