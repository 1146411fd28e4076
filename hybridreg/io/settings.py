"""Checks that an output folder is continued with the settings it was started with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_in_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values after a round trip through JSON."""
    return json.loads(json.dumps(values))


def check_same_settings(found: Any, wanted: Mapping[str, Any]):
    """Raises ValueError for settings that differ from those found in a folder; both as in JSON.

    A missing setting counts as None.
    """
    if not isinstance(found, dict):
        raise ValueError("its settings are damaged: choose another folder")
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"this was started with other settings ({name}: "
                f"{_difference(found.get(name), wanted.get(name))}): give the same ones, or choose "
                "another folder"
            )


def _difference(found: Any, wanted: Any) -> str:
    """The first place where two values differ, as text."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in {**wanted, **found}:
            if found.get(name) != wanted.get(name):
                return f"{name}: {_difference(found.get(name), wanted.get(name))}"
    return f"{found!r} then, {wanted!r} now"
