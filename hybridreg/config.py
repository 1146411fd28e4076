"""A method as a TOML table and back: the dataclass is the schema."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hybridreg.descriptors.base import Descriptor
from hybridreg.io.files import sha256_of
from hybridreg.methods.base import RegistrationMethod
from hybridreg.parameter_folder import parameter_folder
from hybridreg.quality import Intent
from hybridreg.registry import DESCRIPTORS, MEASURES, METHODS, TASKS, Registry, unknown_name
from hybridreg.similarity import Measure

# The type of a field determines the table in which the name of its value is looked up.
_REGISTRIES: dict[Any, Registry] = {
    RegistrationMethod: METHODS,
    Measure: MEASURES,
    Descriptor: DESCRIPTORS,
}


def methods() -> dict[str, str]:
    """Every method class by name, with one line of help, including those of other packages."""
    return {name: METHODS.help(name) for name in METHODS}


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
    return build({key: value for key, value in method_table(name).items() if key != "intent"})


def load_intent(name: str | Path | Mapping[str, Any]) -> Intent:
    """The intended use of a preset, file or table, from ``[intent]``."""
    declared = method_table(name).get("intent", {})
    valid = [field.name for field in fields(Intent)]
    for key in declared:
        if key not in valid:
            raise ValueError(unknown_name("an intent has no field", key, valid))
    return Intent(**declared)


def method_table(name: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """The table of a method with its intended use, as in a TOML file."""
    if isinstance(name, Mapping):
        return name
    path = Path(name)
    if path.suffix == ".toml":
        return _read_toml(path)
    if str(name) in presets():
        return _read_toml(parameter_folder() / f"{name}.toml")
    return {"name": str(name)}


def preset_of(method: object) -> str | None:
    """The name of a packaged preset, if a method is given by one."""
    return str(method) if isinstance(method, str) and method in presets() else None


def describe_method(method: RegistrationMethod) -> dict[str, Any]:
    """The table that ``load_method`` would build this method from.

    A method in no table is named by its "module:qualname", which cannot be loaded again.
    """
    return _described(method, METHODS)


def files_of(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{"files": {path: SHA-256}} of the files that described methods name; may be empty.

    Such as parameter files and weights. Packaged ones are left out: they are part of the version.
    """
    found = {name: sha256_of(Path(name)) for name in _files_in(settings)}
    return {"files": found} if found else {}


def _files_in(value: Any) -> Iterator[str]:
    if isinstance(value, str) and Path(value).suffix and Path(value).is_file():
        yield value
    items = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(items, (list, tuple)):
        for item in items:
            yield from _files_in(item)


def with_settings(method, **settings):
    """The method with fields such as threads, seed or device set, in its nested methods too.

    Settings that are None are ignored, and so are methods without such a field.
    """
    if not is_dataclass(method):
        return method
    changes = {}
    for field in fields(method):
        value = getattr(method, field.name)
        if settings.get(field.name) is not None:
            changes[field.name] = settings[field.name]
        elif is_dataclass(value):
            changes[field.name] = with_settings(value, **settings)
        elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
            changes[field.name] = tuple(with_settings(item, **settings) for item in value)
    return replace(method, **changes)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def load_training(name: str, path: str | Path):
    """The settings of a training task (a name in ``registry.TASKS``) from a TOML file.

    Relative paths in it start from its folder. ValueError for anything unknown.
    """
    TASKS.find(name)
    path = Path(path)
    settings = build({**_read_toml(path), "name": name}, TASKS)
    return replace(settings, **_beside(settings, path.parent))


def _beside(settings, folder: Path) -> dict[str, Any]:
    """The fields with paths, resolved relative to a folder."""
    found = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Path):
            found[field.name] = folder / value
        elif isinstance(value, tuple) and any(isinstance(item, Path) for item in value):
            found[field.name] = tuple(folder / item for item in value)
    return found


def build(table: Mapping[str, Any], registry: Registry = METHODS):
    """The object that a table with a name and fields describes (ValueError for anything unknown).

    ``wrap`` in a method's table lists wrappers around it, the outermost first: a short form of
    nested ``method`` tables.
    """
    kind = registry.kind
    if registry is METHODS and "wrap" in table:
        table = _wrapped(table)
    if "name" not in table:
        raise ValueError(f"a {kind} table needs a name, found only {sorted(table)}")
    name = str(table["name"])
    cls = registry.find(name, also=presets() if registry is METHODS else ())
    hints = get_type_hints(cls)
    valid = [field.name for field in fields(cls)]
    values = {}
    for key, value in table.items():
        if key == "name":
            continue
        if key not in valid:
            raise ValueError(unknown_name(f"the {kind} {name!r} has no field", key, valid))
        values[key] = _validated(f"{name}.{key}", hints[key], _nested(hints[key], value))
    missing = [f.name for f in fields(cls) if f.name not in values and _is_required(f)]
    if missing:
        raise ValueError(f"the {kind} {name!r} needs: {', '.join(missing)}")
    return cls(**values)


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _wrapped(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A method's table inside those that its ``wrap`` lists, the outermost first."""
    inner = {key: value for key, value in table.items() if key != "wrap"}
    wrappers = table["wrap"]
    if not isinstance(wrappers, (list, tuple)):
        raise ValueError(
            f'wrap lists the steps around a method, such as [{{ name = "unfolded" }}], '
            f"found {wrappers!r}"
        )
    for wrapper in reversed(wrappers):
        inner = _around(inner, {"name": wrapper} if isinstance(wrapper, str) else wrapper)
    return inner


def _around(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(outer, Mapping) or "name" not in outer:
        raise ValueError(f"a wrapper in wrap needs a name, found {outer!r}")
    name = str(outer["name"])
    if "method" in outer:
        raise ValueError(f"{name} in wrap needs no method: it wraps what comes after it")
    cls = METHODS.find(name)
    if "method" not in [field.name for field in fields(cls)]:
        raise ValueError(f"{name} in wrap is no step around a method: it has no field 'method'")
    return {**outer, "method": inner}


def _nested(hint, value):
    """A field's value with its tables and names replaced by the objects that its type requires."""
    if hint in _REGISTRIES and isinstance(value, (str, Mapping)):
        table = {"name": value} if isinstance(value, str) else value
        return build(table, _REGISTRIES[hint])
    inner = [part for part in get_args(hint) if part not in (Ellipsis, type(None))]
    if get_origin(hint) in (Union, UnionType) and len(inner) == 1:
        return _nested(inner[0], value)
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)) and len(inner) == 1:
        return tuple(_nested(inner[0], item) for item in value)
    return value


def _validated(where: str, hint, value):
    config = None if is_dataclass(hint) else ConfigDict(arbitrary_types_allowed=True)
    adapter = TypeAdapter(hint, config=config)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{where}: {problem['msg'].lower()}, found {value!r}") from None


def _described(value, registry: Registry | None = None):
    """A value for TOML and JSON; an object from a table by its name and fields."""
    if isinstance(value, (tuple, list)):
        return [_described(item, registry) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = (registry or METHODS).name_of(type(value))
    if not is_dataclass(value):
        return name if registry is None else {"name": name}
    hints = _hints(type(value))
    own = {
        field.name: _described(getattr(value, field.name), _registry_of(hints.get(field.name)))
        for field in fields(value)
    }
    return own if registry is None else {"name": name, **own}


def _hints(cls: type) -> dict[str, Any]:
    """The types of a class's fields; empty if they use names imported only for type checking."""
    try:
        return get_type_hints(cls)
    except NameError:
        return {}


def _registry_of(hint) -> Registry | None:
    """The table of a field's type, or of the items of a tuple or optional type."""
    if hint in _REGISTRIES:
        return _REGISTRIES[hint]
    found = (_registry_of(part) for part in get_args(hint))
    return next((registry for registry in found if registry is not None), None)
