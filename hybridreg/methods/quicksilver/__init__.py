"""Quicksilver: a network predicts the momentum of a geodesic, patch by patch (Yang 2017)."""

from hybridreg.methods.quicksilver.method import Quicksilver

__all__ = ["Quicksilver"]
