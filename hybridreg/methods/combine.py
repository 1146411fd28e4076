"""Methods made of methods: stages in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridreg import progress
from hybridreg.cases import ImagePair
from hybridreg.methods.base import RegistrationMethod, RegistrationResult
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
