"""Names that a person may choose from, known without loading what they stand for."""

from __future__ import annotations

INITIALIZATIONS = ("centers", "mass")
TARGET_KINDS = ("momentum", "momentum-from-elastix", "field", "known")
