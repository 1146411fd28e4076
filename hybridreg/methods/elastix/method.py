"""Registration by elastix: any parameter files, in an expendable child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hybridreg.cases import ImagePair, warp_pair
from hybridreg.checks import check_pair
from hybridreg.io.elastix_files import read_parameter_map, transform_from_maps
from hybridreg.methods.base import RegistrationResult
from hybridreg.methods.elastix import parameter_maps
from hybridreg.methods.elastix.job import initial_maps
from hybridreg.methods.elastix.parameter_maps import Parameters
from hybridreg.methods.elastix.run import run
from hybridreg.methods.elastix.small_masks import fitted_to_masks
from hybridreg.methods.elastix.unused import check_after, check_before
from hybridreg.transforms import IDENTITY, Transform, compose

Setting = str | int | float | bool


@dataclass(frozen=True)
class Elastix:
    """Registers by elastix (Klein 2010) with parameter files, one stage after the other.

    parameter_files: paths, or names of packaged files such as "rigid.txt".
    overrides: settings that replace those of every file, such as {"NumberOfSpatialSamples": 4000}.
    schedule: smoothing of images if a file has no pyramid schedule: "mm" equal in mm
        along every axis, "elastix" equal in voxels; the same for isotropic images.
    threads: processor cores to use; None uses all. Results are reproducible for a fixed number.
    seed: of elastix's random samples; replaces RandomSeed of the files.
    point_weight: weight of the mean distance in mm of the pair's points, beside an image metric of
        about 1. A larger one fits the points more closely and the images less.
    timeout_s: time limit of elastix in seconds (RegistrationError); None for no limit.
    """

    parameter_files: tuple[str, ...]
    overrides: Mapping[str, Setting | tuple[Setting, ...]] = field(default_factory=dict)
    schedule: Literal["mm", "elastix"] = "mm"
    threads: int | None = None
    seed: int = 0
    point_weight: float = 0.01
    timeout_s: float | None = None

    def __post_init__(self):
        if isinstance(self.parameter_files, str) or not self.parameter_files:
            raise ValueError(
                f"parameter_files needs one name or more in a list, found {self.parameter_files!r}"
            )
        object.__setattr__(self, "parameter_files", tuple(map(str, self.parameter_files)))

    def register(self, pair: ImagePair, initial: Transform = IDENTITY) -> RegistrationResult:
        """The total transform x -> B(A(x)), with A = initial and B what elastix found.

        ValueError for files that do not fit; RegistrationError where elastix fails, with its cause.
        """
        check_pair(pair, initial)
        stages = self._stages(pair)
        if initial_maps(initial) is None and any(map(parameter_maps.has_penalty, stages)):
            # Penalties need the second derivatives of what elastix starts from, and elastix has
            # none for a field: then the moving image is resampled first, total x -> A(R(x)).
            aligned = warp_pair(pair, initial)
            stages = [parameter_maps.starting_there(stage) for stage in self._stages(aligned)]
            return self._run(aligned, stages, IDENTITY).after(initial)
        return self._run(pair, stages, initial)

    def _stages(self, pair: ImagePair) -> list[Parameters]:
        stages = []
        for name in self.parameter_files:
            parameters = read_parameter_map(parameter_maps.find(name))
            try:
                stages.append(self._fitted(parameters, pair))
            except ValueError as error:
                raise ValueError(f"parameter file {name}: {error}") from error
        return stages

    def _fitted(self, parameters: Parameters, pair: ImagePair) -> Parameters:
        """One map, adapted to the pair."""
        overrides = {name: parameter_maps.texts(v) for name, v in self.overrides.items()}
        masked = pair.fixed_mask is not None or pair.moving_mask is not None
        stage = parameter_maps.for_dimension({**parameters, **overrides}, pair.dimension)
        stage = parameter_maps.settled(stage, seed=self.seed, masked=masked)
        stage = fitted_to_masks(stage, pair)
        if self.schedule == "mm":
            fixed, moving = pair.fixed.grid, pair.moving.grid
            stage = parameter_maps.with_schedule(
                stage, (fixed.size, fixed.spacing), (moving.size, moving.spacing)
            )
        if pair.fixed_points is not None:
            stage = parameter_maps.with_points(stage, self.point_weight)
        elif parameter_maps.POINT_METRIC in stage.get("Metric", ()):
            raise ValueError(
                "it compares points, but none were given: give fixed and moving points"
            )
        return parameter_maps.for_channels(stage, pair.fixed.channels)

    def _run(
        self, pair: ImagePair, stages: Sequence[Parameters], initial: Transform
    ) -> RegistrationResult:
        also = " and overrides" if self.overrides else ""
        sources = [f"parameter file {name}{also}" for name in self.parameter_files]
        check_before(sources, stages, pair, self.threads)
        done = run(pair, stages, initial, threads=self.threads, timeout_s=self.timeout_s)
        check_after(sources, stages, done.log)
        found = transform_from_maps(done.maps)
        return RegistrationResult(compose(found, initial), trace=done.trace)
