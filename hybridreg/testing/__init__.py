"""The contracts of the package as functions that check them, also for plug-ins.

>>> from hybridreg.testing import check_method
>>> check_method(my_method)  # doctest: +SKIP
"""

from hybridreg.testing.descriptors import DESCRIPTOR_CHECKS, check_descriptor
from hybridreg.testing.measures import MEASURE_CHECKS, check_measure
from hybridreg.testing.methods import METHOD_CHECKS, check_method, checks_of

__all__ = [
    "DESCRIPTOR_CHECKS",
    "MEASURE_CHECKS",
    "METHOD_CHECKS",
    "check_descriptor",
    "check_measure",
    "check_method",
    "checks_of",
]
