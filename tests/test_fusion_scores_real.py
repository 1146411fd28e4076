"""Fusion scores of real CT and MR against published values."""

import numpy as np
import pytest
from fused_scenes import SWAPPED, value, whole
from published_scores import PUBLISHED

from hybridreg.fusion_scores import SCORES, fused_pair


@pytest.fixture(scope="module")
def harvard(data) -> list[tuple[np.ndarray, np.ndarray]]:
    """CT and MR, 0 to 255, of seven slices of three people."""
    from skimage.io import imread

    folder = data / "harvard_aanlib" / "CT-MRI"
    names = ["2010", "2014", "21005", "21009", "32007", "32011", "32015"]
    return [
        tuple(imread(folder / kind / f"{name}.png").astype(np.float64) for kind in ("CT", "MRI"))
        for name in names
    ]


FUSIONS = {
    "maximum": np.maximum,
    "mean": lambda ct, mr: np.rint((ct + mr) / 2),
    "copy": lambda ct, mr: mr,
}


@pytest.mark.parametrize(
    "fusion, score, public, tolerance",
    [
        ("maximum", "QABF", 0.63, 0.06),
        ("maximum", "SSIM", 1.50, 0.06),
        ("maximum", "SCD", 1.50, 0.15),
        ("mean", "QABF", 0.37, 0.06),
        ("mean", "SSIM", 1.49, 0.06),
        ("mean", "VIF", 0.45, 0.1),
        ("copy", "QABF", 0.51, 0.08),
        ("copy", "VIF", 1.02, 0.02),
    ],
)
def test_real_pairs_score_as_the_public_pairs_do(harvard, fusion, score, public, tolerance):
    """Of 21 public pairs, other slices of the same atlas: so only about the same."""
    fuse, function = FUSIONS[fusion], PUBLISHED[score]
    found = np.mean([function(fuse(ct, mr), ct, mr) for ct, mr in harvard])
    assert found == pytest.approx(public, abs=tolerance)


def test_correcting_edge_preservation_moves_it_by_about_a_hundredth(harvard):
    """Measured on the public pairs: 0.001 to 0.013 higher."""
    for ct, mr in harvard:
        fused = np.maximum(ct, mr)
        corrected = value("QABF", fused, ct, mr, mask=whole(ct), data_range=255)
        assert 0 < corrected - PUBLISHED["QABF"](fused, ct, mr) < 0.03


def test_trivial_fusions_win_where_their_scores_are_known_to_favor_them(harvard):
    for ct, mr in harvard:
        pairs = {name: fuse(ct, mr) for name, fuse in FUSIONS.items()}
        pairs = {name: fused_pair(f, ct, mr, data_range=255) for name, f in pairs.items()}
        score = {
            key: {name: SCORES[key].function(pair) for name, pair in pairs.items()}
            for key in ("CC", "SD", *SWAPPED)
        }
        assert score["CC"]["mean"] > score["CC"]["maximum"]
        assert score["SD"]["maximum"] > score["SD"]["mean"]
        assert score["edge_recall_fixed"]["maximum"] > score["edge_recall_fixed"]["mean"]
        assert score["edge_recall_moved"]["copy"] == 1
