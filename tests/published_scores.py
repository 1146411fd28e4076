"""The forms of the fusion scores that published tables of results were made with.

Whole 2D images of 0 to 255, background included, with the borders, constants and errors of the
public code (the MATLAB collection of Z. Liu 2009, MEFB, and the Evaluator of CDDFuse): only for
comparison with such tables. Each function takes (fused, fixed, moved) in float64; its docstring
says what differs from the score of the same name.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import fft, ndimage
from skimage.metrics import structural_similarity as similarity_map

from hybridreg.fusion_scores import gradients, information, perception, structure
from hybridreg.fusion_scores.fused_pairs import UndefinedScore

_YANG_CONSTANT = 2e-16


def entropy(fused, fixed, moved):
    """EN in bits, background included."""
    return information.bits(np.bincount(_levels(fused)))


def standard_deviation(fused, fixed, moved):
    """SD in gray levels, background included."""
    return fused.std()


def spatial_frequency(fused, fixed, moved):
    """SF in gray levels, background included."""
    return np.sqrt(sum(np.mean(np.diff(fused, axis=axis) ** 2) for axis in (0, 1)))


def average_gradient(fused, fixed, moved):
    """AG in gray levels, background included."""
    return np.mean(np.sqrt(sum(slope**2 for slope in np.gradient(fused)) / 2))


def mutual_information(fused, fixed, moved):
    """MI in nats, as sklearn gives: 0.693 of the bits; background included."""
    shared = (information.shared_bits(_levels(fused), _levels(s))[0] for s in (fixed, moved))
    return np.log(2) * sum(shared)


def normalized_mutual_information(fused, fixed, moved):
    """NMI of images rescaled to 0 to 255 separately; background included."""
    ours, *theirs = (_levels(_stretched(image)) for image in (fused, fixed, moved))
    pairs = [information.shared_bits(ours, levels) for levels in theirs]
    if any(entropies == 0 for _, entropies in pairs):
        raise UndefinedScore("the fused image and a source are both constant")
    return 2 * sum(shared / entropies for shared, entropies in pairs)


def pixel_feature_information(fused, fixed, moved):
    """FMI of gray values; mixing weights may exceed 1, and flat windows of two levels score 0.

    (The default feature of the public code, MATLAB's edge map, is not implemented.)
    """
    return _feature_information((fused, fixed, moved))


def gradient_feature_information(fused, fixed, moved):
    """FMI of the derivative along rows, with its sign."""
    return _feature_information([np.gradient(image, axis=1) for image in (fused, fixed, moved)])


def edge_preservation(fused, fixed, moved):
    """Q^AB/F with zeros around, G = gradient where gradients are equal, and angles not wrapped."""
    strength, angle = _edge(fused)
    kept = total = 0.0
    for source in (fixed, moved):
        ours, direction = _edge(source)
        larger, smaller = np.maximum(ours, strength), np.minimum(ours, strength)
        ratio = np.divide(smaller, larger, out=ours.copy(), where=larger != smaller)
        alignment = 1 - np.abs(direction - angle) / (np.pi / 2)
        with np.errstate(over="ignore"):
            kept += (gradients.STRENGTH(ratio) * gradients.ORIENTATION(alignment) * ours).sum()
        total += ours.sum()
    if total == 0:
        raise UndefinedScore("neither source has an edge")
    return kept / total


def fusion_artifacts(fused, fixed, moved):
    """N^AB/F with mirrored borders and no weight below 2 gray levels, as in the Python versions."""
    slopes = [_mirrored_sobel(image) for image in (fused, fixed, moved)]
    invented, total = gradients.artifact_sums(*slopes, least=0.0)
    if total == 0:
        raise UndefinedScore("neither source has an edge of 2 gray levels a pixel")
    return invented / total


def yang_similarity(fused, fixed, moved):
    """Q_Y with a constant of 2e-16: where both sources are flat its weights are 0 / 0."""
    images = (fused, fixed, moved)
    ours, first, second = (structure.window_moments(image, _valid_mean) for image in images)
    with np.errstate(invalid="ignore"):
        weight = first[2] / (first[2] + second[2])
    to_fixed, to_moved, between = (
        structure.local_similarity(one, other, _YANG_CONSTANT)
        for one, other in ((ours, first), (ours, second), (first, second))
    )
    weighted = weight * to_fixed + (1 - weight) * to_moved
    # As published: NaN times False is NaN.
    alike = between >= 0.75
    score = np.mean(weighted * alike + np.maximum(to_fixed, to_moved) * ~alike)
    return _finite(score, "its weights are 0 / 0 where both sources are flat")


def preserved_contrast(fused, fixed, moved):
    """Q_CB of images rescaled separately, spanning 15 degrees whatever their size, zero-padded.

    Where background is flat it divides rounding errors by rounding errors: there it is accurate to
    3 digits for whole gray levels, and not at all (errors up to 0.2) for float32 values.
    """
    frequencies = (2 * size / 30 * fft.fftfreq(size) for size in fused.shape)
    passed = perception.sensitivity(*frequencies)
    contrasts = []
    for image in (fused, fixed, moved):
        seen = fft.ifft2(fft.fft2(_stretched(image)) * passed).real
        fine, coarse = (_open_gaussian(seen, sigma) for sigma in (2, 4))
        with np.errstate(divide="ignore", invalid="ignore"):
            contrasts.append(perception.masked_contrast(fine / coarse - 1))
    score = perception.contrast_map(*contrasts).mean()
    return _finite(score, "its local contrast is 0 / 0 on flat background")


def visual_information_fidelity(fused, fixed, moved):
    """VIFp summed over both sources, background included; 1 for a constant source."""
    if min(fused.shape) < 41:
        raise UndefinedScore("four scales need images of 41 x 41 pixels or more")
    sums = [perception.fidelity_sums(source, fused) for source in (fixed, moved)]
    return sum(seen / held if held else 1.0 for seen, held in sums)


def correlation(fused, fixed, moved):
    """CC, background included."""
    ours, first, second = (image.ravel() for image in (fused, fixed, moved))
    against = {"fixed": first, "moved": second}
    return sum(structure.pearson(ours, image, "fused", name) for name, image in against.items()) / 2


def sum_of_correlations_of_differences(fused, fixed, moved):
    """SCD, background included; code that subtracts 8-bit numbers gives different values."""
    ours, first, second = (image.ravel() for image in (fused, fixed, moved))
    return structure.pearson(
        ours - second, first, "difference of the fused and the moved", "fixed"
    ) + structure.pearson(ours - first, second, "difference of the fused and the fixed", "moved")


def structural_similarity(fused, fixed, moved, *, data_range: float = 255.0):
    """SSIM as a sum over both sources, uniform window of 7x7, unbiased covariance."""
    if min(fused.shape) < 7:
        raise UndefinedScore("images are smaller than its window of 7 x 7")
    return sum(similarity_map(fused, source, data_range=data_range) for source in (fixed, moved))


def structural_similarity_of_range_2(fused, fixed, moved):
    """SSIM sum of 8-bit values with data range 2, which older scikit-image assumed of floats."""
    return structural_similarity(fused, fixed, moved, data_range=2.0)


def _levels(image: np.ndarray) -> np.ndarray:
    return np.rint(image).astype(np.int32).ravel()


def _stretched(image: np.ndarray) -> np.ndarray:
    low, high = image.min(), image.max()
    return image if low == high else np.rint((image - low) / (high - low) * 255)


def _feature_information(features) -> float:
    centers = np.ones([size - 2 for size in features[0].shape], dtype=bool)
    ours, *theirs = (information.window_values(feature, centers) for feature in features)
    total = 0.0
    for values in theirs:
        for part in information.window_parts(ours.shape[1]):
            raw = ours[:, part], values[:, part]
            masses = [information.window_masses(window) for window in raw]
            shared = information.window_information(*masses, limit=np.inf)
            total += np.where((raw[0] == raw[1]).all(0), 1, shared).sum()
    return total / (2 * ours.shape[1])


def _edge(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel gradient magnitude and angle, -pi/2 to pi/2, zero-padded."""
    across, along = (ndimage.sobel(image, axis, mode="constant") for axis in (1, 0))
    angle = np.full(image.shape, np.pi / 2)
    angle[across != 0] = np.arctan(-along[across != 0] / across[across != 0])
    return np.hypot(across, along), angle


def _mirrored_sobel(image: np.ndarray) -> np.ndarray:
    slopes = [ndimage.sobel(image, axis, mode="mirror").ravel() for axis in (0, 1)]
    return np.stack(slopes) / 8


def _valid_mean(image: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(image, 1.5, radius=3)[3:-3, 3:-3]


def _open_gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian truncated at 31 pixels, not renormalized, with zero padding."""
    place = np.arange(-15, 16)
    kernel = np.exp(-(place**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    along = ndimage.correlate1d(image, kernel, 0, mode="constant")
    return ndimage.correlate1d(along, kernel, 1, mode="constant")


def _finite(score: float, reason: str) -> float:
    if not np.isfinite(score):
        raise UndefinedScore(reason)
    return score


PUBLISHED: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "EN": entropy,
    "SD": standard_deviation,
    "SF": spatial_frequency,
    "AG": average_gradient,
    "MI": mutual_information,
    "NMI": normalized_mutual_information,
    "QABF": edge_preservation,
    "NABF": fusion_artifacts,
    "FMI_pixel": pixel_feature_information,
    "FMI_gradient": gradient_feature_information,
    "QY": yang_similarity,
    "QCB": preserved_contrast,
    "VIF": visual_information_fidelity,
    "SCD": sum_of_correlations_of_differences,
    "CC": correlation,
    "SSIM": structural_similarity,
    "SSIM_range_2": structural_similarity_of_range_2,
}


def published(name: str, *scene: np.ndarray) -> float:
    """The score of a fused, a fixed and a moved image of 0 to 1."""
    # Rounded, so that 8-bit values are whole again: public code asks whether gradients are equal.
    return PUBLISHED[name](*(np.round(np.float64(image) * 255, 3) for image in scene))
