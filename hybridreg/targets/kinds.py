"""The table of kinds of targets: a name, one line of help, and how its settings are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hybridreg.config import load_intent, load_method, with_settings
from hybridreg.targets.field import Field
from hybridreg.targets.known import Known
from hybridreg.targets.momentum import Momentum, MomentumFromField, shooting_stage
from hybridreg.targets.target import Kind


class _Entry(NamedTuple):
    """help: one line. load: of its options. options: their names."""

    help: str
    load: Callable[..., Kind]
    options: tuple[str, ...]


def _field(method: str | Path | Mapping[str, Any] = "bspline", device: str | None = None) -> Field:
    loaded = with_settings(load_method(method), device=device)
    return Field(loaded, load_intent(method))


def _momentum(
    method: str | Path = "brain-lddmm", start: str | Path | None = None, device: str | None = None
) -> Momentum:
    loaded = with_settings(load_method(method), device=device)
    initial_method = None if start is None else with_settings(load_method(start), device=device)
    return Momentum(loaded, initial_method, load_intent(method))


def _momentum_from_elastix(
    method: str | Path = "brain-mr", lddmm: str | Path = "brain-lddmm"
) -> MomentumFromField:
    shooting = shooting_stage(load_method(lddmm))
    return MomentumFromField(load_method(method), shooting, load_intent(method))


KINDS: dict[str, _Entry] = {
    "momentum": _Entry(
        "the initial momentum that LDDMM finds", _momentum, ("method", "start", "device")
    ),
    "momentum-from-elastix": _Entry(
        "the momentum whose geodesic is nearest to a deformation found by elastix",
        _momentum_from_elastix,
        ("method", "lddmm"),
    ),
    "field": _Entry("the deformation that a method finds", _field, ("method", "device")),
    "known": _Entry(
        "a real image randomly deformed: exact ground truth",
        Known,
        ("amplitude_mm", "wavelength_mm", "bends"),
    ),
}


def load_kind(name: str, **options) -> Kind:
    """A kind of target by its name with its options; options that are None keep their defaults.

    ValueError for an unknown name, and for an option that the kind does not have.
    """
    if name not in KINDS:
        raise ValueError(f"there is no kind {name!r} of targets; known are {', '.join(KINDS)}")
    entry = KINDS[name]
    given = {option: value for option, value in options.items() if value is not None}
    if wrong := sorted(set(given) - set(entry.options)):
        raise ValueError(
            f"targets of the kind {name} have no {', '.join(wrong)}; "
            f"they have {', '.join(entry.options)}"
        )
    return entry.load(**given)
