"""elastix in a child process: any parameter files, masks, channels and guidance points."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridreg.methods.elastix.method import Elastix
    from hybridreg.methods.elastix.process import warm_up

__all__ = ["Elastix", "warm_up"]


def __getattr__(name: str):
    """Loads on first use, since the child process is in this package too and needs no torch."""
    if name == "Elastix":
        from hybridreg.methods.elastix.method import Elastix

        return Elastix
    if name == "warm_up":
        from hybridreg.methods.elastix.process import warm_up

        return warm_up
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
