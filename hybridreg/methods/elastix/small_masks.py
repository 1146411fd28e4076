"""Masks and moving images that fill little of what elastix takes its samples from."""

from __future__ import annotations

import logging
import math

import numpy as np
from scipy import ndimage

from hybridreg.cases import ImagePair, compared_volumes
from hybridreg.images import LabelMap
from hybridreg.methods.elastix.parameter_maps import Parameters

logger = logging.getLogger(__name__)

_SMALL = 0.2  # elastix gives up after ten tries a sample, so below 0.1 and, by chance, above
_MEASUREMENTS = 1000  # elastix's own number, which it spreads over the whole box
_SPREAD = {"Random", "RandomCoordinate"}
_RATIO = 0.25  # elastix's own: it gives up where fewer of its samples lie inside the moving image
_LEAST_RATIO = 0.02


def fitted_to_masks(parameters: Parameters, pair: ImagePair) -> Parameters:
    """The map made fit for the pair's masks and extents; what the file itself sets stays."""
    if pair.fixed_mask is not None:
        parameters = _fitted_to_fixed(parameters, pair.fixed_mask)
    return _fitted_to_moving(parameters, pair)


def _fitted_to_fixed(parameters: Parameters, mask: LabelMap) -> Parameters:
    """The map with a sampler that finds its samples in this mask, however small.

    RandomSparseMask draws from the voxels inside. The optimizer's parameters are estimated at more
    places of the box, so that as many as ever lie inside; a slab three voxels thick has none else.
    (Measured on a head turned by 20 degrees: rods, plates, balls and slabs of 0.2 to 2 % all failed
    before, and end 0.1 to 0.4 mm from the truth in the same time.)
    """
    share = share_of_box(mask)
    samplers = parameters.get("ImageSampler", ())
    if share >= _SMALL or not _SPREAD.intersection(samplers):
        return parameters
    logger.info("the fixed mask fills %.2g %% of its box: sampled by RandomSparseMask", 100 * share)
    measurements = (str(math.ceil(_MEASUREMENTS / share)),)
    return {
        "NumberOfJacobianMeasurements": measurements,
        **parameters,
        "ImageSampler": tuple("RandomSparseMask" if s in _SPREAD else s for s in samplers),
    }


def _fitted_to_moving(parameters: Parameters, pair: ImagePair) -> Parameters:
    """The map asking for a quarter of what can lie in the moving image or mask, not of all samples.

    Samples come from the whole fixed image (or its mask): a brain in the field of view of a head is
    a fifth of it, and a moving image of half the length along every axis an eighth; even perfectly
    aligned elastix would give up.
    """
    fixed, moving = compared_volumes(pair)
    if moving >= fixed:
        return parameters
    ratio = max(_LEAST_RATIO, _RATIO * moving / fixed)
    return {"RequiredRatioOfValidSamples": (f"{ratio:.4f}",), **parameters}


def share_of_box(mask: LabelMap) -> float:
    """How much of elastix's box around the mask lies inside.

    elastix builds the box along the patient's axes: on an oblique grid it can be the whole image.
    """
    inside = (mask.data != 0).numpy(force=True)
    upright = np.abs(mask.grid.direction).max(0).min() > 0.9999  # within a degree
    box = inside[ndimage.find_objects(inside.astype(np.uint8))[0]] if upright else inside
    return float(box.mean())
