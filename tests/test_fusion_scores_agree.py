"""Fusion scores against their formulas and independent implementations."""

import math

import numpy as np
import pytest
from fused_scenes import head, noise, value, whole
from published_scores import PUBLISHED, published
from scipy import ndimage, signal
from skimage.metrics import structural_similarity
from sklearn.metrics import mutual_info_score

from hybridreg.fusion_scores import UndefinedScore, fusion_scores, perception


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole gray levels / 255, no background."""
    fixed, moved = (np.rint(noise(seed) * 255) / 255 for seed in (5, 6))
    return np.maximum(fixed, moved), fixed, moved


def test_mutual_information_agrees_with_scikit_learn(scene):
    fused, fixed, moved = (np.rint(image * 255).astype(int).ravel() for image in scene)
    nats = mutual_info_score(fused, fixed) + mutual_info_score(fused, moved)
    assert value("MI", *scene) == pytest.approx(nats / math.log(2), abs=1e-12)
    assert published("MI", *scene) == pytest.approx(nats, abs=1e-12)


def test_visual_information_fidelity_agrees_with_sewar(scene):
    sewar = pytest.importorskip("sewar")
    fused, fixed, moved = (np.float32(image).astype(np.float64) * 255 for image in scene)
    expected = sewar.vifp(fixed, fused) + sewar.vifp(moved, fused)
    assert value("VIF", *scene, mask=whole(fused)) == pytest.approx(expected, abs=1e-9)


def test_visual_information_fidelity_agrees_with_its_formula_at_one_scale(scene):
    fused, fixed, _ = (image * 255 for image in scene)
    place = np.arange(17) - 8
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 3.4**2))
    mean = lambda image: signal.convolve2d(image, window / window.sum(), "valid")
    variance = mean(fixed**2) - mean(fixed) ** 2
    covariance = mean(fixed * fused) - mean(fixed) * mean(fused)
    gain = covariance / variance
    rest = mean(fused**2) - mean(fused) ** 2 - gain * covariance
    rest[gain < 0] = (mean(fused**2) - mean(fused) ** 2)[gain < 0]
    gain = np.maximum(gain, 0)
    expected = np.log10(1 + gain**2 * variance / (rest + 2)).sum(), np.log10(1 + variance / 2).sum()
    scales = perception._SCALES
    try:
        perception._SCALES = (17,)
        assert perception.fidelity_sums(fixed, fused) == pytest.approx(expected)
    finally:
        perception._SCALES = scales


def test_structural_similarity_agrees_with_its_formula_and_with_scikit_image(scene):
    fused, fixed, moved = scene
    place = np.arange(11) - 5
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window /= window.sum()
    mean = lambda image: signal.convolve2d(image, window, "valid")
    expected = 0.0
    for source in (fixed, moved):
        a, b = mean(fused), mean(source)
        c1, c2 = 0.01**2, 0.03**2
        variances = mean(fused**2) - a**2 + mean(source**2) - b**2
        likeness = (2 * a * b + c1) * (2 * (mean(fused * source) - a * b) + c2)
        expected += (likeness / ((a**2 + b**2 + c1) * (variances + c2))).mean() / 2
    inner = np.zeros(fused.shape, dtype=bool)
    inner[5:-5, 5:-5] = True
    assert value("SSIM", *scene, mask=inner) == pytest.approx(expected, abs=1e-6)
    uniform = sum(
        structural_similarity(fused * 255, source * 255, data_range=255)
        for source in (fixed, moved)
    )
    assert published("SSIM", *scene) == pytest.approx(uniform, abs=1e-9)


def sobel(image: np.ndarray, border: str) -> tuple[np.ndarray, np.ndarray]:
    wide = np.pad(image, 1, mode=border)
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    across, along = (signal.correlate2d(wide, k, "valid") for k in (kernel, kernel.T))
    return np.hypot(across, along), np.arctan2(along, across)


def test_edge_preservation_agrees_with_its_formula(scene):
    (g_f, a_f), *sources = (sobel(image, "edge") for image in scene)
    kept = weight = 0.0
    for g, a in sources:
        ratio = np.minimum(g, g_f) / np.maximum(g, g_f)
        turn = np.abs(a - a_f) % np.pi
        alignment = 1 - np.minimum(turn, np.pi - turn) / (np.pi / 2)
        quality = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
        quality *= 0.9879 / (1 + np.exp(-22 * (alignment - 0.8)))
        kept, weight = kept + (quality * g).sum(), weight + g.sum()
    assert value("QABF", *scene) == pytest.approx(kept / weight, abs=1e-6)


@pytest.mark.parametrize("border, least", [("edge", 0.001), ("reflect", 0.0)])
def test_fusion_artifacts_agree_with_their_formula(scene, border, least):
    images = (np.rint(np.clip(scene[0] * 330 - 25, 0, 255)), scene[1] * 255, scene[2] * 255)
    (g_f, a_f), *sources = (sobel(image, border) for image in images)
    lost = weights = 0.0
    for g, a in sources:
        ratio = np.minimum(g, g_f) / np.maximum(np.maximum(g, g_f), 1e-9)
        # Kumar's wrapping of angles of arctan.
        turn = np.abs(np.arctan(np.tan(a)) - np.arctan(np.tan(a_f)))
        alignment = np.abs(turn - np.pi / 2) * 2 / np.pi
        quality = 0.9999 / (1 + np.exp(-19 * (ratio - 0.5)))
        quality = np.sqrt(quality * 0.9995 / (1 + np.exp(-22 * (alignment - 0.5))))
        weight = np.where(g >= 2, g**1.5, least)
        stronger = (g_f > sources[0][0]) & (g_f > sources[1][0])
        lost, weights = lost + ((1 - quality) * weight)[stronger].sum(), weights + weight.sum()
    found = PUBLISHED["NABF"](*images) if least == 0 else value("NABF", *images, data_range=255)
    assert found == pytest.approx(lost / weights, rel=1e-6)
    assert found > 0.005


def window_information(first: np.ndarray, second: np.ndarray, limit: float = 1.0) -> float:
    """FMI of two 3x3 windows, cell by cell as in Haghighat and Razian 2014."""
    p, q = ((w - w.min()) / np.ptp(w) for w in (first.T.ravel(), second.T.ravel()))
    p, q = p / p.sum(), q / q.sum()
    P, Q = (np.concatenate([[0], np.cumsum(mass)]) for mass in (p, q))
    r = np.corrcoef(p, q)[0, 1]
    place = np.arange(1, 10)
    spread = [np.sqrt(mass @ place**2 - (mass @ place) ** 2) for mass in (p, q)]
    bound = np.array([[min(a, b) if r >= 0 else max(a + b - 1, 0) for b in Q] for a in P])
    weight = min(r * spread[0] * spread[1] / (bound - np.outer(P, Q)).sum(), limit)
    joint = weight * np.diff(np.diff(bound, axis=0), axis=1) + (1 - weight) * np.outer(p, q)
    entropy = lambda mass: -(mass * np.log2(np.abs(mass) + 1e-300)).sum()
    return 2 * (entropy(p) + entropy(q) - entropy(joint)) / (entropy(p) + entropy(q))


@pytest.mark.parametrize("limit", [1.0, math.inf])
def test_feature_information_agrees_with_windows_taken_one_by_one(limit):
    fixed, moved = (noise(seed, (14, 15), sigma=0.6) for seed in (8, 9))
    fused = 0.8 * fixed + 0.2 * moved
    corners = [(i, j) for i in range(12) for j in range(13)]
    expected = np.mean([
        window_information(fused[i : i + 3, j : j + 3], source[i : i + 3, j : j + 3], limit)
        for source in (fixed, moved) for i, j in corners
    ])  # fmt: skip
    if limit == 1:
        assert value("FMI_pixel", fused, fixed, moved) == pytest.approx(expected, abs=1e-5)
    else:
        found = PUBLISHED["FMI_pixel"](fused * 255, fixed * 255, moved * 255)
        assert found == pytest.approx(expected, abs=1e-5)
        assert abs(found - value("FMI_pixel", fused, fixed, moved)) > 1e-3


def test_published_edge_preservation_agrees_with_public_code():
    fixed, moved = (image * 255 for image in head())
    fused = np.rint(np.clip(np.maximum(fixed, moved) * 1.2, 0, 255))
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kept = weight = 0.0
    zero = []
    for image in (fused, fixed, moved):  # true convolutions with zeros around, rows counted upward
        across, along = (
            signal.convolve2d(image, k, "same") for k in (kernel, -kernel.T.astype(float))
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            angle = np.where(across == 0, np.pi / 2, np.arctan(along / across))
        zero.append((np.sqrt(across**2 + along**2), angle))
    g_f, a_f = zero[0]
    for g, a in zero[1:]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.where(g == g_f, g_f, np.where(g > g_f, g_f / g, g / g_f))
            quality = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
        quality *= 0.9879 / (1 + np.exp(-22 * (1 - np.abs(a - a_f) / (np.pi / 2) - 0.8)))
        kept, weight = kept + (quality * g).sum(), weight + g.sum()
    assert PUBLISHED["QABF"](fused, fixed, moved) == pytest.approx(kept / weight, abs=1e-6)


def test_yang_similarity_agrees_with_its_formula(scene):
    fused, fixed, moved = scene
    place = np.arange(7) - 3
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window /= window.sum()
    mean = lambda image: signal.convolve2d(image, window, "valid")
    variance = lambda image: mean(image**2) - mean(image) ** 2

    def likeness(a, b):
        covariance = mean(a * b) - mean(a) * mean(b)
        luminance = 2 * mean(a) * mean(b) / (mean(a) ** 2 + mean(b) ** 2)
        return luminance * 2 * covariance / (variance(a) + variance(b))

    weight = variance(fixed) / (variance(fixed) + variance(moved))
    near, other = likeness(fused, fixed), likeness(fused, moved)
    both = weight * near + (1 - weight) * other
    expected = np.where(likeness(fixed, moved) >= 0.75, both, np.maximum(near, other)).mean()
    inner = np.zeros(fused.shape, dtype=bool)
    inner[3:-3, 3:-3] = True
    assert value("QY", *scene, mask=inner) == pytest.approx(expected, abs=1e-5)
    assert published("QY", *scene) == pytest.approx(expected, abs=1e-6)


def published_contrast(image: np.ndarray) -> np.ndarray:
    """As the MATLAB code of Q_CB has it, with explicit 31x31 kernels."""
    stretched = np.rint((image - image.min()) / np.ptp(image) * 255)
    rows, columns = (n / 30 * np.linspace(-1, 1 - 2 / n, n) for n in image.shape)  # freqspace
    radius = np.hypot(rows[:, None], columns)
    passed = np.exp(-((radius / 15.3870) ** 2)) - 0.7622 * np.exp(-((radius / 1.3456) ** 2))
    spectrum = np.fft.fftshift(np.fft.fft2(stretched))
    seen = np.fft.ifft2(np.fft.ifftshift(spectrum * passed)).real
    place = np.arange(31) - 15
    distance = place[:, None] ** 2 + place**2
    fine, coarse = (
        signal.convolve2d(seen, np.exp(-distance / (2 * s**2)) / (2 * np.pi * s**2), "same")
        for s in (2, 4)
    )
    size = np.abs(fine / coarse - 1)
    return size**3 / (size**2 + 1e-4)


def test_published_contrast_agrees_with_its_matlab_code(scene):
    fused, fixed, moved = (published_contrast(image) for image in scene)
    kept = [np.minimum(s, fused) / np.maximum(s, fused) for s in (fixed, moved)]
    weight = fixed**2 / (fixed**2 + moved**2)
    expected = (weight * kept[0] + (1 - weight) * kept[1]).mean()
    assert published("QCB", *scene) == pytest.approx(expected, abs=1e-6)


def test_preserved_contrast_agrees_with_the_published_form_where_neither_reaches_a_border():
    """At 256x256 both see 15 degrees; images that span 0 to 255 are not stretched."""
    fixed, moved = (np.rint(255 * noise(seed, (256, 256))) / 255 for seed in (5, 6))
    for image in (fixed, moved):
        image[0, 0], image[0, 1] = 0, 1
    fused = np.maximum(fixed, moved)
    inner = np.zeros((256, 256), dtype=bool)
    inner[40:-40, 40:-40] = True
    contrasts = (published_contrast(image) for image in (fused, fixed, moved))
    kept = perception.contrast_map(*contrasts)[inner].mean()
    # Kernels of 31 pixels cut off 4e-4 of the wide Gaussian.
    assert value("QCB", fused, fixed, moved, mask=inner) == pytest.approx(kept, abs=1e-4)


def test_preserved_contrast_orders_fusions_and_ignores_a_common_scale(scene):
    fused, fixed, moved = scene
    best, same, worst = (
        value("QCB", image, fixed, moved)
        for image in (fused, fused * 0.5, ndimage.gaussian_filter(fused, 4))
    )
    assert best > worst + 0.05
    # Contrast is relative to the local mean; only the floor of one gray level is not.
    assert same == pytest.approx(best, abs=1e-3)


def test_scores_of_public_code_are_of_whole_images():
    fixed, moved = head()
    scene = np.maximum(fixed, moved), fixed, moved
    with pytest.raises(UndefinedScore, match="0 / 0"):
        published("QY", *scene)
    whole_image = fusion_scores(*scene, mask=whole(fixed)).values
    factors = dict.fromkeys(["SD", "SF", "AG"], 255)  # gray levels
    for name in ("EN", "SD", "SF", "AG", "VIF", "SCD", "CC", "NMI"):
        expected = factors.get(name, 1) * whole_image[name]
        assert published(name, *scene) == pytest.approx(expected, rel=1e-5), name
