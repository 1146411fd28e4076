"""Results that need no registration: the initial transform itself, and transforms made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.io.transforms import read_transform
from hybridreg.methods.base import RegistrationResult
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class Identity:
    """Leaves the images where they are: T(x) = initial(x). The baseline of a comparison."""

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        return RegistrationResult(initial)


@dataclass(frozen=True)
class Given:
    """A transform from a file, fixed LPS mm -> moving LPS mm, whatever the initial transform is.

    path: a file that ``io.transforms.read_transform`` reads, such as a displacement field.
    """

    path: str

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        return RegistrationResult(read_transform(self.path))
