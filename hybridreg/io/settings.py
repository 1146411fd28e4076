"""What a folder was begun with, and the refusal to continue it with anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_in_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they come back from a JSON file."""
    return json.loads(json.dumps(values))


def check_same_settings(found: Any, wanted: Mapping[str, Any]):
    """Refuses other settings than those found in a folder (ValueError); both as in JSON.

    One that is not there is None.
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
    """The first place where two values differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in {**wanted, **found}:
            if found.get(name) != wanted.get(name):
                return f"{name}: {_difference(found.get(name), wanted.get(name))}"
    return f"{found!r} then, {wanted!r} now"
