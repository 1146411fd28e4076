"""Detection of misspelled parameters, which elastix ignores, before the registration."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from functools import lru_cache

import torch

from hybridreg import progress
from hybridreg.cases import ImagePair
from hybridreg.geometry import Grid
from hybridreg.images import Image, LabelMap, LandmarkSet
from hybridreg.methods.base import RegistrationError
from hybridreg.methods.elastix import log
from hybridreg.methods.elastix.parameter_maps import Parameters
from hybridreg.methods.elastix.parameter_names import KNOWN, is_known
from hybridreg.methods.elastix.run import run
from hybridreg.transforms import IDENTITY

logger = logging.getLogger(__name__)

_TRIAL_VOXELS = 32  # per axis; coarse levels of eightfold smoothing still have four
_TRIAL_TIMEOUT_S = 30.0


def check_before(
    sources: Sequence[str], stages: Sequence[Parameters], pair: ImagePair, threads: int | None
):
    """Raises ValueError for a name that is neither in the list nor requested by elastix.

    sources: the origin of each stage, for the message.
    Only names that are not in the list require a trial on tiny images (some tenths of a second). If
    the trial fails for another reason, ``check_after`` checks after the registration.
    """
    if all(is_known(name) for stage in stages for name in stage):
        return
    check_after(
        sources,
        stages,
        _trial_log(
            tuple(tuple(sorted(stage.items())) for stage in stages),
            pair.dimension,
            pair.fixed.channels,
            pair.fixed_mask is not None,
            pair.moving_mask is not None,
            pair.fixed_points is not None,
            threads,
        ),
    )


def check_after(sources: Sequence[str], stages: Sequence[Parameters], text: str):
    """Raises ValueError for a name that elastix, by its log, did not use and not in the list."""
    for source, stage, names in zip(sources, stages, log.unused(text), strict=False):
        for name in sorted(names):
            if is_known(name):
                logger.info("%s: elastix has no use for %s here", source, name)
                continue
            others = (KNOWN | log.asked_for(text) | set(stage)) - {name}
            near = difflib.get_close_matches(name, sorted(others), n=1)
            raise ValueError(
                f"{source}: there is a parameter that elastix does not use: {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )


@lru_cache(maxsize=64)
def _trial_log(
    stages: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...],
    dimension: int,
    channels: int,
    fixed_mask: bool,
    moving_mask: bool,
    points: bool,
    threads: int | None,
) -> str:
    """elastix's log of one iteration of the same maps on tiny images; empty if that fails."""
    shortened = [{**dict(stage), "MaximumNumberOfIterations": ("1",)} for stage in stages]
    grid = Grid((_TRIAL_VOXELS,) * dimension)
    image = Image(torch.rand(channels, *grid.shape, generator=torch.Generator()), grid)
    whole = LabelMap(torch.ones(grid.shape), grid)
    some = LandmarkSet(grid.points().reshape(-1, dimension)[:: grid.size[0] + 1][:5])
    pair = ImagePair(
        image,
        image,
        fixed_mask=whole if fixed_mask else None,
        moving_mask=whole if moving_mask else None,
        fixed_points=some if points else None,
        moving_points=some if points else None,
    )
    try:
        with progress.listening(lambda fraction, doing: None):
            done = run(pair, shortened, IDENTITY, threads=threads, timeout_s=_TRIAL_TIMEOUT_S)
    except RegistrationError as error:
        logger.debug("the trial of the parameter files failed: %s", error)
        return ""
    return done.log
