"""The presets features-elastix: B-splines of elastix on twelve channels of descriptors."""

from dataclasses import replace

import pytest
from bent_scenes import error_mm

from hybridreg.config import load_intent, load_method
from hybridreg.descriptors.autoencoder.descriptor import Autoencoder
from hybridreg.descriptors.mind import Mind
from hybridreg.phantoms import blobs
from hybridreg.transforms import IDENTITY
from hybridreg.warping import jacobian_determinant

FEW = {
    "NumberOfResolutions": 1,
    "MaximumNumberOfIterations": 40,
    "NumberOfSpatialSamples": 500,
    "NumberOfSamplesForExactGradient": 2000,
    "FinalGridSpacingInPhysicalUnits": 15,
}


@pytest.mark.parametrize(
    "name, descriptor",
    [("features-elastix", Autoencoder("sae-brain")), ("features-elastix-mind", Mind())],
)
def test_twelve_channels_alone_bend_an_image_without_folds(name, descriptor):
    case = blobs(dimension=3, deformation_mm=3.0, translation_mm=(1.0, -1.0, 1.0))
    stage = load_method(name).stages[1]  # clipped, masked, unfolded
    on_features = stage.method.method.method
    assert on_features.descriptor == descriptor
    elastix = on_features.method
    few = replace(elastix, overrides={**elastix.overrides, **FEW}, threads=1)
    unfolded = replace(stage.method.method, method=replace(on_features, method=few))
    stage = replace(stage, method=replace(stage.method, method=unfolded))
    found = stage.register(case.pair)
    names = [term for term in found.trace[0].terms if term.startswith("mean squares")]
    assert len(names) == 12  # a metric for each channel
    before, after = (error_mm(case, t).median() for t in (IDENTITY, found.transform))
    assert after < before / 3
    assert jacobian_determinant(found.transform, case.pair.fixed.grid).data.min() > 0
    assert load_intent(name).same_contrast
