"""LDDMM by geodesic shooting: the method, and the momentum of any transform."""

from hybridreg.methods.lddmm.method import Lddmm
from hybridreg.methods.lddmm.reproduce import Reproduction, momentum_of

__all__ = ["Lddmm", "Reproduction", "momentum_of"]
