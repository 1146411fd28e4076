"""Common parts of the tasks that learn from photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from hybridreg.io.checkpoints import Card

INTENSITY_RULE = "unit"


class PhotographTask(Protocol):
    """Photographs by name, each of shape (y, x), uint8, with their source and licenses."""

    kind: str
    photographs: Mapping[str, Tensor]
    validation_photographs: Mapping[str, Tensor]
    test_photographs: Mapping[str, Tensor]
    data: str
    data_licence: str
    weights_licence: str


def check_apart(*parts: Mapping[str, Tensor]):
    """Refuses photographs that are used for both training and validation or test (ValueError)."""
    if not parts[0] or not parts[1]:
        raise ValueError("give photographs for training, and others for validation")
    twice = [n for i, a in enumerate(parts) for b in parts[i + 1 :] for n in a if n in b]
    if twice:
        raise ValueError(f"{twice[0]} is used for both training and evaluation: leave it out")


def fingerprints(photographs: Mapping[str, Tensor]) -> dict[str, str]:
    """Checksums of photographs by name, which must not change when a run is resumed."""
    return {
        name: hashlib.sha256(photo.contiguous().numpy().tobytes()).hexdigest()[:16]
        for name, photo in sorted(photographs.items())
    }


def card_of(
    task: PhotographTask, *, architecture: str, training_grid: str, training: Mapping[str, Any]
) -> Card:
    """The card of a network before its training."""
    return Card(
        kind=task.kind,
        architecture=architecture,
        training_grid=training_grid,
        intensity_rule=INTENSITY_RULE,
        data=task.data,
        data_licence=task.data_licence,
        weights_licence=task.weights_licence,
        split={
            "train": sorted(task.photographs),
            "validation": sorted(task.validation_photographs),
            "test": sorted(task.test_photographs),
        },
        seed=0,
        validation={},
        training=dict(training),
    )
