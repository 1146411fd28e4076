"""Settings for masks and moving images that fill little of elastix's sampling region."""

from __future__ import annotations

import logging
import math

import numpy as np
from scipy import ndimage

from hybridreg.cases import ImagePair, compared_volumes
from hybridreg.images import LabelMap
from hybridreg.methods.elastix.parameter_maps import Parameters

logger = logging.getLogger(__name__)

_SMALL = 0.2  # elastix gives up after ten tries a sample, so below 0.1 and sometimes above
_MEASUREMENTS = 1000  # elastix's own number, which it spreads over the whole box
_SPREAD = {"Random", "RandomCoordinate"}
_RATIO = 0.25  # elastix's default: it fails if fewer of its samples lie inside the moving image
_MIN_RATIO = 0.02


def fitted_to_masks(parameters: Parameters, pair: ImagePair) -> Parameters:
    """The map adapted to the pair's masks and extents; settings of the file are kept."""
    if pair.fixed_mask is not None:
        parameters = _fitted_to_fixed(parameters, pair.fixed_mask)
    return _fitted_to_moving(parameters, pair)


def _fitted_to_fixed(parameters: Parameters, mask: LabelMap) -> Parameters:
    """The map with a sampler that finds samples in this mask, however small.

    RandomSparseMask draws from the voxels inside. The optimizer's parameters are estimated at more
    points of the box, so that enough of them lie inside. How this was tested:
    examples/benchmarks/brain_mr.md.
    """
    fraction = fraction_of_box(mask)
    samplers = parameters.get("ImageSampler", ())
    if fraction >= _SMALL or not _SPREAD.intersection(samplers):
        return parameters
    percent = 100 * fraction
    logger.info("the fixed mask fills %.2g %% of its box: sampled by RandomSparseMask", percent)
    measurements = (str(math.ceil(_MEASUREMENTS / fraction)),)
    return {
        "NumberOfJacobianMeasurements": measurements,
        **parameters,
        "ImageSampler": tuple("RandomSparseMask" if s in _SPREAD else s for s in samplers),
    }


def _fitted_to_moving(parameters: Parameters, pair: ImagePair) -> Parameters:
    """The map with a required ratio relative to the largest possible overlap, not to all samples.

    Samples come from the whole fixed image (or its mask): a brain in the field of view of a head is
    a fifth of it, and a moving image of half the length along every axis an eighth; elastix would
    fail even if they were perfectly aligned.
    """
    fixed, moving = compared_volumes(pair)
    if moving >= fixed:
        return parameters
    ratio = max(_MIN_RATIO, _RATIO * moving / fixed)
    return {"RequiredRatioOfValidSamples": (f"{ratio:.4f}",), **parameters}


def fraction_of_box(mask: LabelMap) -> float:
    """The fraction of elastix's box around the mask that lies inside the mask.

    elastix builds the box along the patient's axes: on an oblique grid it can be the whole image.
    """
    inside = (mask.data != 0).numpy(force=True)
    upright = np.abs(mask.grid.direction).max(0).min() > 0.9999  # within a degree
    box = inside[ndimage.find_objects(inside.astype(np.uint8))[0]] if upright else inside
    return float(box.mean())
