"""Methods composed of methods: stages in sequence, and steps around a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace

from hybridreg import progress
from hybridreg.cases import ImagePair, warp_pair, with_field_of_view
from hybridreg.checks import check_pair
from hybridreg.descriptors.base import Descriptor, OfSeveral, OfSomeGrids
from hybridreg.images import Image
from hybridreg.intensity import to_unit
from hybridreg.methods.base import RegistrationMethod, RegistrationResult, accepted
from hybridreg.preprocessing import clipped, foreground, pair_without_outliers
from hybridreg.transforms import IDENTITY, BSplineTransform, Transform, compose, parts_of
from hybridreg.unfolding import unfolded


@dataclass(frozen=True)
class Chain:
    """Runs stages in sequence, each initialized by the total transform of the one before.

    stages: such as rigid elastix, then a network, then a refinement. The result is the last
        stage's, with the traces and the doubts of all.
    """

    stages: tuple[RegistrationMethod, ...]

    def __post_init__(self):
        if not self.stages:
            raise ValueError("a chain needs at least one stage")
        if len({accepted(stage) for stage in self.stages}) > 1:
            raise ValueError(
                "the stages of a chain register different types of pairs: "
                + ", ".join(accepted(stage).__name__ for stage in self.stages)
            )

    @property
    def accepts(self) -> type:
        """The type of pair that all of its stages take."""
        return accepted(self.stages[0])

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        for inner in _nested(self):  # before the first stage, not after it
            if isinstance(inner, OnFeatures):
                inner.check(pair)
        result = RegistrationResult(initial)
        trace, doubts = (), ()
        count = len(self.stages)
        for number, stage in enumerate(self.stages):
            prefix = f"stage {number + 1} of {count}: " if count > 1 else ""
            with progress.within(number / count, (number + 1) / count, prefix):
                result = stage.register(pair, result.transform)
            trace += result.trace
            doubts += result.doubts
        return replace(result, trace=trace, doubts=doubts)


@dataclass(frozen=True)
class Masked:
    """Compares only inside the fixed image's foreground, if the pair has no fixed mask.

    margin_mm: by which the foreground (``preprocessing.foreground``) is dilated; a larger one
        includes more of the surrounding air.
    """

    method: RegistrationMethod
    margin_mm: float = 0.0

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        if pair.fixed_mask is None:
            pair = replace(pair, fixed_mask=foreground(pair.fixed, margin_mm=self.margin_mm))
        return self.method.register(pair, initial)


@dataclass(frozen=True)
class Clipped:
    """Runs a method on clipped intensities of both images, each channel separately.

    percent: percentiles at which intensities are clipped, such as (0.5, 99.5), over the whole
        image; a narrower range clips more. None clips only outliers
        (``preprocessing.without_outliers``), and does not change an image without any. Mutual
        information uses bins of equal width from the lowest value to the highest, so a hot voxel or
        metal in CT leaves few bins for the tissues.

    The result is a transform, so the original image is resampled by it.
    """

    method: RegistrationMethod
    percent: tuple[float, float] | None = None

    def __post_init__(self):
        low, high = self.percent or (0, 100)
        if not 0 <= low < high <= 100:
            raise ValueError(
                "percent needs a lower and a higher percentile between 0 and 100, found "
                f"{self.percent!r}"
            )

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        return self.method.register(self._clipped(pair), initial)

    def _clipped(self, pair: ImagePair) -> ImagePair:
        if self.percent is None:
            return pair_without_outliers(pair)
        fixed, moving = (clipped(image, *self.percent) for image in (pair.fixed, pair.moving))
        return replace(pair, fixed=fixed, moving=moving)


@dataclass(frozen=True)
class Scaled:
    """Runs a method on both images scaled to [0, 1] separately.

    rule: of ``intensity.to_unit``, such as "percentiles" or "-160..240". ValueError for an image
        that it cannot scale, such as a constant one.
    """

    method: RegistrationMethod
    rule: str = "auto"

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        check_pair(pair, initial)
        return self.method.register(_of_both(pair, lambda i: to_unit(i, self.rule)[0]), initial)


@dataclass(frozen=True)
class Unfolded:
    """Removes folds from the B-splines that a method found (``unfolding.unfolded``).

    Those of the initial transform are not changed. If there are any others, the method's
    inverse is no longer valid, so none is returned.
    """

    method: RegistrationMethod

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        result = self.method.register(pair, initial)
        given = {id(part) for part in parts_of(initial)}
        parts = parts_of(result.transform)
        found = [isinstance(p, BSplineTransform) and id(p) not in given for p in parts]
        if not any(found):
            return result
        parts = [unfolded(part) if new else part for part, new in zip(parts, found, strict=True)]
        return replace(result, transform=compose(*parts), inverse=None)


@dataclass(frozen=True)
class OnFeatures:
    """Registers descriptors of both images in place of their intensities, as channels.

    Descriptors depend on orientation, so the moving image is described after it was resampled
    through the initial transform. The inner method gets descriptor channels only: wrappers that
    read intensities, such as masks, clipping and scaling, go around it
    (``Masked(OnFeatures(...))``).
    """

    descriptor: Descriptor
    method: RegistrationMethod

    def __post_init__(self):
        for inner in _nested(self.method):
            if isinstance(inner, _READ_INTENSITIES):
                name = type(inner).__name__
                raise ValueError(
                    f"{name} reads intensities, and inside OnFeatures there are only descriptor "
                    f"channels: put it around, as {name}(OnFeatures(...))"
                )
            if getattr(inner, "foreground_mm", None) is not None:
                raise ValueError(
                    f"foreground_mm of {type(inner).__name__} finds the foreground in "
                    "intensities, and "
                    "inside OnFeatures there are only descriptor channels: leave it out, and put "
                    "Masked(OnFeatures(...)) around"
                )

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> A(R(x)), A = initial and R what the method found on the
        channels.
        """
        check_pair(pair, initial)
        self.check(pair)
        aligned = warp_pair(with_field_of_view(pair, initial), initial)
        return self.method.register(self._described(aligned)).after(initial)

    def check(self, pair: ImagePair):
        """Refuses a fixed image that the descriptor cannot describe (ValueError).

        The moving image is described on the grid of the fixed one.
        """
        if isinstance(self.descriptor, OfSomeGrids):
            try:
                self.descriptor.check(pair.fixed.grid)
            except ValueError as error:
                raise ValueError(f"the fixed image: {error}") from error

    def _described(self, pair: ImagePair) -> ImagePair:
        if not isinstance(self.descriptor, OfSeveral):
            return _of_both(pair, self.descriptor)
        fixed, moving = self.descriptor.jointly(pair.fixed, pair.moving)
        return replace(pair, fixed=fixed, moving=moving)


_READ_INTENSITIES = (Masked, Clipped, Scaled)


def _of_both(pair: ImagePair, change: Callable[[Image], Image]) -> ImagePair:
    """The pair with both images changed; errors name the image."""
    images = {}
    for side in ("fixed", "moving"):
        try:
            images[side] = change(getattr(pair, side))
        except ValueError as error:
            raise ValueError(f"the {side} image: {error}") from error
    return replace(pair, **images)


def _nested(method: object) -> Iterator[object]:
    """A method and all methods and settings in its fields."""
    yield method
    if is_dataclass(method):
        for field in fields(method):
            value = getattr(method, field.name)
            for inner in value if isinstance(value, tuple) else (value,):
                yield from _nested(inner)
