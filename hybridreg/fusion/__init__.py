"""Fusion of two aligned images into one that preserves the information of both."""

from hybridreg.fusion.aligned import Flicker, Fused, flicker, fuse
from hybridreg.fusion.network import (
    FusionNetwork,
    WeightNetwork,
    network_arrays,
    network_from_arrays,
)
from hybridreg.fusion.rules import Rule
from hybridreg.registry import RULES

__all__ = [
    "RULES",
    "Flicker",
    "Fused",
    "FusionNetwork",
    "Rule",
    "WeightNetwork",
    "flicker",
    "fuse",
    "network_arrays",
    "network_from_arrays",
]
