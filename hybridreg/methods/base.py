"""The protocol of a registration method, its result, and its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from hybridreg.cases import ImagePair
from hybridreg.images import Image
from hybridreg.transforms import IDENTITY, Transform, compose


class TraceEntry(NamedTuple):
    """One iteration of an optimization: its stage and level, and its named loss terms."""

    stage: str
    level: int
    iteration: int
    terms: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Matches:
    """Critical points of both images and where each lies in the other, the i-th to the i-th.

    fixed, moving: in LPS mm of their image, (N, D). of_fixed: which were chosen in the fixed image,
    (N,) bool, the others in the moving one. kept: which the transform follows; the others are
    outliers.
    """

    fixed: Tensor
    moving: Tensor
    of_fixed: Tensor
    kept: Tensor


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """The result of a registration method.

    transform: the total transform, fixed LPS mm -> moving LPS mm, the initial one included.
    inverse: moving -> fixed, from methods that give it; None if it must be computed.
    uncertainty: standard deviation of the displacement in mm on the fixed grid, or None.
    doubts: why the method itself doubts its result, for the verdict.
    matches: the critical points of methods that match such.
    """

    transform: Transform
    inverse: Transform | None = None
    uncertainty: Image | None = None
    trace: tuple[TraceEntry, ...] = ()
    doubts: tuple[str, ...] = ()
    matches: Matches | None = None

    def after(self, initial: Transform) -> RegistrationResult:
        """The result for a pair whose moving image had been warped by ``initial``.

        With A = initial and R found on the fixed grid, the total is x -> A(R(x)).
        """
        inverse = None if self.inverse is None else compose(self.inverse, initial.inverse())
        matches = self.matches and replace(self.matches, moving=initial(self.matches.moving))
        total = compose(initial, self.transform)
        return replace(self, transform=total, inverse=inverse, matches=matches)


@runtime_checkable
class RegistrationMethod(Protocol):
    """Aligns a moving image to a fixed one: moving(T(x)) ~ fixed(x), x in LPS mm.

    A method for another type of pair than ``ImagePair`` names it in a class attribute ``accepts``,
    and one for volumes alone has ``dimensions = (3,)``. One that needs what may not be there has
    ``missing()``, which says what to install or to name, and ``versions()`` of it: a comparison
    asks before anything runs.
    """

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult: ...


def accepted(method: RegistrationMethod) -> type:
    """The type of pair that a method takes."""
    return getattr(method, "accepts", ImagePair)


def check_accepts(method: RegistrationMethod, pair: object):
    """Raises ValueError for a pair of a type that the method does not accept."""
    accepts = accepted(method)
    if not isinstance(pair, accepts):
        raise ValueError(
            f"{type(method).__name__} takes pairs of the type {accepts.__name__}, and this is of "
            f"the type {type(pair).__name__}: choose another method"
        )


class RegistrationError(RuntimeError):
    """A method failed to register a valid pair: the cause, and what to do about it.

    log: the end of the tool's own log, for the report; may be empty.
    """

    def __init__(self, message: str, log: str = ""):
        super().__init__(message)
        self.log = log


def check_overlap(weight: Tensor | None) -> Tensor | None:
    """The weight of each fixed voxel, or RegistrationError if nearly all are zero."""
    if weight is not None and not weight.mean() > 1e-3:
        raise RegistrationError(
            "less than a thousandth of the fixed image overlaps the moving image "
            "(inside both masks, if any): start with an affine registration, or give other masks"
        )
    return weight
