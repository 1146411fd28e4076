"""Names of options, available without loading their implementations."""

from __future__ import annotations

INITIALIZATIONS = ("centers", "mass")
TARGET_KINDS = ("momentum", "momentum-from-elastix", "field", "known")
