"""The parameters of elastix 5, to distinguish misspelled ones from unused ones."""

from __future__ import annotations

import re

_COMPONENTS = """
    Registration Transform Metric Optimizer Interpolator ImageSampler FixedImagePyramid
    MovingImagePyramid ResampleInterpolator Resampler
"""
_IMAGES = """
    FixedImageDimension MovingImageDimension FixedInternalImagePixelType
    MovingInternalImagePixelType FixedImagePixelType MovingImagePixelType UseDirectionCosines
    DefaultPixelValue ErodeMask ErodeFixedMask ErodeMovingMask
"""
_LEVELS = """
    NumberOfResolutions ImagePyramidSchedule FixedImagePyramidSchedule MovingImagePyramidSchedule
    ImagePyramidRescaleSchedule FixedImagePyramidRescaleSchedule MovingImagePyramidRescaleSchedule
    ImagePyramidSmoothingSchedule FixedImagePyramidSmoothingSchedule
    MovingImagePyramidSmoothingSchedule ImagePyramidUseShrinkImageFilter
    ComputePyramidImagesPerResolution
"""
_TRANSFORMS = """
    AutomaticTransformInitialization AutomaticTransformInitializationMethod
    AutomaticScalesEstimation AutomaticScalesEstimationStackTransform Scales CenterOfRotation
    CenterOfRotationPoint CenterOfGravityUsesLowerThreshold LowerThresholdForCenterGravity
    NumberOfSamplesForCenteredTransformInitialization ComputeZYX MatrixTranslation
    HowToCombineTransforms BSplineTransformSplineOrder FinalGridSpacingInPhysicalUnits
    FinalGridSpacingInVoxels GridSpacingSchedule PassiveEdgeWidth UseCyclicTransform
    UpsampleGridOption SplineKernelType SplinePoissonRatio SplineRelaxationFactor
    TPSMatrixInversionMethod FixedImageLandmarks NumberOfSubTransforms StackOrigin StackSpacing
"""
_SAMPLERS = """
    NumberOfSpatialSamples NewSamplesEveryIteration UseRandomSampleRegion SampleRegionSize
    SampleGridSpacing CheckNumberOfSamples MaximumNumberOfSamplingAttempts
    RequiredRatioOfValidSamples RandomSeed UseAllPixels UseMultiThreadingForSamplers
"""
_METRICS = """
    NumberOfHistogramBins NumberOfFixedHistogramBins NumberOfMovingHistogramBins
    FixedKernelBSplineOrder MovingKernelBSplineOrder FixedLimitRangeRatio MovingLimitRangeRatio
    UseFastAndLowMemoryVersion UseJacobianPreconditioning FiniteDifferenceDerivative
    FixedImageBSplineInterpolationOrder UseMultiThreadingForMetrics ShowExactMetricValue
    ExactMetricSampleGridSpacing ExactMetricEveryXIterations UseRelativeWeights SubtractMean
    UseNormalization UseShannonEntropy NumberOfSamplesForSelfHessian UseOpenMP
    MovingImageDerivativeScales ScaleGradientWithRespectToMovingImageOrientation
    LinearityConditionWeight OrthonormalityConditionWeight PropernessConditionWeight
    UseLinearityCondition UseOrthonormalityCondition UsePropernessCondition
    CalculateLinearityCondition CalculateOrthonormalityCondition CalculatePropernessCondition
    DilateRigidityImages DilationRadiusMultiplier UseFixedRigidityImage UseMovingRigidityImage
    FixedRigidityImageName MovingRigidityImageName CutOffCost CutOffSharpness
    RegularizationKappa TransformIsStackTransform ReducedDimensionIndex SampleLastDimensionRandomly
    NumSamplesLastDimension NumAdditionalSamplesFixed
"""
_OPTIMIZERS = """
    MaximumNumberOfIterations MaximumStepLength MaximumStepLengthRatio MinimumStepLength
    AutomaticParameterEstimation ASGDParameterEstimationMethod MaximumDisplacementEstimationMethod
    NoiseCompensation UseAdaptiveStepSizes UseConstantStep SP_A SP_a SP_alpha SP_c SP_gamma
    NumberOfGradientMeasurements NumberOfJacobianMeasurements NumberOfSamplesForExactGradient
    NumberOfSamplesForNoiseCompensationFactor NumberOfSamplesForPrecondition
    NumberOfBandStructureSamples MaxBandCovSize SigmoidInitialTime SigmoidMax SigmoidMin
    SigmoidScale SigmoidScaleFactor ConditionNumber NumberOfPerturbations LearningRate
    RelaxationFactor GradientMagnitudeTolerance ValueTolerance StepLength StepTolerance
    MaximumNumberOfLineSearchIterations LineSearchValueTolerance LineSearchGradientTolerance
    GenerateLineSearchIterations LBFGSUpdateAccuracy StopIfWolfeNotSatisfied PopulationSize
    UseDecayingSigma UseCovarianceMatrixAdaptation UpdateBDPeriod PositionToleranceMin
    PositionToleranceMax RecombinationWeightsPreset NumberOfParents MaximumDeviation
    MinimumDeviation StepSizeStrategy ConjugateGradientType
"""
_OUTPUT = "WriteResultImage"  # which we set; the others are left out of every map
_INTERPOLATION = "BSplineInterpolationOrder FinalBSplineInterpolationOrder"

KNOWN = frozenset(
    " ".join(
        (
            *(_COMPONENTS, _IMAGES, _LEVELS, _TRANSFORMS, _SAMPLERS, _METRICS, _OPTIMIZERS),
            *(_INTERPOLATION, _OUTPUT),
        )
    ).split()
)

# Parameters of one of several components, such as Metric1Weight, carry its number.
_NUMBERED = re.compile(
    r"(Metric|ImageSampler|Interpolator|FixedImagePyramid|MovingImagePyramid)\d+(\w+)"
)
_OF_METRICS = {"Weight", "RelativeWeight", "Use"}


def is_known(name: str) -> bool:
    """Whether elastix 5 has a parameter of this name, used in this registration or not."""
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        return name in KNOWN
    return numbered[2] in KNOWN or (numbered[1] == "Metric" and numbered[2] in _OF_METRICS)
