"""Methods made of methods: stages in turn, and steps around a method."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridreg import progress
from hybridreg.cases import ImagePair
from hybridreg.checks import check_pair
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
from hybridreg.preprocessing import clipped, foreground, pair_without_outliers
from hybridreg.transforms import IDENTITY, Transform


@dataclass(frozen=True)
class Chain:
    """Runs stages in turn, each started from the last one's total transform.

    stages: such as rigid elastix, then a network, then a refinement. The result is the last
        stage's, with the traces of all.
    """

    stages: tuple[RegistrationMethod, ...]

    def __post_init__(self):
        if not self.stages:
            raise ValueError("a chain needs at least one stage")

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        result = RegistrationResult(initial)
        trace = ()
        count = len(self.stages)
        for number, stage in enumerate(self.stages):
            prefix = f"stage {number + 1} of {count}: " if count > 1 else ""
            with progress.within(number / count, (number + 1) / count, prefix):
                result = stage.register(pair, result.transform)
            trace += result.trace
        return replace(result, trace=trace)


@dataclass(frozen=True)
class Masked:
    """Compares only inside the fixed image's foreground, where the pair has no fixed mask.

    margin_mm: by which the foreground (``preprocessing.foreground``) is grown; a larger one lets
        more of the air around count.
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
    """Runs a method on clipped intensities of both images, each channel by itself.

    percent: percentiles at which intensities are cut, such as (0.5, 99.5), over the whole image; a
        narrower range cuts more. None changes outliers alone (``preprocessing.without_outliers``),
        and no image without any. Mutual information counts in bins of equal width from the lowest
        value to the highest, so one hot voxel or a bit of metal in CT leaves few for the tissues.

    The result is a transform, so what is moved by it is the original image.
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
