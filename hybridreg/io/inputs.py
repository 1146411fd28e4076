"""Checks whether the input files of finished cases have changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hybridreg import progress
from hybridreg.io.files import sha256_of_all

log = logging.getLogger(__name__)
_NAMED = 10  # cases, in the warning


def changed_inputs(
    now: Mapping[str, Mapping[str, Path]], then: Mapping[str, Mapping[str, str]]
) -> dict[str, tuple[str, ...]]:
    """The finished cases whose input files have changed, each with the inputs that differ.

    now: case -> input -> file. then: case -> input -> SHA-256 of the file that the case was made
    from. A warning names the cases. Only hashes are compared: a changed copy may keep its size and
    time.
    """
    if now:
        progress.report(0.0, "comparing inputs")
    hashes = sha256_of_all(path for paths in now.values() for path in paths.values())
    changed = {}
    for case, paths in now.items():
        found = {name: hashes[path] for name, path in paths.items()}
        different = found.items() ^ then[case].items()
        if different:
            changed[case] = tuple(sorted({name for name, _ in different}))
    if changed:
        cases = [f"{case}: {', '.join(names)}" for case, names in changed.items()]
        more = ["..."] if len(cases) > _NAMED else []
        log.warning(
            "the inputs of %d finished case(s) have changed (%s): they are made again",
            *(len(cases), "; ".join(cases[:_NAMED] + more)),
        )
    return changed
